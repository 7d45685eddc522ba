"""The forms in which `blip capfilt` writes what it keeps: shards that are read as they are, with the same bytes."""

import shutil
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from blip_core import BlipProcessor
from blip_core.capfilt import writers as formats
from blip_core.datasets import Batches, open_dataset
from tests.helpers.capfilt_runs import contents, lines

OPTIONS = ("--shard-size", "5", "--threshold", "0", "--json")
SUFFIXES = {"jsonl": ".jsonl", "parquet": ".parquet", "webdataset": ".tar"}


@pytest.fixture(params=["parquet", "webdataset"])
def to(request):
    return request.param


def kept(output, to):
    """The lines of all shards, without the names of pictures."""
    form = formats.FORMS[to]
    found = [line for path in sorted(output.glob(f"kept/*{form.suffix}")) for line in form.read(path)]
    return [{name: value for name, value in line.items() if name != "image"} for line in found]


def test_shards_are_read_as_they_are(blip, models, pictures, tmp_path, to):
    data = pictures / "data.jsonl"
    assert blip(data, tmp_path / "jsonl", *OPTIONS)[0] == 0
    code, counts, err = blip(data, tmp_path / "one", *OPTIONS, "--to", to)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "one/kept").iterdir()) == [
        f"{number:05}{SUFFIXES[to]}" for number in range(3)
    ]
    assert kept(tmp_path / "one", to) == kept(tmp_path / "jsonl", "jsonl")
    assert lines(tmp_path / "one", "dropped") == lines(tmp_path / "jsonl", "dropped")
    dataset = open_dataset(counts["data"], "pretrain")
    assert not dataset.problems
    assert [list(example.texts) for example in dataset] == [line["caption"] for line in kept(tmp_path / "one", to)]
    names = [line["image"] for line in lines(tmp_path / "jsonl", "kept")]
    assert [example.images[0].read() for example in dataset] == [Path(name).read_bytes() for name in names]
    processor = BlipProcessor.from_pretrained(models / "captioner")
    batches = Batches(dataset, processor, "pretrain", batch_size=4, training=True)
    assert [batch.inputs["pixel_values"].shape for batch in batches.epoch(0)] == [(4, 3, 32, 32)] * 2
    for form in formats.FORMS.keys() - ({"parquet"} if find_spec("pyarrow") is None else set()):
        # and again: what was kept is the input
        code, counts, err = blip(counts["data"], tmp_path / f"again-{form}", *OPTIONS, "--to", form)
        assert (code, err) == (0, "")
        assert counts["pictures"] == {"kept": 11}
    assert [path.suffix for path in sorted((tmp_path / "again-jsonl/kept").glob("*/*"))] == [".png"] * 11


def test_always_the_same_bytes(blip, pictures, tmp_path, to):
    data = pictures / "data.jsonl"
    assert blip(data, tmp_path / "one", *OPTIONS, "--to", to)[0] == 0
    for share in ("2/2", "1/2"):
        assert blip(data, tmp_path / "many", *OPTIONS, "--to", to, "--shards", share)[0] == 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    (tmp_path / f"many/kept/00001{SUFFIXES[to]}").unlink()
    assert blip(data, tmp_path / "many", *OPTIONS, "--to", to)[0] == 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    code, _, err = blip(data, tmp_path / "many", *OPTIONS[:-1])
    assert (code, f"to was '{to}', is 'jsonl'" in err) == (1, True)
    path = tmp_path / f"many/kept/00001{SUFFIXES[to]}"
    path.write_bytes(path.read_bytes()[:700])
    code, _, err = blip(data, tmp_path / "many", *OPTIONS[:-1], "--to", to)
    assert (code, len(err.splitlines())) == (1, 1)
    assert f"{path} is damaged" in err


def test_tar_headers_say_nothing_of_time_and_owner(blip, pictures, tmp_path):
    assert blip(pictures / "data.jsonl", tmp_path / "out", *OPTIONS, "--to", "webdataset")[0] == 0
    with tarfile.open(tmp_path / "out/kept/00000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:2]] == ["00000/00000000.png", "00000/00000000.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_file_names_of_any_bytes(blip, pictures, tmp_path, to):
    (tmp_path / "in").mkdir()
    for number, name in enumerate(["caf\udce9", "café", "2.x"]):  # the first is one byte that is no UTF-8
        shutil.copy(pictures / f"{number}.png", tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.txt").write_text("a dog")
    assert blip(tmp_path / "in", tmp_path / "out", *OPTIONS, "--to", to)[0] == 0
    before = contents(tmp_path / "out")
    (tmp_path / "out/report.html").unlink()
    assert {line["key"] for line in kept(tmp_path / "out", to)} == {"in:caf\udce9.png", "in:café.png", "in:2.x.png"}
    code, counts, _ = blip(tmp_path / "in", tmp_path / "out", *OPTIONS, "--to", to)
    assert code == 0
    assert contents(tmp_path / "out") == before
    assert len(open_dataset(counts["data"], "pretrain")) == 3


def test_parquet_without_pyarrow(blip, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, out, err = blip(pictures / "data.jsonl", tmp_path / "out", "--to", "parquet")
    assert (code, out) == (1, "")
    assert err == 'blip: error: Parquet files need pyarrow; pip install "blip-duo[parquet]", or pyarrow.\n'
    assert not (tmp_path / "out").exists()
