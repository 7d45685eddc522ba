"""What stands where a file of a data set should be: pipes, devices, closed folders, values without end."""

from __future__ import annotations

import json
import os
import tracemalloc

import pytest

from blip_core.datasets import Picture, open_dataset
from blip_core.datasets.json_array import array_values
from tests.helpers.data_files import save_pictures, write_entries

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")


def test_a_pipe_beside_a_picture_is_reported(tmp_path):
    save_pictures(tmp_path, 3)
    (tmp_path / "0.txt").write_text("a dog")
    os.mkfifo(tmp_path / "1.txt")
    (tmp_path / "2.json").symlink_to("/dev/zero")
    data = open_dataset(tmp_path, "caption")
    assert [example.texts for example in data] == [("a dog",)]
    assert [(where, "is no regular file, but a pipe or a device" in reason) for where, reason in data.problems] == [
        (f"{tmp_path.name}:1.png", True),
        (f"{tmp_path.name}:2.png", True),
    ]


def test_a_text_without_end_beside_a_picture_is_reported(tmp_path):
    save_pictures(tmp_path, 2)
    (tmp_path / "0.txt").write_text("a dog")
    (tmp_path / "1.txt").write_text("a" * (2**20 + 1))
    data = open_dataset(tmp_path, "caption")
    assert [where for where, _ in data.problems] == [f"{tmp_path.name}:1.png"]
    assert "is longer than 1048576 bytes" in data.problems[0][1]


@pytest.mark.parametrize("name", ["pipe.png", "zero.png", "folder.png"])
def test_the_bytes_of_a_picture_are_those_of_a_regular_file(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match=f"{name} is no regular file"):
        Picture(str(tmp_path / name)).read()


def test_a_data_set_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(OSError, match="is no regular file, but a pipe"):
        open_dataset(tmp_path / "a.jsonl", "caption")


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    save_pictures(tmp_path, 1)
    (tmp_path / "0.txt").write_text("a dog")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    data = open_dataset(tmp_path, "caption")
    assert len(data) == 1
    assert data.problems == [(f"{tmp_path.name}:closed", "this folder cannot be listed: Permission denied")]


@pytest.mark.parametrize("part", [1, 7, 2**20])
def test_arrays_are_read_value_by_value(tmp_path, monkeypatch, part):
    monkeypatch.setattr("blip_core.datasets.json_array.PART", part)
    path = tmp_path / "a.json"
    for values in ([], [1.25, -3e5, 10], ['é]"', {"a": [{}, []]}, None], [[[]]]):
        for text in (json.dumps(values), json.dumps(values, indent=1, ensure_ascii=False) + " \n", "\ufeff[ ]"):
            path.write_text(text, encoding="utf-8")
            assert list(array_values(path)) == json.loads(text.removeprefix("\ufeff"))
    for text in ("[", "[1", "[1,", "[1,]", "[1 2]", "[1]]", "[1] 2", "[tru]", "[0.]", '["a]', "[,1]", "[\ud800]"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ValueError, match="is not a valid JSON array"):
            list(array_values(path))


def test_arrays_take_the_memory_of_one_value(tmp_path):
    save_pictures(tmp_path, 1)
    entries = [{"image": "0.png", "caption": f"{number} {'dog ' * 2000}"} for number in range(2000)]
    path = write_entries(tmp_path / "a.json", entries)
    assert path.stat().st_size > 15_000_000
    tracemalloc.start()
    count = sum(1 for _ in array_values(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, peak < 6_000_000) == (2000, True)
    path.write_text('["' + "x" * 2**21 + '"]')
    with pytest.raises(ValueError, match="longer than 1048576 letters"):
        list(array_values(path))


@pytest.mark.parametrize("first", ["7", "[1]", "[[[", "text", '"a"', "null"])
def test_json_lines_may_begin_with_a_broken_one(tmp_path, first):
    (name,) = save_pictures(tmp_path, 1)
    path = tmp_path / "a.jsonl"
    path.write_text(f"{first}\n" + json.dumps({"image": name, "caption": "a dog"}))
    data = open_dataset(path, "caption")
    assert ([example.key for example in data], [where for where, _ in data.problems]) == (["a.jsonl:2"], ["a.jsonl:1"])
    path.write_text(json.dumps([{"image": name, "caption": "a dog"}]))
    assert [example.key for example in open_dataset(path, "caption")] == ["a.jsonl:0"]


@pytest.mark.parametrize("text", ["", " \t", "\x00", "\u200b\x7f", "\ue000"])
def test_texts_of_letters_that_the_tokenizer_drops_have_no_words(tmp_path, text):
    (name,) = save_pictures(tmp_path, 1)
    entries = [{"image": name, "caption": "a dog"}, {"image": name, "caption": text}]
    data = open_dataset(write_entries(tmp_path / "a.json", entries), "caption")
    assert [where for where, reason in data.problems if "caption has no words" in reason] == ["a.json:1"]
