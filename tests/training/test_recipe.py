"""The recipe auto: settings by the size of data and model, what is held out, when a run stops, what it says then."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from blip_core import BlipConfig
from blip_core.cli import main
from blip_core.datasets import Dataset, Example, Picture, open_dataset
from blip_core.hub import SHIPPED
from blip_core.parameters.models import parameters
from blip_core.tasks import get_task
from blip_core.training import Settings, read_settings, train
from blip_core.training.freezing import is_frozen
from blip_core.training.held_out import Validation, hold_out
from blip_core.training.recipe import SIZES, automatic_settings, work_of
from blip_core.training.start import find_start
from tests.helpers.frameworks import FRAMEWORKS
from tests.helpers.training_runs import make_world, of, weights


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def captions(texts):
    """A data set of pictures that are not there, one for each text."""
    return Dataset("caption", [Example(f"x:{i}", (Picture(f"{i}.png"),), (text,)) for i, text in enumerate(texts)])


def automatic(task, model, count, text="a cat", **options):
    settings = read_settings(task, None, [options])
    start = find_start(task, model, None, settings)
    return Settings(**{**settings.to_dict(), **automatic_settings(start, captions([text] * count), settings)})


@pytest.mark.parametrize("count", [5, 20, 200, 2000, 20_000])
@pytest.mark.parametrize("task", ["caption", "retrieval", "vqa", "pretrain"])
def test_the_rule_gives_every_size_a_run(task, count):
    settings = automatic(task, SHIPPED, count)
    size = next(size for size in SIZES if count <= size.examples)
    whole = settings.batch_size * settings.accumulation
    assert settings.replay == (4 if task == "caption" and count <= 50 else 0)
    batch = 8 if settings.replay else size.batch
    assert min(batch, count) <= whole < 2 * batch
    assert not settings.drop_last
    steps = settings.epochs * math.ceil(count / whole)
    assert 400 <= steps < 410 if settings.replay else settings.epochs == size.passes
    assert 0 < settings.warmup_steps <= 0.11 * steps + 1
    assert settings.epochs / settings.validate_every <= 10
    assert settings.patience > 0


def test_the_rule_for_a_base_model_fits_into_eight_gigabytes():
    settings = automatic("caption", "base", 180, image_size=384)
    config = BlipConfig.base(image_size=384)
    work = work_of(get_task("caption"), config, settings)
    assert work.weights == sum(math.prod(row.shape) for row in parameters("BlipForConditionalGeneration", config))
    assert work.memory(settings.batch_size) < 8e9
    assert work_of(get_task("caption"), config, replace(settings, freeze="vision")).trained < 0.65 * work.trained


def test_mirrors_are_left_out_where_captions_speak_of_sides():
    assert automatic("caption", SHIPPED, 20, "a cat on the Left").augment("caption").flip == 0
    assert automatic("caption", SHIPPED, 20, "a cleft").augment("caption").flip == 0.5


def test_one_picture_is_refused_in_one_sentence(world, capsys):
    (world / "single.json").write_text('[{"image": "0.png", "caption": "a red square"}]')
    words = ["train", "caption", "--data", str(world / "single.json"), "--output", str(world / "single")]
    assert main([*words, "--model", str(world / "new" / "config.json")]) == 1
    assert "needs 2 pictures or more to learn from, and there is 1" in capsys.readouterr().err
    assert not (world / "single").exists()


def test_a_tenth_is_held_out_of_what_others_say_too():
    learned, held = hold_out(
        captions([f"{c} {s}" for c in ("red", "green") for s in ("a", "b", "c", "d", "e")]), 0.1, 0
    )
    assert (len(learned), len(held)) == (9, 1)
    learned, held = hold_out(captions([f"name{i}" for i in range(20)]), 0.1, 0)
    assert (len(learned), len(held)) == (20, 0)
    same = Dataset("caption", [Example(f"x:{i}", (Picture(f"{i // 5}.png"),), ("a b",)) for i in range(100)])
    learned, held = hold_out(same, 0.1, 0)
    assert (len(learned), len(held)) == (90, 10)
    assert not {e.images for e in learned} & {e.images for e in held}


@pytest.mark.parametrize("task", ["caption", "retrieval"])
def test_no_example_is_left_out_for_a_remainder(world, task):
    run = {
        **of(world, task, f"all-{task}", engine="pt"),
        "recipe": "auto",
        "batch_size": 3,
        "epochs": 1,
        "held_out": 0.0,
    }
    result = train(**run)
    assert result.step == 3
    lines = [json.loads(line) for line in (result.output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]


def test_a_run_stops_when_the_loss_rises_and_the_best_model_stays(world, monkeypatch, capsys):
    scores = iter([5.0, 3.0, 1.0, 2.0, 2.0, 0.5])
    monkeypatch.setattr(Validation, "losses", lambda self: {"loss": next(scores)})
    run = {**of(world, "caption", "early", engine="pt"), "recipe": "auto", "epochs": 10, "keep": 9, "patience": 2}
    result = train(**run, validation=world / "pairs.json")
    assert (result.step, result.best_epoch) == (8, 2)
    best = weights(result.output)
    second = weights(result.output / "checkpoints" / "step-00000004")
    assert all(np.array_equal(value, second[name]) for name, value in best.items())
    said = capsys.readouterr().err
    assert "stopped after 8 of 20 steps, as the loss was not lower any more; the model of epoch 2 stays" in said
    assert train(**run, validation=world / "pairs.json", resume=True).step == 8


def test_the_end_shows_what_was_said_before_and_is_said_now(world, capsys):
    run = {**of(world, "caption", "shown", engine="pt", learning_rate=1e-12), "recipe": "auto"}
    result = train(**run)
    said = capsys.readouterr().err
    assert "7 examples to learn from, 1 held out; 2 passes of 2 steps of 4" in said
    assert "NOTHING WAS LEARNED: the loss was" in said
    assert f"to use it: blip caption picture.jpg --model {result.output}" in said
    with open(result.output / "log.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["step"] for row in table] == ["0", "1", "2", "2", "3", "4", "4"]
    assert [bool(row["validation_loss"]) for row in table] == [True, False, False, True, False, False, True]
    page = (result.output / "report.html").read_text()
    assert page.count("<img src='data:image/jpeg") == 8
    assert "<polyline" in page
    assert "square" in page


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("freeze", ["vision", "vision:1"])
def test_what_is_frozen_stays_as_it_is(world, framework, freeze):
    runs = [
        of(world, "caption", f"{freeze[-1]}-{framework}-{n}", engine=framework, epochs=n, freeze=freeze) for n in (1, 2)
    ]
    one, two = (weights(train(**run).output) for run in runs)
    config = BlipConfig.from_pretrained(world / "new")
    for row in parameters("BlipForConditionalGeneration", config):
        same = np.array_equal(one[row.name], two[row.name])
        assert same == is_frozen(row, freeze) or row.name.endswith("key.bias"), row.name


def test_more_frozen_blocks_than_there_are_is_refused(world):
    with pytest.raises(
        ValueError, match=r"freeze must be vision, or vision:N with N from 1 to 1 blocks here, got 'vision:2'"
    ):
        train(**of(world, "caption", "frozen", engine="pt", freeze="vision:2"))
    with pytest.raises(ValueError, match="freeze must be none, vision or vision:N"):
        Settings(freeze="text")


def test_a_preset_of_another_task_is_refused(world):
    with pytest.raises(ValueError, match="recipe must be one of auto, caption, caption-large for caption, got 'vqa'"):
        train(**{**of(world, "caption", "other", engine="pt"), "recipe": "vqa"})
    assert len(open_dataset(world / "pairs.json", "caption")) == 8
