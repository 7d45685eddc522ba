"""How far jobs are: the file that they write, and `blip status`."""

import json
import time

import pytest
from PIL import Image

from blip_core.capfilt import capfilt
from blip_core.cli import main
from blip_core.datasets import open_dataset
from blip_core.files import read_json, write_json
from blip_core.jobs import progress
from blip_core.jobs.progress import Progress, progress_folder, read_progress
from blip_core.jobs.sharding import Share
from tests.helpers.capfilt_kills import NoModels


def look(path, capsys, *options, code=0):
    assert main(["status", str(path), "--json", *options]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("place", ["folder", "folder/results.json", "s3://photos/out", "s3://photos/results.json"])
def test_a_job_can_be_looked_at_while_it_runs(tmp_path, store, capsys, place):
    path = place if "://" in place else tmp_path / place
    with Progress("caption", 10, path, done=2, name="1/4", problems=lambda: 3) as job:
        time.sleep(0.02)
        job.step(4, "machine:1")
        job.step(0, "machine:2")
        job.stage("write", 5, "shard", done=1)
        (found,) = look(path, capsys)[0]["jobs"]
        assert {"command": "caption", "stage": "write", "unit": "shard", "total": 5, "done": 1}.items() <= found.items()
        assert (found["problems"], found["workers"], found["state"]) == (3, 2, "working")
        assert [path.name for path in progress_folder(path).iterdir()] == ["1-of-4.json"]
        assert main(["status", str(path)]) == 0
        said = capsys.readouterr().out
        assert "caption, write: at work" in said
        assert "done      1 of 5 shards (20.0%)" in said
    assert read_progress(progress_folder(path)) == {}
    assert not progress_folder(path).exists()


def test_rate_and_time_left_follow_from_the_last_minute():
    job = Progress("train", 100, done=50, unit="step", show=False)
    job._samples[0] = (job._samples[0][0] - 10, 50)
    job.step(20)
    facts = job.facts()
    assert (facts["done"], facts["before"]) == (70, 50)
    assert facts["rate"] == pytest.approx(2, rel=0.05)
    assert facts["left"] == pytest.approx(15, rel=0.05)
    job._samples.append((job._samples[0][0] - 9 + progress.WINDOW, 70))
    assert Progress("train", 100).facts()["left"] is None


def test_a_job_that_failed_or_was_killed_is_told_until_the_next_begins(tmp_path, capsys):
    def fail():
        with Progress("capfilt", 10, tmp_path):
            raise OSError("the disk is\nfull")

    with pytest.raises(OSError, match="full"):
        fail()
    assert main(["status", str(tmp_path)]) == 1
    assert "ago: the disk is full" in capsys.readouterr().out
    file = progress_folder(tmp_path) / "1-of-1.json"
    write_json(file, {**read_json(file), "state": "working", "updated": time.time() - 1000})
    assert look(tmp_path, capsys, "--follow", code=1)[0]["jobs"][0]["state"] == "silent"
    with Progress("capfilt", 10, tmp_path, name="2/2"):
        assert [path.name for path in progress_folder(tmp_path).iterdir()] == ["2-of-2.json"]
    assert look(tmp_path, capsys)[0]["jobs"] == []


def test_what_is_written_and_said_meanwhile(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setattr(progress, "EVENTS", 0.0)
    with Progress("evaluate", 10, tmp_path / "a.json", events=True) as job:
        job.step(3)
        while "\n" not in (said := capsys.readouterr().err):
            time.sleep(0.01)
        event = json.loads(said.splitlines()[0])
        assert {"event": "progress", "command": "evaluate", "done": 3, "total": 10}.items() <= event.items()
        assert read_progress(progress_folder(tmp_path / "a.json"))["1-of-1.json"]["done"] == 3


def test_files_of_progress_are_not_trusted(tmp_path, capsys):
    write_json(tmp_path / ".progress/a.json", {"command": "capfilt", "done": "many"})
    assert main(["status", str(tmp_path)]) == 1
    assert f"{tmp_path}/.progress/a.json is damaged; remove it." in capsys.readouterr().err
    assert main(["status", str(tmp_path / "none")]) == 1
    assert "does not exist, and no job has begun to write it" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / ".progress").write_text("a file")
    with Progress("caption", 2, tmp_path) as job:
        job.step(2)


def test_capfilt_says_how_far_it_is(tmp_path, capsys):
    lines = []
    for number in range(6):
        Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": "a"}))
    (tmp_path / "5.png").write_bytes(b"broken")
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    seen = []

    class Looking(NoModels):
        def __call__(self, pictures, captions):
            (found,) = look(tmp_path / "out", capsys)[0]["jobs"]
            seen.append(found)
            return super().__call__(pictures, captions)

    dataset = open_dataset(tmp_path / "data.jsonl", "caption")
    options = {"shard_size": 2, "batch_size": 2}
    assert capfilt(dataset, Looking(), tmp_path / "out", share=Share(1, 2), **options).missing == 1
    capfilt(dataset, Looking(), tmp_path / "out", **options)
    assert [(found["done"], found["before"], found["total"]) for found in seen] == [(0, 0, 4), (0, 0, 4), (4, 4, 6)]
    assert look(tmp_path / "out", capsys)[0]["jobs"] == []
    assert not (tmp_path / "out/.progress").exists()
