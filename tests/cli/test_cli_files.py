"""The parts of the command line that need no model: finding pictures, reading ahead, keeping captions."""

import io
import json
import os
import sys
import time

import numpy as np
import pytest

from blip_core.cli.picture_batches import find_pictures
from blip_core.cli.targets import OutputFile, Sidecars, whole_lines
from blip_core.jobs.read_ahead import read_batches


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """a.jpg, b.PNG, note.txt, .hidden.jpg and below/c.webp, below/.git/d.jpg; the working directory."""
    for name in ("a.jpg", "b.PNG", "note.txt", ".hidden.jpg", "below/c.webp", "below/.git/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def give_stdin(monkeypatch, data: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("arguments", "recursive", "expected"),
    [
        (["."], False, ["./a.jpg", "./b.PNG"]),
        (["."], True, ["./a.jpg", "./b.PNG", "./below/c.webp"]),
        (["*"], False, ["a.jpg", "b.PNG", "below/c.webp"]),
        (["*.jpg"], False, ["a.jpg"]),
        (["**/*.webp"], False, ["below/c.webp"]),
        (["note.txt", "missing.jpg"], False, ["note.txt", "missing.jpg"]),
        (["b.PNG", "a.jpg", "./b.PNG", "."], False, ["b.PNG", "a.jpg"]),
    ],
)
def test_find_pictures(folder, arguments, recursive, expected):
    assert find_pictures(arguments, recursive) == (expected, {})


def test_a_name_with_pattern_characters_is_a_name_if_there_is_such_a_file(folder):
    (folder / "a[1].jpg").touch()
    assert find_pictures(["a[1].jpg"], False) == (["a[1].jpg"], {})


def test_what_leads_to_no_picture_is_a_problem(folder):
    (folder / "empty").mkdir()
    found, problems = find_pictures(["empty", "*.gif", "a.jpg"], False)
    assert found == ["a.jpg"]
    assert "--recursive" in problems["empty"]
    assert problems["*.gif"] == "no picture matches"


@pytest.mark.parametrize("data", [b"a.jpg\nb.PNG\n", b"a.jpg\r\n\r\nb.PNG", b"a.jpg\0b.PNG\0"])
def test_list_on_standard_input(folder, monkeypatch, data):
    give_stdin(monkeypatch, data)
    assert find_pictures(["-"], False) == (["a.jpg", "b.PNG"], {})


def test_list_on_standard_input_of_any_bytes(folder, monkeypatch):
    give_stdin(monkeypatch, b"caf\xe9.jpg\n")
    assert find_pictures(["-"], False) == ([os.fsdecode(b"caf\xe9.jpg")], {})


def test_batches_are_read_ahead_but_not_all_at_once():
    started = []

    def read(path):
        started.append(path)
        if path == "3":
            raise OSError("bad")
        return np.zeros(1)

    batches = read_batches([str(i) for i in range(100)], 4, read)
    first = next(batches)
    time.sleep(0.1)
    assert [path for path, _ in first] == ["0", "1", "2", "3"]
    assert [isinstance(result, OSError) for _, result in first] == [False, False, False, True]
    assert len(started) == 8  # this batch and the next
    assert [path for batch in batches for path, _ in batch] == [str(i) for i in range(4, 100)]


def test_whole_lines():
    assert whole_lines(b"", quotes=False) == 0
    assert whole_lines(b"one\ntwo\nthr", quotes=False) == 8
    assert whole_lines(b'a,"x\ny"\nb,"z\n', quotes=True) == 8
    assert whole_lines(b'a,"x\n', quotes=True) == 0


ENTRIES = [
    {"image": "a.jpg", "caption": "a dog", "confidence": 0.5, "tokens": ["a", "dog"]},
    {"image": 'odd, "name"\n\u2028é.jpg', "caption": 'a "cat",\nsitting'},
    {"image": os.fsdecode(b"caf\xe9.jpg"), "caption": "a café"},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_output_file_goes_on_after_a_kill_at_any_byte(tmp_path, suffix):
    """Whatever was on the disk when the run died, the next one ends with each entry once, as one run would."""
    columns = ["image", "caption"]
    path = tmp_path / f"captions{suffix}"
    target = OutputFile(str(path), columns, overwrite=False)
    target.write(ENTRIES[:2])
    target.write(ENTRIES[2:])
    whole = path.read_bytes()
    if suffix == ".jsonl":
        assert [json.loads(line) for line in whole.decode().split("\n")[:-1]] == ENTRIES
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        target = OutputFile(str(path), columns, overwrite=False)
        todo = [entry for entry in ENTRIES if not target.has(entry["image"])]
        if todo:
            target.write(todo)
        assert path.read_bytes() == whole, cut


def test_output_file_is_untouched_until_written(tmp_path):
    path = tmp_path / "new" / "captions.csv"
    OutputFile(str(path), ["image"], overwrite=True)
    assert not path.parent.exists()
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image": "a.jpg", "caption": "old"}\n{"image": "b')
    target = OutputFile(str(path), ["image"], overwrite=True)
    assert not target.has("a.jpg")
    assert path.read_text().endswith('{"image": "b')
    target.write([{"image": "c.jpg", "caption": "new"}])
    assert path.read_text() == '{"image": "c.jpg", "caption": "new"}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b"some notes of mine, in one line"),
        ("x.jsonl", b'{"picture": "a.jpg"}\n'),
        ("x.jsonl", b"[]\n"),
        ("x.jsonl", b"\xff\xfe\n"),
        ("x.csv", b"name,age\n"),
        ("x.csv", b"name,age"),
        ("x.csv", b"image,caption,confidence\n"),
    ],
)
def test_output_file_of_another_kind_is_refused_and_kept(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="Choose another file"):
        OutputFile(str(tmp_path / name), ["image", "caption"], overwrite=False)
    assert (tmp_path / name).read_bytes() == content


def test_images_are_known_by_their_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    OutputFile("x.jsonl", ["image"], overwrite=False).write([{"image": "below/../a.jpg"}])
    assert OutputFile("x.jsonl", ["image"], overwrite=False).has(str(tmp_path / "a.jpg"))


def test_sidecars(tmp_path):
    image = str(tmp_path / "some.photo.jpg")
    sidecars = Sidecars(".txt", overwrite=False)
    assert not sidecars.has(image)
    sidecars.write([{"image": image, "caption": "a dog"}])
    assert (tmp_path / "some.photo.txt").read_text() == "a dog\n"
    assert sidecars.has(image)
    assert not Sidecars(".txt", overwrite=True).has(image)
    assert sorted(os.listdir(tmp_path)) == ["some.photo.txt"]
