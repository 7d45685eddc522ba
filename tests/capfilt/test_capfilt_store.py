"""A run of CapFilt whose input and output lie in an object store."""

import json

import pytest

from blip_core.capfilt import capfilt
from blip_core.datasets import open_dataset
from blip_core.jobs.sharding import Share
from blip_core.stores import StorePath
from tests.helpers.capfilt_runs import load
from tests.helpers.data_files import write_tar
from tests.helpers.frameworks import INSTALLED
from tests.helpers.published_forms import COLOURS, TEXTS, colour_of, flat


def objects(address):
    """The contents of a folder by the names in it."""
    return {str(path).removeprefix(f"{address}/"): path.read_bytes() for path in StorePath(address).rglob("*")}


def input_shards(store, tmp_path):
    for number, (colour, text) in enumerate(zip(COLOURS, TEXTS, strict=True)):
        path = write_tar(tmp_path / "a.tar", {"a.png": flat(colour), "a.txt": text.encode()})
        store.put(f"web/{number:02}.tar", path.read_bytes())
    return "s3://photos/web/*.tar"


SLOW = [pytest.param(to, marks=pytest.mark.slow) for to in ("parquet", "webdataset")]


@pytest.mark.parametrize("to", ["jsonl", *SLOW])
def test_capfilt_in_a_store_writes_what_it_writes_to_a_disk(store, models, tmp_path, monkeypatch, to):
    data, loaded = input_shards(store, tmp_path), load(models, INSTALLED[0])
    options = {"threshold": 0, "to": to, "shard_size": 2, "near_duplicates": 1.0}
    local = capfilt(open_dataset(data, "caption"), loaded, tmp_path / "out", **options)
    assert local.counts["pictures"]["kept"]
    for number in (1, 2):  # in folders that have nothing in common
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        store.fail("error", "00000.jsonl", method="PUT")
        share = Share(number, 2)
        result = capfilt(open_dataset(data, "caption"), loaded, "s3://photos/boot", share=share, **options)
        assert (result.missing, len(list(folder.iterdir()))) == (2 - number, 0)
    written = objects("s3://photos/boot")
    expected = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written.keys() == expected.keys()
    different = [name for name, path in expected.items() if path.read_bytes() != written[name]]
    assert not different
    kept = open_dataset(result.data, "caption")
    assert {colour_of(example.images[0]) for example in kept} <= set(COLOURS)
    again = capfilt(open_dataset(data, "caption"), loaded, "s3://photos/boot", **options)
    assert again.counts == result.counts
    with pytest.raises(ValueError, match=r"s3://photos/boot holds another run: threshold was 0, is 0\.5"):
        capfilt(open_dataset(data, "caption"), loaded, "s3://photos/boot", **{**options, "threshold": 0.5})
    assert json.loads(written["capfilt.json"])["pictures"] == 3
