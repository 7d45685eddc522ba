"""Data sets as they are published: every form with the right pairs, none taken for another, and what cannot be used."""

import json
import tarfile

import pytest
from PIL import Image

from blip_core.datasets import open_dataset
from blip_core.datasets.forms import FORMS, Form, recognise, register
from blip_core.datasets.look import Look
from tests.helpers.data_files import FIELDS, picture_bytes, save_pictures, write_entries, write_tar
from tests.helpers.frameworks import require
from tests.helpers.published_forms import (
    COLOURS,
    PUBLISHED,
    TEXTS,
    coco,
    colour_of,
    dump,
    flat,
    image_folder,
    img2dataset,
    karpathy,
    pairs,
    save,
    saved,
    vqa,
)  # fmt: skip

SPECIFIC = [form for form in FORMS.values() if not form.general]


def write(name, folder):
    row = PUBLISHED[name]
    if row.optional:
        require(row.optional)
    return row.write(folder)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_form_is_read_with_the_right_pairs(tmp_path, name):
    row, path = PUBLISHED[name], write(name, tmp_path)
    root = tmp_path / row.image_root if row.image_root else None
    dataset = open_dataset(path, row.task, root, **(row.options or {}))
    if row.task == "vqa":
        expected = [(colour, "What color?", colour) for colour in COLOURS]
    elif row.task == "nlvr":
        expected = [("red", colour, text, 1) for colour, text in zip(COLOURS, TEXTS, strict=True)]
    else:
        expected = list(zip(COLOURS, TEXTS, strict=True))
    assert pairs(dataset) == expected
    assert not dataset.problems
    assert row.form in dataset.forms.values()
    assert len({example.key for example in dataset}) == 3


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_recogniser_takes_the_file_of_another(tmp_path, name):
    path = write(name, tmp_path)
    path = path[0] if isinstance(path, list) else path
    assert [form.name for form in SPECIFIC if form.recognise(Look(path))] == [PUBLISHED[name].form]


def test_no_recogniser_takes_our_own_forms(tmp_path):
    save_pictures(tmp_path / "folder", 1)
    images = {task: {"images": ["0.png"] * 2} if task == "nlvr" else {"image": "0.png"} for task in FIELDS}
    entries = [{**images[task], **FIELDS[task]} for task in FIELDS]
    paths = [write_entries(tmp_path / f"{number}.json", [entry] * 2) for number, entry in enumerate(entries)]
    for number, entry in enumerate(entries):
        paths.append(tmp_path / f"{number}.jsonl")
        paths[-1].write_text(f"{json.dumps(entry)}\n" * (1 + number % 2))
    (tmp_path / "data.csv").write_text("image,caption\n0.png,a dog\n")
    write_tar(tmp_path / "data.tar", {"a.png": picture_bytes(), "a.txt": b"a dog"})
    for path in (*paths, tmp_path / "data.csv", tmp_path / "data.tar", tmp_path / "folder"):
        assert not [form.name for form in SPECIFIC if form.recognise(Look(path))], path
        assert recognise(Look(path)).general


@pytest.mark.parametrize("content", ["a dog\n", '{\n "model_type": "blip",\n "size": 3\n}', '"text"', "\x00\x01"])
def test_what_has_no_form_is_told_with_those_that_were_tried(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(ValueError, match=r"data\.json has none of the forms .*; tried COCO captions, .* JSON lin"):
        open_dataset(tmp_path / "data.json", "caption")


def test_a_wrong_task_is_told_with_the_form(tmp_path):
    with pytest.raises(ValueError, match=r"captions_val2014\.json \(read as COCO captions\).*question must be a text"):
        open_dataset(coco(tmp_path), "vqa")


def test_a_form_can_be_added(tmp_path, monkeypatch):
    monkeypatch.setattr("blip_core.datasets.forms.FORMS", dict(FORMS))
    save(tmp_path, "red.png", "green.png", "blue.png")

    def read(look):
        return (("0", None, {"image": f"{line}.png", "caption": line}) for line in look.path.read_text().split())

    register(Form("colours", lambda look: look.heading == "red", read))
    (tmp_path / "data.txt").write_text("red\nblue\n")
    assert pairs(open_dataset(tmp_path / "data.txt", "caption")) == [("red", "red"), ("blue", "blue")]
    with pytest.raises(ValueError, match="There is a form 'colours' already"):
        register(Form("colours", lambda look: False, read))


def test_splits(tmp_path):
    path = karpathy(tmp_path)
    with pytest.raises(ValueError, match=r"dataset_coco\.json holds the splits train \(1\), test \(3\); choose a spl"):
        open_dataset(path, "caption")
    with pytest.raises(ValueError, match=r"There is no split 'val2' in the data; it has train \(1\), test \(3\)\."):
        open_dataset(path, "caption", split="test+val2")
    both = open_dataset(path, "caption", split="test+train")
    assert (len(both), len(both.problems)) == (3, 1)  # the training picture is not there, which only now is a problem
    assert both.splits == {"train": 1, "test": 3}
    assert len(open_dataset(path, "caption", split="all")) == 3
    with pytest.raises(ValueError, match="There is no split 'val' in the data; its entries name no split"):
        open_dataset(coco(tmp_path / "coco"), "caption", split="val")
    entries = [{"image": "0.png", "caption": split, "split": split} for split in ("train", "val")]
    save_pictures(tmp_path, 1)
    own = write_entries(tmp_path / "own.json", entries)
    assert [example.texts for example in open_dataset(own, "caption", split="val")] == [("val",)]
    assert len(open_dataset(own, "caption")) == 2  # our own entries may say a split of any meaning


def test_one_metadata_file_of_several_splits(tmp_path):
    save(tmp_path, "train/1.png", "train/2.png", "test/1.png")
    lines = [{"file_name": name, "text": name} for name in ("train/1.png", "train/2.png", "test/1.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert pairs(open_dataset(tmp_path, "caption", split="test")) == [("blue", "test/1.png")]


def test_pictures_that_lie_nowhere_or_twice(tmp_path):
    path = coco(tmp_path)
    name = "COCO_val2014_000000000042.jpg"
    save(tmp_path / "copy", name, "x.jpg", "y.jpg")  # the same contents
    assert len(open_dataset(path, "caption")) == 3
    (tmp_path / "copy" / name).write_bytes(flat("blue", "JPEG"))
    dataset = open_dataset(path, "caption")
    assert [colour_of(example.images[0]) for example in dataset] == ["green", "blue"]
    [(where, reason)] = dataset.problems
    assert where == "captions_val2014.json:0"
    assert reason.startswith(f"the picture '{name}' is there twice with different contents, as {tmp_path}/copy/{name} ")
    (tmp_path / "val2014" / "COCO_val2014_000000000073.jpg").unlink()
    dataset = open_dataset(path, "caption", tmp_path / "val2014")
    assert [colour_of(example.images[0]) for example in dataset] == ["red", "blue"]
    assert "does not exist in" in dataset.problems[0][1]


HOSTILE = ["../secret.png", "/etc/passwd", "val2014/../../secret.png", "secret\0.png", "", 3, None, ["secret.png"]]


@pytest.mark.parametrize("name", HOSTILE)
def test_paths_lead_nowhere(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(flat("red"))
    path = coco(tmp_path / "data")
    value = json.loads(path.read_text())
    value["images"][0]["file_name"] = name
    dataset = open_dataset(dump(path, value), "caption", tmp_path / "data")
    assert [colour_of(example.images[0]) for example in dataset] == ["green", "blue"]
    assert len(dataset.problems) == 1
    folder = image_folder("jsonl")(tmp_path / "folder") / "train"
    with open(folder / "metadata.jsonl", "a") as file:
        file.write(json.dumps({"file_name": name, "text": "a"}))
    dataset = open_dataset(folder, "caption", folder)
    assert (len(dataset), len(dataset.problems)) == (3, 1)


def test_wrong_fields_are_problems_and_not_the_end(tmp_path):
    path = coco(tmp_path)
    value = json.loads(path.read_text())
    good = value["annotations"][0]
    value["annotations"] += [None, {**good, "image_id": [1]}, {**good, "image_id": 7}, {**good, "caption": 5}]
    value["images"] += [3, {**value["images"][0], "file_name": "other.jpg"}, {"id": True, "file_name": "x.jpg"}]
    dataset = open_dataset(dump(path, value), "caption")
    problems = dict(dataset.problems)
    name = "captions_val2014.json"
    assert problems[f"{name}:images.4"] == "the picture 42 is there twice, with other names"
    assert problems[f"{name}:3"] == "must be an object, got None"
    assert problems[f"{name}:5"] == "names the picture 7, which the file does not list"
    assert len(problems) == 7
    value["annotations"] = [{"image_id": 42, "bbox": [0, 0, 1, 1], "category_id": 3}]
    with pytest.raises(ValueError, match="has annotations without captions; take the file of COCO's captions"):
        open_dataset(dump(path, value), "caption")
    value["annotations"] = []  # as the files for testing
    value["images"] = value["images"][:3]
    assert [example.texts for example in open_dataset(dump(path, value), "caption")] == [()] * 3


def test_questions_and_answers_find_each_other(tmp_path):
    path = vqa(tmp_path)
    said = tmp_path / "v2_mscoco_val2014_annotations.json"
    for given in ([path, said], [said, path], path, said):
        dataset = open_dataset(given, "vqa")
        assert [(e.question_id, e.answers, e.image_id) for e in dataset] == [
            (1000 * number, (colour,), number) for number, colour in zip((42, 73, 74), COLOURS, strict=True)
        ]
        assert not dataset.problems
    value = json.loads(said.read_text())
    value["annotations"][0]["question_id"] = 5
    value["annotations"][1]["answers"] = [{"answer": 5}]
    dump(said, value)
    problems = dict(open_dataset(path, "vqa").problems)
    assert problems[f"{path.name}:2"] == "the annotations have no answer to question 74000"
    assert problems[f"{path.name}:1"] == "answer must be a text, got 5"
    said.rename(tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"other\.json holds answers alone; name the file of their questions, too"):
        open_dataset(tmp_path / "other.json", "vqa")
    assert [example.answers for example in open_dataset(path, "vqa")] == [()] * 3  # as the files for testing
    tests = json.loads(path.read_text())
    tests["questions"] = [{**question, "question_id": 1} for question in tests["questions"][:1]]
    dump(tmp_path / "test.json", tests)
    both = open_dataset([tmp_path / "test.json", path, tmp_path / "other.json"], "vqa")
    assert [len(example.answers) for example in both] == [0, 1]  # no answers of others are missed


def test_an_answer_of_visual_genome_weighs_less(tmp_path):
    dataset = open_dataset(PUBLISHED["visual genome"].write(tmp_path), "vqa")
    assert {example.weights for example in dataset} == {(0.2,)}


def test_what_img2dataset_leaves(tmp_path):
    require("pyarrow")
    folder = img2dataset(tmp_path)
    with pytest.raises(ValueError, match=r"00000\.parquet must have a column named image.*list of what was downloaded"):
        open_dataset(folder / "00000.parquet", "caption")
    (folder / "00000.tar").unlink()
    with pytest.raises(ValueError, match=r"00000\.parquet must have a column named image.*give the folder with the"):
        open_dataset(folder, "caption")
    (folder / "00000.parquet").unlink()
    dataset = open_dataset(folder, "caption")
    assert pairs(dataset) == [("blue", TEXTS[2])]
    assert dataset.problems == [("laion:00000", "its pictures are missing; img2dataset left statistics alone")]
    with tarfile.open(folder / "00001.tar") as tar:
        tar.extractall(folder / "00001", filter="data")  # as --output_format files
    (folder / "00001.tar").unlink()
    assert [example.key for example in open_dataset(folder, "caption")] == ["laion:00001/000000002.jpg"]


def test_saved_data_sets_are_not_trusted(tmp_path):
    require("pyarrow")
    folder = saved(tmp_path) / "train"
    path = folder / "data-00000-of-00002.arrow"
    dataset = open_dataset(folder, "caption")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(OSError, match="changed while it was read"):
        dataset[0].images[0].read()
    dataset = open_dataset(folder, "caption")
    assert dataset[len(dataset) - 1].texts == (TEXTS[2],)
    assert any("the file is damaged" in reason for _, reason in dataset.problems) or len(dataset) == 3
    for name in ("../../secret.arrow", "/etc/passwd", "..", "", 3):
        dump(folder / "state.json", {"_data_files": [{"filename": name}]})
        with pytest.raises(ValueError, match="names its files and splits plainly"):
            open_dataset(folder, "caption")
    dump(tmp_path / "saved" / "dataset_dict.json", {"splits": ["../train"]})
    with pytest.raises(ValueError, match="names its files and splits plainly"):
        open_dataset(tmp_path / "saved", "caption")


def test_loading_scripts_are_refused(tmp_path):
    folder = tmp_path / "football"
    folder.mkdir()
    (folder / "football.py").write_text(
        "import datasets\nraise SystemExit('ran')\nclass Football(datasets.GeneratorBasedBuilder):\n    pass\n"
    )
    (folder / "README.md").write_text("a data set")
    for path in (folder, folder / "football.py"):
        with pytest.raises(ValueError, match=r"is a loading script .*, and code in data is never run"):
            open_dataset(path, "caption")


class Features(dict):
    pass


class Rows(list):
    """A data set as an object, without the library."""

    split = None
    features = Features()


def test_data_sets_as_objects(tmp_path):
    save(tmp_path, "red.png", "green.png", "blue.png")
    images = [{"bytes": flat("red"), "path": None}, Image.new("RGB", (32, 32), "green"), flat("blue")]
    rows = Rows({"image": image, "text": text} for image, text in zip(images, TEXTS, strict=True))
    dataset = open_dataset(rows, "caption")
    assert pairs(dataset) == list(zip(COLOURS, TEXTS, strict=True))
    assert [example.key for example in dataset] == ["dataset:0", "dataset:1", "dataset:2"]
    splits = {"train": rows, "test": Rows(rows[:1])}
    assert pairs(open_dataset(splits, "caption", split="test")) == [("red", TEXTS[0])]
    with pytest.raises(ValueError, match=r"dataset holds the splits train \(3\), test \(1\)"):
        open_dataset(splits, "caption")
    named = Rows({"image": f"{colour}.png", "caption": [text]} for colour, text in zip(COLOURS, TEXTS, strict=True))
    assert pairs(open_dataset(named, "caption", tmp_path)) == list(zip(COLOURS, TEXTS, strict=True))
    bad = Rows([{"image": 3, "text": "a"}, *rows[:1]])
    assert open_dataset(bad, "caption").problems == [("dataset:0", "image must be a picture, got 3")]
    with pytest.raises(ValueError, match="must have a column named image"):
        open_dataset(Rows([{"picture": 3}]), "caption")


@pytest.mark.parametrize("streamed", [False, True])
def test_data_sets_of_the_library(tmp_path, streamed):
    datasets = pytest.importorskip("datasets")
    columns = {"image": [{"bytes": flat(colour), "path": None} for colour in COLOURS], "text": list(TEXTS)}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    made = datasets.Dataset.from_dict(columns, features=features)
    dataset = open_dataset(made.to_iterable_dataset() if streamed else made, "caption")
    assert pairs(dataset) == list(zip(COLOURS, TEXTS, strict=True))
    made.save_to_disk(tmp_path / "saved")
    assert pairs(open_dataset(tmp_path / "saved", "caption")) == list(zip(COLOURS, TEXTS, strict=True))
