"""`--background`: transparent pictures are seen as if they lay on that colour, by every command that sees pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip_core.training
from blip_core.cli import evaluate, main
from blip_core.training import TrainingResult
from tests.helpers.frameworks import INSTALLED

GREEN = (0, 128, 0)


@pytest.fixture
def cutout(tmp_path, monkeypatch):
    """The working directory, with a transparent picture, cut/a.png, and the same on green, on/a.png."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    pixels[8:24, 8:24] = (255, 0, 0, 255)
    picture, ground = Image.fromarray(pixels), Image.new("RGB", (32, 32), GREEN)
    ground.paste(picture, mask=picture.getchannel("A"))
    Path("labels.txt").write_text("square\ncircle\n")
    for folder, image in (("cut", picture), ("on", ground)):
        Path(folder).mkdir()
        image.save(f"{folder}/a.png")
        entry = {"image": "a.png", "caption": "a red square", "question": "what?", "answer": "a red square"}
        Path(folder, "data.jsonl").write_text(json.dumps(entry) + "\n")


RUNS = [
    (["caption", "{}/a.png", "--scores"], "caption"),
    (["answer", "{}/a.png", "what is it?", "--scores"], "answer"),
    (["match", "{}/a.png", "a red square"], "match"),
    (["classify", "{}/a.png", "--labels", "labels.txt"], "match"),
    (["explain", "{}/a.png", "a red square", "--output", "{}/page.png", "--method", "attention"], "match"),
    (["search", "a red square", "{}", "--index", "{}/index"], "match"),
]


def outcome(words, model, folder, capfd, *more):
    """The numbers and texts that a command finds for the picture of a folder."""
    words = [word.format(folder) for word in words]
    assert main([*words, "--json", "--model", str(model), *more]) == 0, capfd.readouterr().err
    written = [path.read_bytes() for path in Path(folder).glob("page.png")]
    return capfd.readouterr().out.replace(f"{folder}/", ""), written


@pytest.mark.filterwarnings("ignore:A picture has transparent parts")
@pytest.mark.parametrize(("words", "model"), RUNS, ids=[" ".join(words[:2]) for words, _ in RUNS])
def test_a_transparent_picture_is_seen_on_the_colour(models, cutout, capfd, words, model):
    model = models / model
    wanted = outcome(words, model, "on", capfd)
    assert outcome(words, model, "cut", capfd, "--background", "green") == wanted
    if words[0] == "search":
        words = [*words, "--rebuild"]
    assert outcome(words, model, "cut", capfd) != wanted


@pytest.mark.filterwarnings("ignore:A picture has transparent parts")
@pytest.mark.parametrize("engine", INSTALLED)
def test_it_is_the_same_in_every_engine(models, cutout, capfd, engine):
    words = ["caption", "{}/a.png", "--scores", "--engine", engine]
    wanted = outcome(words, models / "caption", "on", capfd)
    assert outcome(words, models / "caption", "cut", capfd, "--background", "#008000") == wanted


def test_capfilt_sees_pictures_on_it(models, cutout, capfd):
    def kept(folder, *more):
        words = ["capfilt", "--input", f"{folder}/data.jsonl", "--captioner", str(models / "caption")]
        words += ["--filter", str(models / "match"), "--output", f"{folder}/out", "--threshold", "0", "--beams", "1"]
        assert main([*words, *more]) == 0, capfd.readouterr().err
        lines = [json.loads(line) for line in next(Path(folder, "out/kept").glob("*.jsonl")).read_text().splitlines()]
        return [{name: value for name, value in line.items() if name not in ("image", "hash")} for line in lines]

    assert kept("cut", "--background", "green") == kept("on")


def test_evaluation_takes_it(models, cutout, monkeypatch):
    taken = []

    def load_head(*arguments):
        taken.append(loaded := load(*arguments))
        return loaded

    load = evaluate.load_head
    monkeypatch.setattr(evaluate, "load_head", load_head)
    words = ["evaluate", "caption", "--data", "cut/data.jsonl", "--model", str(models / "caption")]
    assert main([*words, "--background", "green"]) == 0
    assert [loaded.processor.image_processor.background for loaded in taken] == ["green"]


def test_training_takes_it(cutout, monkeypatch):
    taken = []

    def train(*arguments, background, **options):
        taken.append(background)
        return TrainingResult(Path("out"), 0, None, None)

    monkeypatch.setattr(blip_core.training, "train", train)
    assert main(["train", "caption", "--data", "cut/data.jsonl", "--output", "out", "--background", "green"]) == 0
    assert taken == ["green"]


def test_what_is_no_colour_costs_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        main(["caption", "a.png", "--background", "whit"])
    assert end.value.code == 2
    assert "argument --background: must be a colour such as white or '#ffcc00', got 'whit'" in capsys.readouterr().err
