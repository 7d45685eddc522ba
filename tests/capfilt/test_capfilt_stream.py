"""CapFilt over files that nobody lists before the work begins."""

import json
import time

import pytest

from blip_core.capfilt import Stream, capfilt
from blip_core.datasets import open_dataset
from blip_core.datasets.examples import ChangedError
from blip_core.jobs.sharding import Share
from blip_core.stores import StoreCache, StorePath
from tests.helpers.capfilt_kills import NoModels
from tests.helpers.capfilt_runs import contents, lines
from tests.helpers.data_files import write_tar
from tests.helpers.published_forms import flat

SHARDS, EACH = 4, 3
FILES = "s3://photos/web/*.tar"


def shard(folder, number):
    members = {}
    for row in range(EACH):
        members[f"{row}.png"] = flat((number * 40, row * 40, 7 if row else 0))
        members[f"{row}.txt"] = f"picture {row} of {number}".encode()
    members[f"{row + 1}.png"] = b"broken"
    members[f"{row + 1}.txt"] = b"a broken picture"
    members["alone.txt"] = b"no picture"
    return write_tar(folder / f"{number:02}.tar", members)


@pytest.fixture
def web(tmp_path):
    (tmp_path / "web").mkdir()
    return [shard(tmp_path / "web", number) for number in range(SHARDS)]


@pytest.fixture
def stored(store, web):
    for path in web:
        store.put(f"web/{path.name}", path.read_bytes())
    store.server.asked.clear()
    return FILES


def results(output):
    """What a run keeps and drops, as bytes."""
    return {
        name: data for name, data in contents(output).items() if name.parts[0] in ("kept", "dropped", "report.html")
    }


@pytest.mark.parametrize("to", ["jsonl", "webdataset"])
def test_a_stream_gives_what_a_listed_input_gives(web, tmp_path, to):
    files = str(tmp_path / "web/*.tar")
    options = {"to": to, "near_duplicates": 1.0, "threshold": 0.3}
    whole = capfilt(open_dataset(files, "caption"), NoModels(), tmp_path / "whole", shard_size=EACH + 1, **options)
    result = capfilt(Stream(files), NoModels(), tmp_path / "stream", **options)
    assert result.counts == whole.counts
    assert result.problems == whole.problems
    assert len(result.problems) == 2 * SHARDS
    assert results(tmp_path / "stream") == results(tmp_path / "whole")
    assert capfilt(Stream(files), NoModels(), tmp_path / "stream", **options).counts == whole.counts


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    for number in range(2):
        rows = {"image": [flat((number, row, 0)) for row in range(3)], "caption": ["a", "b", "c"]}
        pq.write_table(pa.table(rows), tmp_path / f"{number}.parquet")
    capfilt(Stream(str(tmp_path / "*.parquet")), NoModels(), tmp_path / "out", threshold=0)
    assert [line["key"] for line in lines(tmp_path / "out", "kept")] == [
        f"{file}.parquet:{row}" for file in range(2) for row in range(3)
    ]


def test_files_of_one_name_are_told_apart(web, tmp_path):
    (tmp_path / "more").mkdir()
    shard(tmp_path / "more", 1)
    capfilt(Stream([str(web[1]), str(tmp_path / "more/01.tar")]), NoModels(), tmp_path / "out", threshold=0)
    keys = [line["key"] for line in lines(tmp_path / "out", "dropped") if line["reason"] == "duplicate"]
    assert keys == [f"1/01.tar:{row}" for row in range(EACH)]


def test_each_process_reads_its_own_files_alone(store, stored, tmp_path):
    first = capfilt(Stream(stored), NoModels(), "s3://photos/out", share=Share(1, 2), threshold=0)
    assert first.missing == 2
    read = {path for method, path in store.server.asked if method == "GET" and path.endswith(".tar")}
    assert read == {"/photos/web/00.tar", "/photos/web/02.tar"}
    cached = Stream(stored, store_cache=StoreCache(str(tmp_path / "cache")))
    result = capfilt(cached, NoModels(), "s3://photos/out", share=Share(2, 2), threshold=0)
    assert result.counts["pictures"]["kept"] == SHARDS * EACH
    assert len(list((tmp_path / "cache").iterdir())) == SHARDS  # it writes what is kept of all
    whole = capfilt(Stream(str(tmp_path / "web/*.tar")), NoModels(), tmp_path / "out", threshold=0)
    assert whole.counts == result.counts


@pytest.mark.parametrize("fault", ["error", "forbidden", "missing", "no tar"])
def test_a_shard_that_cannot_be_had_is_a_problem_and_not_the_end(store, stored, fault):
    stream = Stream(stored)
    if fault == "missing":
        store.backend.delete_object("photos", "web/01.tar")
    elif fault == "no tar":
        store.put("web/01.tar", b"\x1f\x8b compressed")
    else:
        for method in ("GET", "HEAD"):
            store.fail(fault, "01.tar", times=100, method=method)
    result = capfilt(stream, NoModels(), "s3://photos/out", threshold=0)
    store.server.faults.clear()
    assert result.counts["pictures"]["kept"] == (SHARDS - 1) * EACH
    assert [where for where, _ in result.problems if where == "01.tar"]
    for name in ("listed/00001.jsonl", "kept/00001.jsonl"):  # to try it again
        (StorePath("s3://photos/out") / name).unlink()
    store.put("web/01.tar", store.backend.get_object("photos", "web/00.tar").value)
    again = capfilt(stream, NoModels(), "s3://photos/out", threshold=0)
    assert again.counts["pictures"]["duplicate"] == EACH


def test_what_fails_for_a_while_changes_nothing(store, stored):
    for number, fault in enumerate(("error", "slow", "cut off")):
        store.fail(fault, f"{number:02}.tar", times=2)
    result = capfilt(Stream(stored), NoModels(), "s3://photos/out", threshold=0)
    assert result.counts["pictures"]["kept"] == SHARDS * EACH
    assert not store.server.faults


def test_a_shard_that_changes_while_it_is_read_ends_the_work(store, stored):
    class Meddling(NoModels):
        def __call__(self, pictures, captions):
            store.put("web/00.tar", store.backend.get_object("photos", "web/01.tar").value + b"\0" * 512)
            return super().__call__(pictures, captions)

    with pytest.raises(ChangedError, match=r"s3://photos/web/00\.tar changed"):
        capfilt(Stream(stored), Meddling(), "s3://photos/out", batch_size=1, to="webdataset", threshold=0)


def test_other_files_are_another_run(web, tmp_path):
    capfilt(Stream(str(web[0])), NoModels(), tmp_path / "out")
    with pytest.raises(ValueError, match="holds another run: input was"):
        capfilt(Stream(str(web[1])), NoModels(), tmp_path / "out")
    with pytest.raises(ValueError, match=r"is a folder, and a stream takes files; name those in it, such as .*\*\.tar"):
        Stream(str(tmp_path / "web"))
    with pytest.raises(ValueError, match="A dry run needs a data set"):
        capfilt(Stream(str(web[1])), NoModels(), tmp_path / "other", dry_run=2)


def test_the_command(blip, web, tmp_path):
    code, counts, _ = blip(tmp_path / "web/*.tar", tmp_path / "out", "--stream", "--json", "--threshold", "0")
    assert (code, counts["pictures"]["kept"]) == (1, SHARDS * EACH)
    assert json.loads((tmp_path / "out/capfilt.json").read_text())["stream"] == SHARDS
    with pytest.raises(SystemExit):
        blip(tmp_path / "web/*.tar", tmp_path / "out", "--stream", "--dry-run", "2")


@pytest.mark.slow
def test_ten_thousand_shards_are_listed_in_seconds(store):
    for number in range(10_000):
        store.put(f"web/{number:05}.tar", b"")
    begin = time.monotonic()
    assert len(Stream(FILES).files) == 10_000
    assert time.monotonic() - begin < 30
