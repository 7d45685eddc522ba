"""Every long job can be looked at while it runs: what `blip status` says of each, and that nothing of it stays."""

import json
from pathlib import Path

import pytest

from blip_core.cli import main
from blip_core.hub import SHIPPED
from blip_core.jobs.progress import Progress, progress_folder, read_progress
from tests.helpers.frameworks import INSTALLED, require


@pytest.fixture
def looks(monkeypatch):
    """What the file of progress says after each step of a job, as `blip status` reads it."""
    found = []

    def step(self, *arguments, step=Progress.step):
        step(self, *arguments)
        self._write()
        if self.place is not None:
            found.extend(read_progress(self.place).values())

    monkeypatch.setattr(Progress, "step", step)
    return found


def check(looks, place, command, unit, total, problems):
    assert {(look["command"], look["unit"], look["total"]) for look in looks} == {(command, unit, total)}
    done = [look["done"] for look in looks]
    assert done == sorted(done)
    assert done[-1] == total
    assert looks[-1]["problems"] == problems
    assert looks[-1]["bytes"] > 0
    assert not progress_folder(Path(place)).exists()
    assert main(["status", place]) == 0


@pytest.mark.parametrize("output", ["out", "out.jsonl"])
def test_captions(blip, pictures, looks, output):
    blip("caption", *pictures, "bad.jpg", "--output", output, "--batch-size", "2")
    check(looks, output, "caption", "picture", 4, 1)


def test_search(blip, models, pictures, looks):
    blip("search", "a dog", ".", "--index", "index", "--rerank", "0", model=models / "match")
    check(looks, "index", "search", "picture", 4, 1)


def test_evaluation(blip, models, pictures, looks):
    rows = [{"image": name, "caption": "a colour"} for name in (*pictures, "bad.jpg")]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["evaluate", "caption", "--data", "data.jsonl", "--output", "result.json", "--batch-size", "2"]
    assert main([*words, "--model", str(models / "caption")]) == 1
    check(looks, "result.json", "evaluate caption", "picture", 4, 1)


def test_training(pictures, looks):
    require(INSTALLED[0])
    rows = [{"image": name, "caption": f"{name} is a colour"} for name in pictures]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "caption", "--data", "data.jsonl", "--model", str(SHIPPED), "--output", "out"]
    assert main([*words, "--recipe", "caption", "--epochs", "1", "--batch-size", "1", "--engine", INSTALLED[0]]) == 0
    check(looks, "out", "train", "step", 3, 0)
