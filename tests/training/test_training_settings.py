"""The settings of training, the schedules, and what is told of both."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from blip_core.cli.train import OWN
from blip_core.datasets import Augmentation
from blip_core.hub import SHIPPED
from blip_core.tasks import PRESETS, TASKS, recipes
from blip_core.training import Settings, read_settings
from blip_core.training.schedules import learning_rate, momentum_share
from blip_core.training.settings import AUTO, OF_PAPER, parse_setting, preset_values
from blip_core.training.start import find_start

DOCS = Path(__file__).parents[2] / "docs"


VALUES = json.loads((Path(__file__).parents[1] / "data" / "training_presets.json").read_text())
"""What the original and the paper have, typed from its files, for each preset."""


@pytest.mark.parametrize("name", VALUES)
def test_presets_are_the_originals(name):
    task = name.partition("-")[0]
    expected = {setting: row["value"] for setting, row in VALUES[name].items()}
    assert preset_values(task, name) == expected
    settings = read_settings(task, None, (), name)
    assert settings.augment(task) == Augmentation.original(task)
    assert (settings.weight_decay_on, settings.beta1, settings.beta2, settings.epsilon) == ("all", 0.9, 0.999, 1e-8)
    lines = (PRESETS / f"{name}.toml").read_text().splitlines()[1:]
    said = {line.partition(" = ")[0]: line.partition("  # ")[2] for line in lines if not line.startswith("#")}
    assert said == {setting: row["source"] for setting, row in VALUES[name].items()}


def test_every_task_has_presets():
    tasks = {task.name for task in TASKS.values() if task.trains}
    assert {name for task in tasks for name in recipes(task)} == VALUES.keys() | {"match", "classification"}
    assert recipes("retrieval") == ["retrieval-coco", "retrieval-flickr", "retrieval-large"]
    page = (DOCS / "training.md").read_text()
    for name, rows in VALUES.items():
        assert f"`{name}`" in page, name
        assert f"{rows['learning_rate']['value']:.0e}".replace("e-0", "e-") in page
    with pytest.raises(ValueError, match="recipe must be one of auto, caption, caption-large for caption, got 'vqa'"):
        read_settings("caption", None, (), "vqa")


def test_the_recipe_auto_leaves_sizes_to_the_model():
    own = preset_values("retrieval", AUTO)
    assert own == {k: v for k, v in preset_values("retrieval", "retrieval-coco").items() if k not in OF_PAPER}
    assert preset_values("retrieval", "retrieval") == preset_values("retrieval", "retrieval-coco")


def test_a_file_goes_over_the_preset_and_single_settings_over_the_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('epochs = 3\ndropout = "model"\n[augmentation]\nflip = 0.0\nrand_augment = []\n')
    settings = read_settings("caption", file, [parse_setting("epochs=4"), parse_setting("augmentation.rotate = 10")])
    assert settings.epochs == 4
    assert settings.prompt == "a picture of "
    assert settings.dropout is None
    assert settings.label_smoothing == 0.1
    assert settings.augment("caption") == Augmentation(flip=0.0, rand_augment=None, rotate=10)
    assert settings.model_settings() == {"text_config": {"label_smoothing": 0.1}}
    assert Settings(negative_all_rank=False).model_settings() == {"negative_all_rank": False}


@pytest.mark.parametrize(
    ("text", "value"),
    [("prompt=a photo of", "a photo of"), ('prompt = "x"', "x"), ("epochs=2", 2), ("learning_rate=3e-4", 3e-4),
     ("augmentation=false", False), ("device=cuda:1", "cuda:1")],
)  # fmt: skip
def test_a_setting_is_a_line_of_toml_or_a_text(text, value):
    assert list(parse_setting(text).values()) == [value]


def test_what_is_no_setting_is_refused(tmp_path):
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    with pytest.raises(ValueError, match=r"bad.toml is not a TOML file"):
        read_settings("caption", tmp_path / "bad.toml")
    with pytest.raises(ValueError, match="a setting must be KEY=VALUE, got 'epochs'"):
        parse_setting("epochs")
    with pytest.raises(ValueError, match=r"learning_rate must be a number above 0 and up to 1e\+30, got nan"):
        Settings(learning_rate=math.nan)
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1, got True"):
        Settings(epochs=True)


def test_schedules_are_the_originals():
    cosine = Settings(learning_rate=1e-5, epochs=5)
    assert [learning_rate(cosine, step, 10) for step in (0, 9, 10, 49)] == pytest.approx(
        [1e-5, 1e-5, 1e-5 * (1 + math.cos(math.pi / 5)) / 2, 1e-5 * (1 + math.cos(4 * math.pi / 5)) / 2]
    )
    pretrain = read_settings("pretrain")
    assert [learning_rate(pretrain, step, 5000) for step in (0, 1500, 3000, 4999, 5000, 10000)] == pytest.approx(
        [1e-6, 1e-6 + (3e-4 - 1e-6) / 2, 3e-4, 3e-4, 2.7e-4, 2.43e-4]
    )
    assert learning_rate(pretrain, 5000 * 60, 5000) == 1e-6
    # A first epoch shorter than the warm-up ends it: the original warms up in the first epoch alone.
    assert [learning_rate(pretrain, step, 1500) for step in (1499, 1500)] == pytest.approx(
        [1e-6 + (3e-4 - 1e-6) * 1499 / 3000, 2.7e-4]
    )
    steps = Settings(warmup_steps=3000, schedule="constant", schedule_every="step")
    assert learning_rate(steps, 1500, 1000) == pytest.approx(steps.learning_rate / 2)
    smooth = Settings(learning_rate=1.0, epochs=2, schedule_every="step")
    assert learning_rate(smooth, 10, 10) == pytest.approx(0.5)
    assert learning_rate(smooth, 5, 10) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_alpha_grows_over_the_first_epochs():
    settings = read_settings("pretrain")
    assert [momentum_share(settings, step, 100) for step in (0, 100, 200, 900)] == pytest.approx([0, 0.2, 0.4, 0.4])
    assert momentum_share(read_settings("retrieval"), 50, 100) == pytest.approx(0.2)
    assert momentum_share(Settings(alpha_epochs=0), 0, 100) == 0.4


def test_every_setting_is_described():
    text = (DOCS / "training.md").read_text()
    missing = [setting.name for setting in fields(Settings) if f"| `{setting.name}` |" not in text]
    assert not missing
    assert set(OWN) <= {setting.name for setting in fields(Settings)}


def test_the_background_of_training_is_that_of_use():
    """The model in the package is for pictures on white, unless it is trained on another colour."""
    settings = read_settings("caption")
    found = find_start("caption", SHIPPED, None, settings).processor.image_processor
    assert found.background == "white"
    found = find_start("caption", SHIPPED, None, replace(settings, background="#000000")).processor.image_processor
    assert found.background == "#000000"
    assert find_start("caption", "base", None, settings).processor.image_processor.background is None
