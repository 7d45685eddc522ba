"""`blip evaluate grounding` and `blip explain --boxes` by a model whose words find the patches of their colour."""

import json

import numpy as np
import pytest

from blip_core.cli import main
from blip_core.datasets import open_dataset
from blip_core.inference.attribution import find_box
from tests.helpers.colours import draw_patches, save_colour_model
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED
from tests.helpers.published_forms import refcoco

PATCH = (16, 16)  # pixels of the picture; the model sees half as many


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("grounding")
    save_colour_model(root / "model")
    red = {(0, 3): "red", (0, 4): "red", (1, 3): "red", (1, 4): "red"}
    draw_patches(5, 5, red | {(4, 0): "green"}, PATCH).save(root / "one.png")
    draw_patches(5, 5, {(2, 2): "blue"}, PATCH).save(root / "two.png")
    entries = [
        {"image": "one.png", "image_id": 7, "text": ["red", "the red one"], "box": [48, 0, 32, 32]},
        {"image": "one.png", "image_id": 7, "text": "green", "box": [0, 64, 16, 16]},
        {"image": "two.png", "image_id": 8, "text": "blue", "box": [16, 16, 16, 16]},  # beside the blue patch
    ]
    (root / "data.json").write_text(json.dumps(entries))
    boxes = {
        "7": [[0, 0, 48, 48, 0.9], [48, 0, 32, 32, 0.5], [0, 64, 16, 16]],
        "8": [[16, 16, 16, 16], [32, 32, 16, 16]],
    }
    (root / "boxes.json").write_text(json.dumps(boxes))
    return root


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_words_that_find_their_colours_are_grounded(world, tmp_path, capfd, framework):
    arguments = ["--data", str(world / "data.json"), "--model", str(world / "model"), "--engine", framework]
    more = ["--layer", "1", "--detections", str(world / "boxes.json"), "--output", str(tmp_path / "all.json"), "--json"]
    assert main(["evaluate", "grounding", *arguments, *more]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["counted"] == {"expressions": 4}
    assert found["metrics"] == {"pointing": 0.75, "box_accuracy": 0.75, "detection_accuracy": 0.75}
    red, again, green, blue = json.loads((tmp_path / "all.json").read_text())["examples"]
    assert red["box"] == again["box"] == pytest.approx([48, 0, 32, 32])
    assert green["box"] == pytest.approx([0, 64, 16, 16])
    assert (red["iou"], green["iou"], blue["iou"]) == pytest.approx((1, 1, 0))
    assert 0.4 < red["score"] < again["score"] < 1
    assert red["detection"] == [48, 0, 32, 32]
    assert blue["detection"] == [32, 32, 16, 16]


def test_boxes_of_words(world, tmp_path, capsys):
    picture, output = world / "one.png", tmp_path / "maps.png"
    model = ["--model", str(world / "model"), "--engine", INSTALLED[0], "--layer", "1", "-o", str(output)]
    plain = main(["explain", str(picture), "a red one", *model]), output.read_bytes()
    assert plain[0] == 0
    capsys.readouterr()
    assert main(["explain", str(picture), "a red one", *model, "--boxes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["  a: nowhere", "  red: 48, 0, 32, 32 (score 0.746)", "  one: nowhere"]
    assert output.read_bytes() != plain[1]
    assert main(["explain", str(picture), "red", *model, "--boxes", "--json"]) == 0
    word = json.loads(capsys.readouterr().out)["words"][0]
    assert (word["box"], word["score"]) == ([48, 0, 32, 32], pytest.approx(0.746, abs=1e-3))


def test_the_box_of_a_map_is_around_its_highest_part():
    heat = np.zeros((4, 5), np.float32)
    heat[1, 1:3], heat[2, 2], heat[0, 4] = (1.0, 0.6), 0.5, 0.9  # the last one is a part of its own
    box, score = find_box(heat, (50, 80))
    assert box == (10, 20, 20, 40)
    assert score == pytest.approx(2.1 / 3.0)
    assert find_box(np.ones((3, 3)), (9, 9)) is None


def test_expressions_as_they_are_published(tmp_path):
    dataset = open_dataset(refcoco(tmp_path), "grounding")
    assert [example.box for example in dataset] == [(4.0, 8.0, 6.0, 8.0)] * 3
    assert [example.image_id for example in dataset] == [42, 73, 74]


@pytest.mark.parametrize(
    ("box", "text", "reason"),
    [
        ([1, 2, 3], "a dog", "box must be x, y, width and height in pixels"),
        ([1, 2, 0, 4], "a dog", "box must be"),
        ([1, 2, float("inf"), 4], "a dog", "box must be"),
        ([1, 2, 3, 4], [], "text must be a text or a list of texts"),
        ([1, 2, 3, 4], None, "has no text"),
    ],
)
def test_entries_that_cannot_be_used(world, tmp_path, box, text, reason):
    entries = [{"image": str(world / "one.png"), "text": "red", "box": [0, 0, 2, 2]}]
    entries.append({"image": str(world / "one.png"), "text": text, "box": box})
    (tmp_path / "data.json").write_text(json.dumps(entries))
    dataset = open_dataset(tmp_path / "data.json", "grounding")
    assert len(dataset) == 1
    assert reason in dataset.problems[0][1]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ('{"7": [[0, 0, 3, 3]]}', "The detections have no boxes of 1 pictures, such as that of data.json:2"),
        ('{"7": [[0, 0, 3]]}', "must hold boxes [x, y, width, height] by image_id, got [[0, 0, 3]] of picture 7"),
        ("[1]", "must hold boxes [x, y, width, height] by image_id, got [1]"),
        ("{", "must hold a JSON object of boxes by image_id"),
    ],
)
def test_detections_that_cannot_be_used_are_one_sentence(world, tmp_path, capfd, boxes, message):
    (tmp_path / "boxes.json").write_text(boxes)
    arguments = ["--data", str(world / "data.json"), "--model", str(world / "model"), "--engine", INSTALLED[0]]
    assert main(["evaluate", "grounding", *arguments, "--detections", str(tmp_path / "boxes.json")]) == 1
    err = capfd.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
