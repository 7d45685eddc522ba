"""What docs/serve.md shows to type works: the clients in Python and in curl, and the application in Python."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
import uvicorn  # noqa: F401  # skipped as a whole without it

from blip_core import Captioner
from tests.helpers.served import ROOT, served

pytestmark = [pytest.mark.slow, pytest.mark.needs("pt")]
FOX = ROOT / "tests" / "data" / "emoji" / "1f98a.png"
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


@pytest.fixture
def fox(tmp_path, monkeypatch):
    """A folder with photo.jpg, where commands run."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.open(FOX).convert("RGB").save("photo.jpg")
    return tmp_path / "photo.jpg"


def test_the_clients_of_the_documentation(fox, capsys):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    captioner = Captioner.from_pretrained(engine="pt")
    beams = captioner(fox, num_beams=3).text
    with served() as address:
        (code,) = re.findall(r"```python\n(import base64.*?)```", PAGE, re.DOTALL)
        exec(code.replace("http://localhost:7860", address), {})
        caption, matches = capsys.readouterr().out.splitlines()
        assert caption == beams
        assert "a dog" in matches
        lines = [line.partition("   #")[0] for line in re.findall(r"^curl .*$", PAGE, re.MULTILINE)]
        asked = [shlex.split(line.replace("localhost:7860", address)) for line in lines]
        first, second, third = (
            subprocess.run([*words, "-s", "-S", "--fail-with-body"], capture_output=True, text=True, check=True).stdout
            for words in asked
        )
        assert json.loads(first)["caption"] == beams
        assert {one["answer"] for one in json.loads(second)["choices"]} == {"day", "night"}
        events = re.findall("event: (.*)\ndata: (.*)\n", third)
        assert json.loads(events[-1][1])["caption"] == captioner(fox).text


def test_the_application_of_the_documentation():
    from starlette.testclient import TestClient

    (code,) = re.findall(r"```python\n(from blip_core import Captioner\nfrom blip_core.serving.*?)```", PAGE, re.DOTALL)
    values = {}
    exec(code, values)
    with TestClient(values["app"]) as client:
        answer = client.post("/v1/caption", files={"image": ("a.png", FOX.read_bytes())})
    assert answer.json()["caption"] == Captioner.from_pretrained()(FOX).text
