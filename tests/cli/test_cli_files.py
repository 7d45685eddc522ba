"""The parts of the command line that need no model: finding pictures, reading ahead, keeping captions."""

import errno
import io
import json
import os
import sys
import time
import unicodedata
from contextlib import suppress

import numpy as np
import pytest

from blip_core.cli.find_pictures import find_pictures
from blip_core.cli.report import json_line
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
    with OutputFile(str(path), columns, overwrite=False) as target:
        target.write(ENTRIES[:2])
        target.write(ENTRIES[2:])
    whole = path.read_bytes()
    if suffix == ".jsonl":
        expected = [{"image": os.path.abspath(entry["image"]), "caption": entry["caption"]} for entry in ENTRIES]
        assert [json.loads(line) for line in whole.decode().split("\n")[:-1]] == expected
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with OutputFile(str(path), columns, overwrite=False) as target:
            todo = [entry for entry in ENTRIES if not target.has(entry["image"])]
            if todo:
                target.write(todo)
        assert path.read_bytes() == whole, cut


def test_output_file_is_untouched_until_written(tmp_path):
    path = tmp_path / "new" / "captions.csv"
    OutputFile(str(path), ["image"], overwrite=True)
    assert not path.parent.exists()
    with OutputFile(str(path), ["image"], overwrite=False):
        assert not path.exists()


def test_an_old_file_is_replaced_when_the_new_one_is_whole(tmp_path):
    path = tmp_path / "captions.jsonl"
    old = '{"image": "a.jpg", "caption": "old"}\n{"image": "b'
    path.write_text(old)
    entry = {"image": "/c.jpg", "caption": "new"}
    with OutputFile(str(path), ["image", "caption"], overwrite=True) as target:
        assert not target.has("a.jpg")
    assert path.read_text() == old  # nothing was written
    with suppress(KeyboardInterrupt), OutputFile(str(path), ["image", "caption"], overwrite=True) as target:
        target.write([entry])
        raise KeyboardInterrupt
    assert path.read_text() == old
    with OutputFile(str(path), ["image", "caption"], overwrite=True) as target:
        target.write([entry])
        assert path.read_text() == old
    assert path.read_text() == '{"image": "/c.jpg", "caption": "new"}\n'
    assert os.listdir(tmp_path) == ["captions.jsonl"]


def test_one_process_writes_at_a_time(tmp_path):
    path = str(tmp_path / "captions.csv")
    first, second = (OutputFile(path, ["image"], overwrite=False) for _ in range(2))
    with first, pytest.raises(OSError, match="is being written by process"):
        second.__enter__()
    with OutputFile(path, ["image"], overwrite=False):
        pass


def test_pictures_are_known_from_any_folder(tmp_path, monkeypatch):
    """The same relative path is another picture in another folder, and the same picture has several."""
    (tmp_path / "one").mkdir()
    for columns, name in ((["image", "caption"], "x.jsonl"), (["file_name", "text"], "metadata.csv")):
        path = str(tmp_path / name)
        monkeypatch.chdir(tmp_path / "one")
        with OutputFile(path, columns, overwrite=False) as target:
            target.write([{"image": "a.jpg", "caption": "x"}])
        monkeypatch.chdir(tmp_path)
        with OutputFile(path, columns, overwrite=False) as target:
            assert [target.has(image) for image in ("one/a.jpg", "a.jpg")] == [True, False]
    assert (tmp_path / "metadata.csv").read_text() == "file_name,text\none/a.jpg,x\n"


def test_control_characters_are_escaped_in_csv(tmp_path):
    path = tmp_path / "x.csv"
    entry = {"image": "/a\x1b[31m\n.jpg", "caption": "x"}
    with OutputFile(str(path), ["image", "caption"], overwrite=False) as target:
        target.write([entry])
    assert path.read_text() == "image,caption\n/a\\x1b[31m\\x0a.jpg,x\n"
    with OutputFile(str(path), ["image", "caption"], overwrite=False) as target:
        assert target.has(entry["image"])


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
    target = OutputFile(str(tmp_path / name), ["image", "caption"], overwrite=False)
    with pytest.raises(ValueError, match="Choose another file"), target:
        pass
    assert (tmp_path / name).read_bytes() == content


def test_sidecars(tmp_path):
    image = str(tmp_path / "some.photo.jpg")
    sidecars = Sidecars(".txt", overwrite=False)
    assert not sidecars.has(image)
    assert sidecars.write([{"image": image, "caption": "a dog"}]) == {}
    assert (tmp_path / "some.photo.txt").read_text() == "a dog\n"
    assert sidecars.has(image)
    assert not Sidecars(".txt", overwrite=True).has(image)
    assert sorted(os.listdir(tmp_path)) == ["some.photo.txt"]


def test_a_sidecar_that_cannot_be_written_leaves_the_others(tmp_path):
    names = [str(tmp_path / f"{name}.png") for name in ("a", "n" * 251)]
    names += [str(tmp_path / "file" / "b.png"), str(tmp_path / "z.png")]
    (tmp_path / "file").touch()
    failed = Sidecars(".json5", overwrite=False).write([{"image": name, "caption": "x"} for name in names])
    assert list(failed) == names[1:3]
    assert sorted(path.name for path in tmp_path.glob("*.json5")) == ["a.json5", "z.json5"]
    longest = str(tmp_path / ("n" * 245 + ".png"))  # with .txt in place of .png it fits
    assert Sidecars(".txt", overwrite=False).write([{"image": longest, "caption": "x"}]) == {}


def test_a_folder_in_the_place_of_a_sidecar_is_none(tmp_path):
    sidecars, image = Sidecars(".txt", overwrite=False), str(tmp_path / "a.png")
    (tmp_path / "a.txt" / "something").mkdir(parents=True)
    assert not sidecars.has(image)
    assert list(sidecars.write([{"image": image, "caption": "x"}])) == [image]


def test_an_empty_sidecar_counts_as_not_done(tmp_path):
    sidecars = Sidecars(".txt", overwrite=False)
    (tmp_path / "a.txt").touch()
    assert not sidecars.has(str(tmp_path / "a.png"))
    with pytest.warns(UserWarning, match="1 sidecars are empty and are written again"):
        sidecars.tell_empty([str(tmp_path / "a.png"), str(tmp_path / "b.png")])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_windows(folder, monkeypatch, encoding):
    give_stdin(monkeypatch, "a.jpg\r\nb.PNG\r\n".encode(encoding))
    assert find_pictures(["-"], False) == (["a.jpg", "b.PNG"], {})


@pytest.mark.parametrize(
    "data",
    [
        "a.jpg\nb.PNG\n".encode("utf-16-le"),
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"a.jpg\n\x07.jpg\n",
        b"x\0" + b"a" * 5000,
    ],
)
def test_what_is_no_list_is_refused(folder, monkeypatch, data):
    give_stdin(monkeypatch, data)
    with pytest.raises(ValueError, match="neither text with a name per line nor separated by NUL"):
        find_pictures(["-"], True)


def test_what_is_passed_over_is_told_in_one_line(folder):
    for name in ("x.svg", "y.SVG", "z.psd"):
        (folder / name).touch()
    os.symlink(folder / "below", folder / "link")
    with pytest.warns(UserWarning, match=r"passed over: 1 \.psd file, 2 \.svg files, 1 link to a folder") as found:
        assert find_pictures(["."], True)[0] == ["./a.jpg", "./b.PNG", "./below/c.webp"]
    assert len(found) == 1


def test_a_folder_that_cannot_be_listed_is_a_problem(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if path.endswith("below"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find_pictures(["."], True) == (
        ["./a.jpg", "./b.PNG"],
        {"./below": "this folder cannot be listed: Permission denied"},
    )


def test_addresses_and_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    address = "https://example.org/a.jpg?size=1"
    assert find_pictures([address, "~/a.jpg", "~"], False)[0] == [address, str(folder / "a.jpg"), str(folder / "b.PNG")]


def test_control_characters_are_escaped_in_json():
    entry = {"image": "a\x1b[31m\x7f\x85\x9b2J\xa0é\udcff.png"}
    line = json_line(entry)
    assert not any(unicodedata.category(letter) == "Cc" for letter in line[:-1])
    assert json.loads(line) == entry
    assert "é" in line
