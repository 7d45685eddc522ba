"""Data sets in an object store: every form, broken connections, what cannot be had, and paths that lead out."""

import json
import sys

import pytest

from blip_core.cli import main
from blip_core.datasets import open_dataset
from blip_core.datasets.examples import ChangedError
from blip_core.hub import SHIPPED
from blip_core.stores import StorePath
from tests.helpers.data_files import write_tar
from tests.helpers.published_forms import (
    COLOURS,
    PUBLISHED,
    TEXTS,
    coco,
    flat,
    image_folder,
    img2dataset,
    pairs,
    save,
    saved,
)  # fmt: skip

PAIRS = list(zip(COLOURS, TEXTS, strict=True))


@pytest.fixture
def shards(store, tmp_path):
    """Three shards of a picture each; their addresses as a pattern."""
    for number, (colour, text) in enumerate(PAIRS):
        path = write_tar(tmp_path / "a.tar", {"a.png": flat(colour), "a.txt": text.encode()})
        store.put(f"web/{number:02}.tar", path.read_bytes())
    return "s3://photos/web/{00..02}.tar"


@pytest.mark.parametrize("name", ["coco", "karpathy", "vqa", "nlvr2", "flickr30k", "metadata"])
def test_published_files_and_their_pictures(store, tmp_path, name):
    row = PUBLISHED[name]
    path = row.write(tmp_path)
    store.put_folder(tmp_path)
    dataset = open_dataset(f"s3://photos/{path.relative_to(tmp_path)}", row.task, **(row.options or {}))
    assert pairs(dataset) == pairs(open_dataset(path, row.task, **(row.options or {})))
    assert {example.images[0].path.split("/")[2] for example in dataset} == {"photos"}
    assert not dataset.problems


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_image_folders(store, tmp_path, form):
    store.put_folder(image_folder(form)(tmp_path))
    assert pairs(open_dataset("s3://photos/", "caption", split="train")) == PAIRS


def test_shards_are_read_in_place(store, shards, tmp_path):
    assert pairs(open_dataset(shards, "caption")) == PAIRS
    dataset = open_dataset("s3://photos/w*/*.tar", "caption")
    assert [example.key for example in dataset] == ["00.tar:a", "01.tar:a", "02.tar:a"]
    assert pairs(dataset) == PAIRS
    store.put_folder(img2dataset(tmp_path))
    assert pairs(open_dataset("s3://photos/0000*.tar", "caption")) == PAIRS
    with pytest.raises(FileNotFoundError, match=r"s3://photos/none\*\.tar does not exist"):
        open_dataset("s3://photos/none*.tar", "caption")


def test_a_folder_with_texts_beside_pictures(store, tmp_path):
    save(tmp_path, "1.png", "sub/2.png", "sub/3.png")
    for name, text in zip(("1", "sub/2", "sub/3"), TEXTS, strict=True):
        (tmp_path / f"{name}.txt").write_text(text)
    store.put_folder(tmp_path)
    assert pairs(open_dataset("s3://photos", "caption")) == PAIRS


def test_a_local_file_with_its_pictures_in_the_store(store, tmp_path):
    path = coco(tmp_path)
    store.put_folder(tmp_path)
    assert pairs(open_dataset(path, "caption", "s3://photos/val2014")) == PAIRS


@pytest.mark.parametrize("fault", ["error", "slow", "cut off"])
def test_what_fails_for_a_while_is_asked_again(store, shards, fault):
    store.fail(fault, "01.tar", times=2)
    store.fail(fault, "02.tar")
    dataset = open_dataset(shards, "caption")
    assert not dataset.problems
    store.fail(fault, "00.tar")
    assert pairs(dataset) == PAIRS
    assert not store.server.faults


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("error", "cannot be read; 5 attempts ended"),
        ("forbidden", "may not be read"),
        ("missing", "does not exist"),
    ],
)
def test_a_shard_that_cannot_be_had_is_a_problem_and_not_the_end(store, shards, fault, reason):
    if fault == "missing":
        store.backend.delete_object("photos", "web/01.tar")
    else:
        store.fail(fault, "01.tar", times=100)
        store.fail(fault, "01.tar", times=100, method="HEAD")
    dataset = open_dataset(shards, "caption")
    assert pairs(dataset) == [PAIRS[0], PAIRS[2]]
    [(where, problem)] = dataset.problems
    assert where == "01.tar"
    assert problem.startswith(f"s3://photos/web/01.tar {reason}")
    with pytest.raises(ValueError, match=r"No example for caption .*01\.tar"):
        open_dataset("s3://photos/web/01.tar", "caption")


def test_a_shard_that_changes_ends_the_work(store, shards, tmp_path):
    dataset = open_dataset(shards, "caption")
    path = write_tar(tmp_path / "b.tar", {"a.png": flat("blue"), "a.txt": b"another"})
    store.put("web/00.tar", path.read_bytes())
    with pytest.raises(ChangedError, match=r"s3://photos/web/00\.tar changed while it was read"):
        dataset[0].images[0].read()
    store.backend.delete_object("photos", "web/01.tar")
    with pytest.raises(OSError, match=r"s3://photos/web/01\.tar"):
        dataset[1].images[0].read()


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "s3://photos/secret.png", "https://example.org/a.png"]
)
def test_paths_lead_nowhere(store, tmp_path, name):
    store.put("secret.png", flat("red"))
    store.put("data/a.png", flat("green"))
    lines = [{"image": "a.png", "caption": "green"}, {"image": name, "caption": "a"}]
    address = store.put("data/list.jsonl", "\n".join(map(json.dumps, lines)).encode())
    dataset = open_dataset(address, "caption", "s3://photos/data")
    assert pairs(dataset) == [("green", "green")]
    assert len(dataset.problems) == 1
    assert len(open_dataset(address, "caption")) == (2 if name.startswith("s3") else 1)


def test_saved_data_sets_are_refused(store, tmp_path):
    store.put_folder(saved(tmp_path))
    with pytest.raises(ValueError, match="is a saved data set, which is mapped from disks alone; copy it to one"):
        open_dataset("s3://photos", "caption")


def test_files_of_the_web(store, shards, tmp_path):
    pytest.importorskip("aiohttp")
    address = store.put_for_all("open.tar", (tmp_path / "a.tar").read_bytes())
    assert pairs(open_dataset(address, "caption")) == [PAIRS[2]]
    lines = [{"image": f"{colour}.png", "caption": text} for colour, text in PAIRS]
    listed = store.put_for_all("web/list.jsonl", "\n".join(map(json.dumps, lines)).encode())
    for colour in COLOURS[:2]:
        store.put_for_all(f"web/{colour}.png", flat(colour))
    dataset = open_dataset(listed, "caption")
    assert pairs(dataset[:2]) == PAIRS[:2]
    with pytest.raises(OSError, match=r"web/blue\.png does not exist"):  # the web cannot list, so it is seen late
        dataset[2].images[0].load()


def test_many_shards_are_listed_a_thousand_at_a_time(store):
    for number in range(2500):
        store.put(f"web/{number:05}.tar", b"")
    assert sum(1 for _ in StorePath("s3://photos/web").glob("*.tar")) == 2500
    assert len([path for method, path in store.server.asked if method == "GET"]) <= 4


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(ValueError, match=r'az:// needs adlfs and fsspec.*pip install "blip-duo\[az\]", or adlfs'):
        open_dataset("az://photos/a.tar", "caption")


def test_the_command_line_takes_addresses(store, shards, capsys):
    assert main(["data", "check", shards, "--read-pictures"]) == 0
    assert "  examples   3 of 3 pictures\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["train", "caption", "--data", "{data}", "--output", "s3://photos/out"],
        ["caption", "{folder}", "--output", "s3://photos/out.jsonl"],
        ["caption", "{folder}", "--output", "s3://photos/out"],
        ["convert", SHIPPED, "s3://photos/out"],
        ["search", "a dog", "{folder}", "--index", "s3://photos/out"],
    ],
    ids=lambda words: words[0],
)
def test_what_is_written_to_disks_alone_is_refused(tmp_path, monkeypatch, capsys, words):
    save(tmp_path, "1.png", "2.png", "3.png")
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"image": "1.png", "caption": "a dog"}))
    monkeypatch.chdir(tmp_path)
    assert main([str(word).format(data=data, folder=tmp_path) for word in words]) != 0
    assert "lies in a store, and this is written to disks alone" in capsys.readouterr().err
    assert not (tmp_path / "s3:").exists()
