"""Copies of shards of a store on this machine: fetched once, bounded, never of another version."""

import shutil
from collections import namedtuple

import pytest

from blip_core.cli import main
from blip_core.datasets import open_dataset
from blip_core.stores import StoreCache, StoreError, StorePath
from tests.helpers.data_files import write_tar
from tests.helpers.published_forms import COLOURS, TEXTS, flat, pairs

PAIRS = list(zip(COLOURS, TEXTS, strict=True))


@pytest.fixture
def shards(store, tmp_path):
    """Three shards of a picture each, and the bytes of one."""
    for number, (colour, text) in enumerate(PAIRS):
        path = write_tar(tmp_path / "a.tar", {"a.png": flat(colour), "a.txt": text.encode()})
        store.put(f"web/{number:02}.tar", path.read_bytes())
    store.size = len(path.read_bytes())
    store.server.asked.clear()
    return "s3://photos/web/{00..02}.tar"


def fetched(store):
    return [path for method, path in store.server.asked if method == "GET" and path.endswith(".tar")]


def test_each_shard_is_fetched_once(store, shards, tmp_path):
    cache = StoreCache(str(tmp_path / "cache"))
    dataset = open_dataset(shards, "caption", store_cache=cache)
    assert len(fetched(store)) == 3
    before = len(store.server.asked)
    assert pairs(dataset) == pairs(dataset) == PAIRS
    assert len(store.server.asked) == before  # not even for its version
    assert pairs(open_dataset(shards, "caption", store_cache=cache)) == PAIRS
    assert len(fetched(store)) == 3
    for path in (tmp_path / "cache").iterdir():  # as another process may
        path.unlink()
    assert pairs(dataset) == PAIRS
    assert len(fetched(store)) == 6


def test_parquet(store, tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": [flat(colour) for colour in COLOURS], "caption": TEXTS}), tmp_path / "a.parquet")
    store.put("a.parquet", (tmp_path / "a.parquet").read_bytes())
    store.server.asked.clear()
    dataset = open_dataset("s3://photos/a.parquet", "caption", store_cache=StoreCache(str(tmp_path / "cache")))
    assert pairs(dataset) == PAIRS
    assert len([path for method, path in store.server.asked if method == "GET"]) == 1


def test_the_cache_is_bounded_and_what_was_read_last_stays(store, shards, tmp_path):
    folder = tmp_path / "cache"
    own = {folder / name: name.encode() * 9999 for name in ("holiday.tar", "notes")}
    folder.mkdir()
    for path, content in own.items():
        path.write_bytes(content)
    dataset = open_dataset(shards, "caption", store_cache=StoreCache(str(folder), 2 * store.size))

    def size():
        return sum(path.stat().st_size for path in folder.glob("*.tar") if path not in own)

    assert size() == 2 * store.size
    working = folder / f".{'0' * 32}.tar.1234.tmp"
    working.write_bytes(b"of a process that works")
    for _ in range(2):
        assert pairs(dataset) == PAIRS
        assert size() <= 2 * store.size
    assert working.exists()
    assert all(path.read_bytes() == content for path, content in own.items())
    store.server.asked.clear()
    assert pairs(open_dataset(shards, "caption", store_cache=StoreCache(str(tmp_path / "small"), 10))) == PAIRS
    assert not (tmp_path / "small").exists()  # a shard is larger than all of it


def test_a_full_disk_and_broken_connections(store, shards, tmp_path, monkeypatch):
    cache = StoreCache(str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(10))
        with pytest.warns(UserWarning, match="has room for 10 bytes; shards are read in place"):
            assert pairs(open_dataset(shards, "caption", store_cache=cache)) == PAIRS
    for fault in ("error", "cut off"):
        store.fail(fault, "01.tar", times=2)
    assert pairs(open_dataset(shards, "caption", store_cache=cache)) == PAIRS
    assert not list((tmp_path / "cache").glob(".*"))
    assert not store.server.faults
    store.fail("error", "00.tar", times=100)
    other = StoreCache(str(tmp_path / "other"))
    dataset = open_dataset(shards, "caption", store_cache=other)
    assert [where for where, _ in dataset.problems] == ["00.tar"]
    assert pairs(dataset) == PAIRS[1:]


def test_a_shard_that_changed_is_never_read_for_another(store, shards, tmp_path):
    cache = StoreCache(str(tmp_path / "cache"))
    path = StorePath("s3://photos/web/00.tar", cache)
    old = path.version()
    dataset = open_dataset(shards, "caption", store_cache=cache)
    data = write_tar(tmp_path / "a.tar", {"a.png": flat("blue"), "a.txt": b"a longer text"}).read_bytes()
    store.put("web/00.tar", data)
    assert pairs(dataset) == PAIRS  # the copy is of the version that was listed
    assert pairs(open_dataset(str(path), "caption", store_cache=cache)) == [("blue", "a longer text")]
    with pytest.raises(StoreError, match=r"00\.tar"):
        path.fetch(tmp_path / "b.tar", old)


def test_arguments(store, shards, tmp_path, capsys):
    words = ["data", "check", shards, "--read-pictures"]
    assert main([*words, "--cache", str(tmp_path / "cache"), "--cache-size", "0.5"]) == 0
    assert len(list((tmp_path / "cache").iterdir())) == 3
    with pytest.raises(SystemExit):
        main([*words, "--cache-size", "1"])
    assert "argument --cache-size: needs --cache" in capsys.readouterr().err
    assert main([*words, "--cache", "s3://photos/cache"]) == 1
    assert "lies in a store, and this is written to disks alone" in capsys.readouterr().err
