"""Data that cannot be used, as the command line tells of them: one sentence each, and exit code 1."""

import json
import sys

import pytest

from blip_core.cli import main
from blip_core.hub import SHIPPED
from tests.helpers.data_files import write_tar
from tests.helpers.published_forms import coco, flat, karpathy


def told(capsys, *words):
    """What a command says when it ends with exit code 1."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_bucket_without_permission(store, tmp_path, capsys, method):
    shard = write_tar(tmp_path / "a.tar", {"a.png": flat("red"), "a.txt": b"red"})
    store.put("web/a.tar", shard.read_bytes())
    if method == "GET":
        for asked in ("GET", "HEAD"):
            store.fail("forbidden", "a.tar", times=100, method=asked)
        said = told(capsys, "evaluate", "caption", "--data", "s3://photos/web/a.tar")
        assert "s3://photos/web/a.tar may not be read" in said
    else:
        store.fail("forbidden", "page.html", times=100, method=method)
        said = told(capsys, "data", "check", shard, "--html", "s3://photos/page.html")
        assert "s3://photos/page.html may not be written" in said
    assert "give credentials as s3fs takes them" in said
    store.server.faults.clear()


@pytest.mark.parametrize(("address", "extra"), [("s3", "s3"), ("gs", "gs"), ("az", "az"), ("https", "https")])
def test_a_library_of_a_store_that_is_missing(monkeypatch, capsys, address, extra):
    for name in ("s3fs", "gcsfs", "adlfs", "aiohttp"):
        monkeypatch.setitem(sys.modules, name, None)
    said = told(capsys, "data", "check", f"{address}://photos/a.tar")
    assert f'which are not installed; pip install "blip-duo[{extra}]"' in said


def test_the_parquet_of_img2dataset_has_no_pictures(tmp_path, capsys):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = {name: ["a"] for name in ("url", "caption", "key", "status", "error_message")}
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet")
    said = told(capsys, "evaluate", "caption", "--data", tmp_path / "00000.parquet")
    assert "list of what was downloaded, without the pictures: give the folder with the .tar files" in said


@pytest.mark.parametrize("command", ["check", "evaluate", "train", "capfilt"])
def test_a_split_that_does_not_exist(tmp_path, capsys, command):
    data = karpathy(tmp_path)
    words = {
        "check": ["data", "check", data],
        "evaluate": ["evaluate", "caption", "--data", data],
        "train": ["train", "caption", "--data", data, "--model", SHIPPED, "--output", tmp_path / "out"],
        "capfilt": [
            "capfilt",
            "--input",
            data,
            "--captioner",
            SHIPPED,
            "--filter",
            SHIPPED,
            "--output",
            tmp_path / "o",
        ],
    }[command]
    said = told(capsys, *words, "--split", "tset")
    assert "There is no split 'tset' in the data; it has " in said


def test_pictures_of_one_name_with_other_contents(tmp_path, capsys):
    data = coco(tmp_path)
    copies = tmp_path / "copy"
    copies.mkdir()
    for path in (tmp_path / "val2014").iterdir():
        (copies / path.name).write_bytes(flat("white", "JPEG"))
    (tmp_path / "val2014").rename(tmp_path / "other")
    said = told(capsys, "evaluate", "caption", "--data", data)
    assert "is there twice with different contents" in said
    assert "give the folder of the right one as image root" in said


@pytest.mark.parametrize("folder", [False, True])
def test_code_in_data_is_refused_and_not_run(tmp_path, capsys, folder):
    script = tmp_path / "photos.py"
    ran = tmp_path / "ran"
    script.write_text(f"open({str(ran)!r}, 'w')\nimport datasets\nclass Photos(datasets.GeneratorBasedBuilder): pass\n")
    said = told(capsys, "data", "check", tmp_path if folder else script)
    assert "is a loading script of the datasets library, and code in data is never run" in said
    assert not ran.exists()


def test_a_calibration_sample_and_a_stream_that_cannot_be_used(tmp_path, capsys):
    (tmp_path / "labels.jsonl").write_text(json.dumps({"image": "a.png", "caption": "a", "label": "perhaps"}))
    (tmp_path / "a.png").write_bytes(flat("red"))
    (tmp_path / "web.jsonl").write_text(json.dumps({"image": "a.png", "caption": "a"}))
    words = ["capfilt", "--input", tmp_path / "web.jsonl", "--captioner", SHIPPED, "--filter", SHIPPED]
    words += ["--output", tmp_path / "out"]
    said = told(capsys, *words, "--calibrate", tmp_path / "labels.jsonl")
    assert "label must be 'match' or 'no match', got 'perhaps'" in said
    assert "is a folder, and a stream takes files" in told(capsys, *words, "--input", tmp_path, "--stream")
