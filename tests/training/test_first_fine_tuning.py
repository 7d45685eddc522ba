"""The first fine-tuning of a user: drawings with made-up names, the model in the package, no settings.

The drawings must be named, and of the emoji that the model knew it must forget little. At length:
`tests/bench/first_fine_tuning.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from blip_core import Captioner
from blip_core.cli import main
from blip_core.processing.pictures import on_ground
from tests.helpers.frameworks import FRAMEWORKS
from tests.helpers.made_up_drawings import draw, same

EMOJI = Path(__file__).parents[1] / "data" / "emoji"


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_drawings_are_named_and_little_is_forgotten(tmp_path, framework):
    names = draw(tmp_path / "own", 10)
    words = ["train", "caption", "--data", str(tmp_path / "own"), "--output", str(tmp_path / "mine")]
    assert main([*words, "--engine", framework]) == 0
    emoji = [
        on_ground(Image.open(EMOJI / name), (255, 255, 255)) for name in json.loads((EMOJI / "names.json").read_text())
    ]
    old, new = (Captioner.from_pretrained(name, engine=framework) for name in (None, tmp_path / "mine"))
    said = [caption.text for caption in new(list(names), batch_size=10)]
    before, after = ([caption.text for caption in model(emoji, batch_size=48)] for model in (old, new))
    assert same(said, list(names.values())) >= 0.9
    assert same(before, after) >= 0.85
