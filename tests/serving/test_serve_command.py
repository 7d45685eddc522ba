"""`blip serve`: which models it takes, its key, its port, and a stop that loses no request."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import uvicorn  # noqa: F401  # skipped as a whole without it

from blip_core.cli import main, serve
from blip_core.cli.parser import CommandParser
from blip_core.serving import Settings

ROOT = Path(__file__).parents[2]


def arguments(*words):
    parser = CommandParser(prog="blip serve")
    serve.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def refused(capsys, *words):
    """The line of an error."""
    assert main(["serve", *map(str, words)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return line


@pytest.mark.needs("pt")
def test_a_model_has_the_heads_that_its_checkpoint_has(checkpoints, folder, tmp_path):
    models = serve.load_models(arguments("--model", checkpoints / "captioner", "--engine", "pt"))
    assert (models.captioner is not None, models.answerer, models.matcher) == (True, None, None)
    words = ("--model", checkpoints / "captioner", "--matcher", checkpoints / "matcher", "--engine", "pt")
    models = serve.load_models(arguments(*words))
    assert (models.captioner is not None, models.answerer, models.matcher is not None) == (True, None, True)
    assert models.about.startswith("captioner, matcher: ")
    models = serve.load_models(arguments("--engine", "pt"))  # the one in the package has them all
    assert None not in (models.captioner, models.answerer, models.matcher)
    assert "emoji" in models.about


@pytest.mark.needs("pt")
def test_what_cannot_be_served_is_said_in_one_line(checkpoints, tmp_path, capsys):
    free = ("--port", "0", "--engine", "pt")
    wrong = refused(capsys, *free, "--answerer", checkpoints / "captioner")
    assert "--answerer does not fit this command" in wrong
    assert "There is no file or folder" in refused(capsys, *free, "--model", tmp_path / "missing")
    needs = refused(capsys, *free, "--captioner", checkpoints / "captioner", "--search-index", tmp_path)
    assert "--search-index needs a model that matches" in needs
    words = (*free, "--matcher", checkpoints / "matcher", "--search-index", tmp_path)
    assert "is no index of pictures; make one with blip search --index" in refused(capsys, *words)


def test_a_port_in_use_and_a_host_elsewhere_are_said_in_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(capsys, "--port", port).endswith(
            f"Port {port} of 127.0.0.1 is in use; take another with --port."
        )
    assert "--host 300.1.1.1 is no address of this machine" in refused(capsys, "--host", "300.1.1.1", "--port", "0")
    assert "cannot be opened" in refused(capsys, "--host", "192.0.2.1", "--port", "0")


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv("BLIP_KEY", "from the environment")
    assert serve.settings_of(arguments("--api-key", tmp_path / "key"), ()).api_key == "from a file"
    assert serve.settings_of(arguments("--api-key", "env:BLIP_KEY"), ()).api_key == "from the environment"
    with pytest.raises(ValueError, match="there is no variable NOTHING"):
        serve.read_key("env:NOTHING")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="the key is empty"):
        serve.read_key(str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError):
        serve.read_key("open sesame")  # a key itself, which the list of processes would show


def test_limits_are_options(monkeypatch):
    settings = serve.settings_of(arguments("--max-body", "2", "--queue", "3", "--cors", "https://a.example"), ("x",))
    assert (settings.body_bytes, settings.queue) == (2 * 2**20, 3)
    assert (settings.cors, settings.hosts) == (("https://a.example",), ("x",))
    assert serve.settings_of(arguments(), ()) == Settings()


@pytest.mark.needs("pt")
def test_a_stop_in_the_middle_of_requests_loses_none(checkpoints, files):
    command = [sys.executable, "-m", "blip_core.cli", "serve", "--port", "0", "--engine", "pt", "--batch-size", "1"]
    command += ["--captioner", str(checkpoints / "captioner")]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    try:
        lines = iter(process.stderr.readline, "")
        port = int(next(found[1] for line in lines if (found := re.search(r"127\.0\.0\.1:(\d+)", line))))
        body = json.dumps({"image": base64.b64encode(files[0]).decode(), "num_beams": 4})
        connections, answers = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(8)], []
        for connection in connections:
            connection.request("POST", "/v1/caption", body, {"Content-Type": "application/json"})
        first = connections[0].getresponse()  # the others are in work or waiting
        process.send_signal(signal.SIGTERM)
        threads = [threading.Thread(target=lambda c=c: answers.append(c.getresponse().status)) for c in connections[1:]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [first.status, *answers] == [200] * 8
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
