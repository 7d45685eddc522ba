"""`blip capfilt` on input that is broken, or that changes while it is read."""

import errno
import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from blip_core.capfilt import capfilt, output_folder, writers
from blip_core.datasets import open_dataset
from blip_core.jobs.progress import PROGRESS
from tests.helpers.capfilt_runs import contents, lines, load
from tests.helpers.frameworks import INSTALLED
from tests.helpers.published_forms import img2dataset, karpathy

WAYS = {
    "truncated": "not a picture that can be read whole",
    "zero bytes": "not a picture that can be read whole: its format is not known",
    "wrong type": "not a picture that can be read whole: its format is not known",
    "bomb": "too large",
    "1x1": "1 x 1 pixels",
    "missing": "does not exist",
    "empty caption": "has no words",
    "not UTF-8": "is not UTF-8",
    "10,000 words": "a caption of 19,999 characters, more than 10,000",
}
TOO_LONG = " ".join(["w"] * 10_000)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A thousand pictures, a tenth of them broken; returns the file of JSON lines, and for each broken one the way."""
    root, noise = tmp_path_factory.mktemp("thousand"), np.random.default_rng(6)
    bomb, dot = png(Image.new("1", (20_000, 20_000))), png(Image.new("RGB", (1, 1)))
    written, broken = [], {}
    for number in range(1000):
        data = png(Image.fromarray(noise.integers(0, 256, (12, 12, 3), np.uint8)))
        way = list(WAYS)[number // 10 % len(WAYS)] if number % 10 == 7 else ""
        caption = {"empty caption": " ", "10,000 words": TOO_LONG, "not UTF-8": "caf?"}.get(way, f"picture {number}")
        other = {"truncated": data[: len(data) // 2], "zero bytes": b"", "bomb": bomb, "1x1": dot}
        if way != "missing":
            (root / f"{number}.png").write_bytes(
                b"%PDF-1.7 no picture" if way == "wrong type" else other.get(way, data)
            )
        line = json.dumps({"image": f"{number}.png", "caption": caption}).encode()
        written.append(line.replace(b"caf?", b"caf\xe9"))
        if way:
            broken[number] = way
    (root / "data.jsonl").write_bytes(b"\n".join(written))
    return root / "data.jsonl", broken


def test_a_tenth_of_a_thousand_pictures_is_broken(blip, thousand, tmp_path):
    data, broken = thousand
    options = ("--json", "--threshold", "0", "--batch-size", "100", "--shard-size", "300", "--beams", "1")
    code, counts, err = blip(data, tmp_path / "out", *options)
    assert code == 1
    problems = {problem["input"]: problem["error"] for problem in counts["problems"]}
    assert len(counts["problems"]) == len(broken) == 100
    for number, way in broken.items():  # by the picture where there is one, else by the line
        where = next(w for w in (str(data.parent / f"{number}.png"), f"data.jsonl:{number + 1}") if w in problems)
        assert WAYS[way] in problems[where], way
        assert where in err
        assert problems[where] in err
    kept = [line["key"] for line in lines(tmp_path / "out", "kept")]
    assert kept == [f"data.jsonl:{number + 1}" for number in range(1000) if number not in broken]


@pytest.fixture(params=["tar", "parquet"])
def shard(request, pictures, tmp_path):
    """Ten pictures in a file."""
    path, names = tmp_path / f"data.{request.param}", [f"{number}.png" for number in range(10)]
    if request.param == "tar":
        with tarfile.open(path, "w") as tar:
            for name in names:
                tar.add(pictures / name, name)
                caption = tarfile.TarInfo(name.replace("png", "txt"))
                caption.size = 5
                tar.addfile(caption, io.BytesIO(b"a dog"))
    else:
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        table = pa.table({"image": [(pictures / name).read_bytes() for name in names], "caption": ["a dog"] * 10})
        pq.write_table(table, path)
    return path


def test_a_shard_changes_while_it_is_read(blip, shard, tmp_path, monkeypatch):
    options = ("--shard-size", "3", "--batch-size", "1")
    assert blip(shard, tmp_path / "whole", *options)[0] == 0
    before, write = shard.read_bytes(), output_folder.OutputFolder.write_scored

    def write_and_change(self, *arguments):
        write(self, *arguments)
        shard.write_bytes(before + bytes(512))

    monkeypatch.setattr(output_folder.OutputFolder, "write_scored", write_and_change)
    code, out, err = blip(shard, tmp_path / "out", *options)
    assert (code, out) == (1, "")
    assert f"{shard} changed while it was read; restore it" in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in (tmp_path / "out/scored").iterdir()] == ["00000.jsonl"]
    monkeypatch.undo()
    shard.write_bytes(before)
    assert blip(shard, tmp_path / "out", *options)[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_a_picture_changes_after_it_was_captioned(blip, pictures, tmp_path, to):
    for number in range(6):
        shutil.copy(pictures / f"{number}.png", tmp_path)
    entries = [{"image": f"{number}.png", "caption": "a dog"} for number in range(6)]
    (tmp_path / "data.json").write_text(json.dumps(entries))
    options = ("--shard-size", "3", "--threshold", "0", "--to", to)
    assert blip(tmp_path / "data.json", tmp_path / "whole", *options)[0] == 0
    assert blip(tmp_path / "data.json", tmp_path / "out", *options, "--shards", "1/2")[0] == 0
    for change, said in (
        (lambda: shutil.copy(pictures / "9.png", tmp_path / "1.png"), "1.png changed after it was captioned"),
        ((tmp_path / "1.png").unlink, "the picture"),
    ):
        change()
        code, _, err = blip(tmp_path / "data.json", tmp_path / "out", *options)
        assert code == 1
        assert said in err or "holds another run" in err  # one that is missing is no part of the input any more
        assert len(err.splitlines()) == 1
        assert not list((tmp_path / "out/kept").glob("0*"))
    shutil.copy(pictures / "1.png", tmp_path)
    assert blip(tmp_path / "data.json", tmp_path / "out", *options)[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("to", writers.FORMS)
def test_the_disk_is_full_at_every_moment(models, pictures, tmp_path, monkeypatch, to):
    loaded, dataset = load(models, INSTALLED[0]), open_dataset(pictures / "data.jsonl", "caption")
    options = {"shard_size": 5, "to": to, "threshold": 0}
    capfilt(dataset, loaded, tmp_path / "whole", **options)
    replace, rows, left = os.replace, writers._with_pictures, 0

    def count(path=""):
        nonlocal left
        left -= PROGRESS not in str(path)  # which does without its file
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", lambda *names: (count(names[1]), replace(*names)))
    monkeypatch.setattr(writers, "_with_pictures", lambda *shard: (count() or row for row in rows(*shard)))
    for moment in range(1, 100):
        left = moment
        try:
            capfilt(dataset, loaded, tmp_path / str(moment), **options)
            break
        except OSError as error:
            assert "cannot be written: No space left on device. Make room" in str(error)  # noqa: PT017
        assert {path.name for path in (tmp_path / str(moment)).rglob(".*")} <= {PROGRESS}
        capfilt(dataset, loaded, tmp_path / str(moment), **options)
        assert contents(tmp_path / str(moment)) == contents(tmp_path / "whole")
    assert moment > 2 + 3 * 3 + 2 + (0 if to == "jsonl" else 10)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), "0.5"])
def test_thresholds_that_are_none_in_python(pictures, tmp_path, threshold):
    dataset = open_dataset(pictures / "data.jsonl", "caption")
    with pytest.raises(ValueError, match="threshold must be a number from 0 to 1, got"):
        capfilt(dataset, None, tmp_path / "out", threshold=threshold)
    with pytest.raises(ValueError, match="to must be one of jsonl, parquet, webdataset, got 'csv'"):
        capfilt(dataset, None, tmp_path / "out", to="csv")
    assert not (tmp_path / "out").exists()


def test_published_data_are_read_as_they_are(blip, tmp_path):
    arguments = ("--split", "test", "--threshold", "0", "--json")
    code, counts, _ = blip(karpathy(tmp_path / "data"), tmp_path / "out", *arguments)
    assert (code, counts["pictures"]) == (0, {"kept": 3})
    code, counts, _ = blip(img2dataset(tmp_path / "web"), tmp_path / "shards", "--threshold", "0", "--json")
    assert (code, counts["pictures"]) == (0, {"kept": 3})
