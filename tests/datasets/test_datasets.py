"""Data sets: every format, what is refused and why, and the original's cleaning of texts."""

import json
import multiprocessing
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from blip_core.datasets import Example, Picture, clean_caption, clean_question, open_dataset
from blip_core.tasks import TASKS
from tests.helpers.data_files import FIELDS, picture, picture_bytes, save_pictures, write_entries, write_tar


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ('A "Dog" (big); on: the*GRASS.', "a dog big on the grass"),
        ("#tag ~ well-known, isn't it?!", "tag well-known, isn't it?"),
        ("  two  spaces \n\n and lines\n", "two spaces and lines"),
        ("\na\tb\nc\t", "\na\tb\nc\t"),  # a single one stays
        ("...", ""),
        (" ".join(map(str, range(40))), " ".join(map(str, range(30)))),
    ],
)
def test_captions_are_cleaned_as_in_the_original(text, cleaned):
    assert clean_caption(text) == cleaned


def test_questions_are_cleaned_as_in_the_original():
    assert clean_question('Is "it" (a) dog-house?  ') == "is it a dog-house?"
    assert clean_question(" What's 1.5:2?") == " what's 152?"
    assert clean_question(" ".join(["why"] * 60)).count("why") == 50


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("form", ["array", "lines"])
def test_json_of_every_task(tmp_path, task, form):
    save_pictures(tmp_path, 2)
    images = {"images": ["0.png", "1.png"]} if task == "nlvr" else {"image": "1.png"}
    entries = [{**images, **FIELDS[task], "more": None}] * 2
    path = tmp_path / "data.any"
    path.write_text(json.dumps(entries) if form == "array" else "\ufeff\n" + "\n\n".join(map(json.dumps, entries)))
    data = open_dataset(path, task)
    assert len(data) == 2
    assert not data.problems
    assert [example.key for example in data] == [f"data.any:{i}" for i in ((0, 1) if form == "array" else (2, 4))]
    example = data[1]
    assert [picture.path for picture in example.images] == [
        str(tmp_path / name) for name in (["0.png", "1.png"] if task == "nlvr" else ["1.png"])
    ]
    assert example.images[-1].load().tobytes() == picture(1).tobytes()
    text = {"vqa": "What is it?", "nlvr": "the left one is a dog", "caption": "A Dog!"}.get(task, "a dog")
    assert example.texts == (text,)
    if task == "vqa":
        assert (example.question_id, example.answers, example.weights) == (3, ("dog", "cat"), (0.75, 0.25))
    assert example.label == {"nlvr": 1, "match": 0, "classification": 2}.get(task)


def test_captions_may_be_many_and_pictures_have_ids(tmp_path):
    save_pictures(tmp_path, 1)
    entries = [{"image": "0.png", "caption": ["a", "b"], "image_id": "coco_1"}, {"image": "0.png"}]
    data = open_dataset(write_entries(tmp_path / "a.json", entries), "retrieval")
    assert (data[0].texts, data[0].image_id) == (("a", "b"), "coco_1")
    assert (data[1].texts, data[1].image_id) == ((), None)  # of a file for testing


def test_an_answer_of_visual_genome_weighs_as_in_the_original(tmp_path):
    for name in ("coco", "genome"):
        save_pictures(tmp_path / name, 1)
    question = {"image": "0.png", "question": "what?"}
    entries = [
        {**question, "answer": "a dog", "dataset": "vg"},
        {**question, "answer": "a dog", "dataset": "vqa"},
        {**question, "answer": ["..."] * 7 + ["no"] * 3, "dataset": "vqa"},  # answers are not cleaned
    ]
    roots = {"vqa": tmp_path / "coco", "vg": str(tmp_path / "genome")}
    data = open_dataset(write_entries(tmp_path / "a.json", entries), "vqa", roots)
    assert [example.weights for example in data] == [(0.2,), (1.0,), (0.7, 0.3)]
    assert [example.images[0].path.split("/")[-2] for example in data] == ["genome", "coco", "coco"]
    with pytest.raises(ValueError, match="dataset must be one of vqa, for which image_root has a folder"):
        open_dataset(write_entries(tmp_path / "a.json", entries[:1]), "vqa", {"vqa": tmp_path})


@pytest.mark.parametrize(
    ("task", "fields", "reason"),
    [
        ("caption", {"caption": 3}, "caption must be a text or a list of texts, got 3"),
        ("caption", {"caption": ["a", None]}, "caption must be a text, got None"),
        ("caption", {"caption": " ... "}, "caption has no words"),
        ("caption", {"caption": "\ud800"}, "half of a surrogate pair"),
        ("caption", {"image_id": 1.5}, "image_id must be a whole number or a text, got 1.5"),
        ("caption", {"image": None}, "image must be the path of a picture"),
        ("caption", {"image": "missing.png"}, "missing.png' does not exist"),
        ("caption", {"image": "0.png\0"}, "does not exist"),
        ("caption", {"image": "a\0b/0.png"}, "does not exist"),
        ("caption", {"image": "../0.png"}, "'../0.png' lies outside of"),
        ("caption", {"image": "a/../../../etc/passwd"}, "lies outside of"),
        ("caption", {"images": ["0.png", "1.png"]}, "needs 1 picture, got 2"),
        ("caption", {"images": "0.png"}, "images a list of them"),
        ("vqa", {"question": None}, "question must be a text, got None"),
        ("vqa", {"answer": []}, "answer must be a text or a list of texts"),
        ("vqa", {"answer": ["it", " "]}, "answer has no words"),
        ("vqa", {"answer": [True]}, "answer must be a text, got True"),
        ("vqa", {"question_id": []}, "question_id must be"),
        ("nlvr", {"images": ["0.png"]}, "needs 2 pictures, got 1"),
        ("nlvr", {"label": "true"}, "label must be 'True' or 'False', got 'true'"),
        ("nlvr", {"label": []}, "label must be"),
    ],
)
def test_what_cannot_be_used_is_a_problem_and_not_the_end(tmp_path, task, fields, reason):
    save_pictures(tmp_path, 2)
    images = {"images": ["0.png", "1.png"]} if task == "nlvr" else {"image": "0.png"}
    good = {**images, **FIELDS[task]}
    data = open_dataset(write_entries(tmp_path / "a.json", [{**good, **fields}, good]), task)
    assert [example.key for example in data] == ["a.json:1"]
    assert [where for where, _ in data.problems] == ["a.json:0"]
    assert reason in data.problems[0][1]
    with pytest.raises(ValueError, match=r"No example for .* the first of 1 problems: a\.json:0"):
        open_dataset(write_entries(tmp_path / "a.json", [{**good, **fields}]), task)


def test_broken_lines(tmp_path):
    save_pictures(tmp_path, 1)
    good = json.dumps({"image": "0.png", "caption": "a"}).encode()
    lines = [b"{", b"[1]", b"\xff\xfe\xfa", b"[" * 100_000, good, b'{"a": ' + b"1" * 5000 + b"}"]
    (tmp_path / "a.jsonl").write_bytes(good + b"\n" + b"\n".join(lines))
    data = open_dataset(tmp_path / "a.jsonl", "caption")
    assert [example.key for example in data] == ["a.jsonl:1", "a.jsonl:6"]
    assert [where for where, _ in data.problems] == [f"a.jsonl:{n}" for n in (2, 3, 4, 5, 7)]
    assert data.problems[1][1] == "must be an object, got [1]"
    (tmp_path / "a.json").write_bytes(b"[" + good)
    with pytest.raises(ValueError, match=r"a.json is not a valid JSON array"):
        open_dataset(tmp_path / "a.json", "caption")


def test_absolute_paths_count_only_without_a_root_or_inside_it(tmp_path):
    save_pictures(tmp_path / "inside", 1)
    save_pictures(tmp_path / "inside2", 1)
    paths = [str(tmp_path / folder / "0.png") for folder in ("inside", "inside2")]
    file = write_entries(tmp_path / "inside" / "a.json", [{"image": path, "caption": "a"} for path in paths])
    assert [example.images[0].path for example in open_dataset(file, "caption")] == paths
    data = open_dataset(file, "caption", tmp_path / "inside")
    assert [example.images[0].path for example in data] == paths[:1]
    assert "lies outside of" in data.problems[0][1]


def test_folders_with_texts_beside_the_pictures(tmp_path):
    root = tmp_path / "photos"
    save_pictures(root / "sub", 5)
    (root / "sub" / "0.txt").write_bytes("\ufeffa dog\n\n a cat \r\n".encode())
    (root / "sub" / "1.json").write_text('{"caption": "a cup", "image_id": 7}')
    (root / "sub" / "2.txt").write_bytes(b"\xff")
    (root / "sub" / "3.txt").write_text("\n")
    (root / "lonely.txt").write_text("a dog")
    (root / "notes.md").write_text("nothing")
    (root / ".hidden").mkdir()
    picture().save(root / "my.photo.JPG", "JPEG")
    (root / "my.photo.txt").write_text("my own")
    data = open_dataset(root, "caption")
    assert [(e.key, e.texts, e.image_id) for e in data] == [
        ("photos:my.photo.JPG", ("my own",), None),
        ("photos:sub/0.png", ("a dog", " a cat "), None),
        ("photos:sub/1.png", ("a cup",), 7),
    ]
    problems = dict(data.problems)
    assert sorted(problems) == ["photos:lonely.txt", *(f"photos:sub/{n}.png" for n in (2, 3, 4))]
    assert problems["photos:lonely.txt"] == "has no picture beside it"
    assert problems["photos:sub/3.png"].startswith("caption has no words")
    assert problems["photos:sub/4.png"] == "has neither a .txt nor a .json of the same name"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_shards_are_read_in_place(tmp_path, suffix):
    kind = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[suffix]
    members = {}
    for number in range(3):
        members[f"part/{number:03d}{suffix}"] = picture_bytes(number, kind)
        members[f"part/{number:03d}.txt"] = b"a dog\na cat"
    path = write_tar(tmp_path / "a.tar", members)
    data = open_dataset(path, "caption")
    assert [example.key for example in data] == [f"a.tar:part/00{n}" for n in range(3)]
    assert data[2].texts == ("a dog", "a cat")
    assert data[2].images[0].name == f"{path}:part/002{suffix}"
    image = data[2].images[0].load()
    assert image.size == (24, 18)
    if suffix == ".png":
        assert image.tobytes() == picture(2).tobytes()
    assert list(tmp_path.iterdir()) == [path]


def test_shards_for_nlvr_and_vqa(tmp_path):
    members = {f"7.{side}.png": picture_bytes(number) for number, side in enumerate(("left", "right"))}
    members["7.json"] = b'{"sentence": "both", "label": "False"}'
    data = open_dataset(write_tar(tmp_path / "a.tar", members), "nlvr")
    assert data[0].label == 0
    assert [p.load().tobytes() for p in data[0].images] == [picture(n).tobytes() for n in range(2)]
    members = {"7.png": picture_bytes(), "7.json": b'{"question": "what?", "answer": "it"}', "7.cls": b"3"}
    assert open_dataset(write_tar(tmp_path / "b.tar", members), "vqa")[0].answers == ("it",)


def test_several_files_and_patterns(tmp_path):
    for part in ("x", "y"):
        for number in (8, 9, 10):
            path = tmp_path / part / f"{number:02d}.tar"
            path.parent.mkdir(exist_ok=True)
            write_tar(path, {"a.png": picture_bytes(), "a.txt": b"a dog"})
    assert len(open_dataset(str(tmp_path / "{x,y}" / "{08..10}.tar"), "caption")) == 6
    data = open_dataset([str(tmp_path / "x" / "*.tar"), tmp_path / "y" / "09.tar"], "caption")
    assert [example.key for example in data] == ["08.tar:a", "1/09.tar:a", "10.tar:a", "3/09.tar:a"]
    with pytest.raises(FileNotFoundError, match=r"11\.tar does not exist"):
        open_dataset(str(tmp_path / "x" / "{10..11}.tar"), "caption")
    with pytest.raises(FileNotFoundError, match=r"z\*\.tar does not exist"):
        open_dataset(str(tmp_path / "z*.tar"), "caption")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "No example for caption in"),
        (b"[]", "No example for caption in"),
        (b"\x1f\x8b\x08", "is compressed"),
        (b'{"images": []}', "needs 1 picture, got 0"),
    ],
)
def test_a_file_without_examples_is_an_error(tmp_path, content, error):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=error):
        open_dataset(tmp_path / "a.json", "caption")


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="task must be one of caption, retrieval"):
        open_dataset(tmp_path, "captions")
    with pytest.raises(ValueError, match="No example for caption in no file at all"):
        open_dataset([], "caption")


def test_pictures_are_turned_as_the_camera_noted(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    picture().save(tmp_path / "a.png", exif=exif)
    (tmp_path / "a.txt").write_text("a")
    write_tar(tmp_path / "a.tar", {name: (tmp_path / name).read_bytes() for name in ("a.png", "a.txt")})
    for source in (tmp_path, tmp_path / "a.tar"):
        assert open_dataset(source, "caption")[0].images[0].load().size == (18, 24)
    assert np.array_equal(
        np.asarray(open_dataset(tmp_path, "caption")[0].images[0].load()), np.rot90(np.asarray(picture()), -1)
    )


def test_csv_rows_are_entries(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    rows = [b"image,caption,split", b'1.png,"a dog,', b'and a cat",x', b"1.png,caf\xe9,x", b"2.png,gone,x", b"1.png,,x"]
    rows += [b"1.png", b"1.png,a dog, and a cat,x", b"", b'1.png,"a "dog"",x', b"1.png,a fox,x"]
    (tmp_path / "data.csv").write_bytes(b"\xef\xbb\xbf" + b"\n".join(rows))
    dataset = open_dataset(tmp_path / "data.csv", "caption")
    assert [(e.key, e.texts) for e in dataset] == [
        ("data.csv:3", ("a dog,\nand a cat",)),
        ("data.csv:11", ("a fox",)),
    ]
    problems = dict(dataset.problems)
    assert list(problems) == [f"data.csv:{line}" for line in (4, 5, 6, 7, 8, 10)]
    assert problems["data.csv:4"] == "is not UTF-8; save it as UTF-8 (a spreadsheet: as CSV UTF-8)"
    assert "does not exist" in problems["data.csv:5"]
    assert problems["data.csv:6"] == "caption has no words, got ''"
    assert problems["data.csv:7"] == "has 1 fields, the heading 3"
    assert problems["data.csv:8"].startswith("has 4 fields, the heading 3; put a text that holds a comma into double")
    assert problems["data.csv:10"].startswith("is not valid CSV: ")
    (tmp_path / "other.csv").write_text("path,text\n1.png,a dog\n")
    with pytest.raises(ValueError, match=r"other\.csv must have a column named image, got \['path', 'text'\]"):
        open_dataset(tmp_path / "other.csv", "caption")
    (tmp_path / "none.csv").write_text("")
    with pytest.raises(ValueError, match=r"none\.csv must have a column named image, got none"):
        open_dataset(tmp_path / "none.csv", "caption")


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_refused_with_what_to_do(tmp_path, name, encoding):
    (tmp_path / name).write_bytes(f"\ufeff{json.dumps([{'image': '0.png', 'caption': 'a dog'}])}".encode(encoding))
    with pytest.raises(ValueError, match=rf"{name} is UTF-16; save it as UTF-8"):
        open_dataset(tmp_path / name, "caption")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_line_that_no_example_needs_is_a_problem_and_takes_no_memory(tmp_path, name):
    save_pictures(tmp_path, 1)
    good = b"0.png,a dog\n" if name == "a.csv" else b'{"image": "0.png", "caption": "a dog"}\n'
    with open(tmp_path / name, "wb") as file:
        file.write((b"image,caption\n" if name == "a.csv" else b"") + good)
        for _ in range(64):
            file.write(b"0.png,a" + b"x" * 2**20 if name == "a.csv" else b"[" * 2**20)
        file.write(b"\n" + good)
    tracemalloc.start()
    data = open_dataset(tmp_path / name, "caption")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) == 2
    assert most < 2**24
    assert [where for where, _ in data.problems] == [f"{name}:{3 if name == 'a.csv' else 2}"]
    assert ("field larger" if name == "a.csv" else "is longer than 1048576 bytes") in data.problems[0][1]


def test_fields_that_are_nested_deeply(tmp_path):
    save_pictures(tmp_path, 1)
    good = '{"image": "0.png", "caption": "a dog"'
    deep = [f'{good}, "caption": {"[" * depth}{"]" * depth}}}' for depth in (600, 5000, 100_000)]
    (tmp_path / "a.jsonl").write_text("\n".join([*deep, good + "}"]))
    data = open_dataset(tmp_path / "a.jsonl", "caption")
    assert [example.key for example in data] == ["a.jsonl:4"]
    assert [where for where, _ in data.problems] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]


def test_no_room_for_temporary_files(tmp_path, monkeypatch):
    save_pictures(tmp_path, 1)
    path = write_entries(tmp_path / "a.json", [{"image": "0.png", "caption": "a dog"}])
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full)
        with pytest.raises(OSError, match=r"temporary file: No space left on device. Make room, or set .* TMPDIR"):
            open_dataset(path, "caption")
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(OSError, match=r"temporary file: No such file or directory. Make room, or"):
        open_dataset(path, "caption")


def test_examples_come_back_as_they_were(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    names = save_pictures(folder, 3)
    entries = [{"images": [n, names[0]], "sentence": "ein H\u00fcndchen \U0001f436", "label": "True"} for n in names]
    data = open_dataset(write_entries(folder / "a.json", entries), "nlvr")
    paths = [str(folder / name) for name in names]
    made = [
        Example(f"a.json:{number}", (Picture(path), Picture(paths[0])), (entries[0]["sentence"],), label=1)
        for number, path in enumerate(paths)
    ]
    assert list(data) == made == data[:] == data.examples[:]
    assert data[-1] == data[2] == data[::-1][0] == made[2]
    with pytest.raises(IndexError):
        data[3]
    with ThreadPoolExecutor(4) as pool:  # threads, and processes that are forked
        assert list(pool.map(data.__getitem__, [0, 1, 2] * 50)) == made * 50
    with multiprocessing.get_context("fork").Pool(2, set_shared, (data,)) as processes:
        assert processes.map(get_shared, [0, 1, 2] * 50) == made * 50


def set_shared(data):
    global shared
    shared = data


def get_shared(number):
    return shared[number]
