"""Every Python and console block of README, Start and Tutorials runs, and prints what the page says.

They run in a folder that has what the pages assume: the names of published models are there, and mean the model in the
package; so are a picture `photo.jpg`, folders and data, all of drawings of emoji. What a page prints with a published
model is not shown, so that nothing is compared then but that the block runs and prints something.

A block of the language `output` is what the Python block before it prints; lines of a console block without `$ ` are
what the command before them prints. `...` stands for anything. Of `pip install` and `make` only the extras and targets
are looked up. A command that ends with `&` runs until the page ends.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from glob import glob
from pathlib import Path
from urllib.request import urlopen

import pytest
from PIL import Image
from sybil import Document
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from blip_core.cli import main as blip
from blip_core.hub import SHIPPED
from conversion import convert

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md"]
PAGES += [path for part in ("start", "tutorials") for path in sorted((ROOT / "docs" / part).glob("*.md"))]
EMOJI = ROOT / "tests" / "data" / "emoji"
PUBLISHED = ("image-captioning-base", "vqa-base", "itm-base-coco")
NAMES = {"1f98a.png": "fox", "1f433.png": "spouting whale", "1f355.png": "pizza", "2615.png": "hot beverage"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
CHECK = doctest.OutputChecker()
PROCESSES = {}  # of each page that runs: what it has started


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """What the pages assume to be there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("Salesforce").mkdir()
    for name in PUBLISHED:
        Path("Salesforce", f"blip-{name}").symlink_to(SHIPPED)
    fox = Image.open(EMOJI / "1f98a.png").convert("RGBA")
    Image.alpha_composite(Image.new("RGBA", fox.size, "white"), fox).convert("RGB").save("photo.jpg")
    for copy in ("receipt.jpg", "receipts/1.jpg"):
        Path(copy).parent.mkdir(exist_ok=True)
        shutil.copy("photo.jpg", copy)
    shutil.copy(EMOJI / "1f98a.png", "fox.png")
    for folder in ("photos", "own", "held-out", ".demo/pictures"):
        Path(folder).mkdir(parents=True)
        for file, name in NAMES.items():
            shutil.copy(EMOJI / file, folder)
            if folder in ("own", "held-out"):
                Path(folder, file).with_suffix(".txt").write_text(name)
    pairs = [{"image": str(Path("photos", file).absolute()), "caption": name} for file, name in NAMES.items()]
    Path("web.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    Path("kinds.txt").write_text("receipt\nletter\nphotograph\n")
    convert(SHIPPED, "model_base_caption_capfilt_large.pth", head="BlipForConditionalGeneration")
    return tmp_path


class Recorder(io.TextIOWrapper):
    """A stream that keeps what is printed."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        return self.buffer.getvalue().decode()


def agrees(want: str, got: str, where: str) -> None:
    """Compare what a page says with what came; a page that says nothing wants anything but nothing."""
    if want:
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert CHECK.check_output(want, got, options), f"{where} prints\n{got}\nand not\n{want}"


def run_python(example):
    printed = Recorder()
    with contextlib.redirect_stdout(printed):
        PythonEvaluator()(example)
    example.namespace["printed"] = printed.text()
    assert printed.text() or "print(" not in example.parsed, f"{example.path}:{example.line} prints nothing"


def compare_output(example):
    agrees(example.parsed, example.namespace["printed"], f"{example.path}:{example.line}")


def run_console(example):
    for part in re.split(r"^\$ ", example.parsed.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, _, want = part.partition("\n")
        where = f"{example.path}:{example.line} {command}"
        words = shlex.split(command, comments=True)
        if words[0] == "pip":
            for extra in re.findall(r"\[([\w,]+)\]", command):
                assert set(extra.split(",")) <= EXTRAS.keys(), where
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), where
        elif words[-1] == "&":
            start(words[:-1], example.path)
        elif words[0] == "blip":
            agrees(want, run_blip(words[1:], command, where), where)
        else:
            done = subprocess.run(shlex.join(words), shell=True, text=True, capture_output=True, timeout=120)
            assert done.returncode == 0, f"{where}: {done.stderr}"
            agrees(want, done.stdout, where)


def run_blip(words: list[str], command: str, where: str) -> str:
    """Run a command as a shell does that opens patterns without quotes; return what it prints."""
    opened = [name for word in words for name in ((glob(word) if f"'{word}'" not in command else []) or [word])]
    printed, errors = Recorder(), Recorder()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            code = blip(opened)
        except SystemExit as end:
            code = end.code
    assert code == 0, f"{where}: {printed.text()}{errors.text()}"
    return printed.text()


def start(words: list[str], page: str) -> None:
    """Start a server and wait until it answers."""
    port = words[words.index("--port") + 1] if "--port" in words else "7860"
    words = [sys.executable, "-m", "blip_core.cli", *words[1:]]
    server = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    PROCESSES.setdefault(page, []).append(server)
    end = time.monotonic() + 300
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urlopen(f"http://localhost:{port}/readyz", timeout=5):
            return
        time.sleep(0.5)
    raise AssertionError(f"{words} does not answer: {server.poll()}")


PARSERS = (
    CodeBlockParser("python", run_python), CodeBlockParser("output", compare_output),
    CodeBlockParser("console", run_console),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.needs("pt", "tf")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix())
def test_blocks_of_a_page_run(path, workplace):
    examples = Document.parse(str(path), *PARSERS).examples()
    try:
        for example in examples:
            example.evaluate()
    finally:
        for server in PROCESSES.pop(str(path), []):
            server.terminate()
            server.communicate(timeout=60)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix())
def test_every_block_has_a_language(path):
    fences = re.findall(r"^```(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) <= {"python", "console", "output", "text"}


def test_abbreviations_stand_in_the_glossary():
    glossary = (ROOT / "docs" / "start" / "glossary.md").read_text(encoding="utf-8")
    known = set(re.findall(r"\w+", " ".join(re.findall(r"\*\*(.+?)\*\*", glossary))))
    for path in PAGES[1:]:
        prose = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)|BSD-3-Clause", "", prose)
        used = {word.rstrip("0123456789") for word in re.findall(r"\b[A-Z][A-Z0-9]+\b", prose)}
        assert {word for word in used if len(word) > 1} <= known, path
