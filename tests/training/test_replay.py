"""Replay: mixed pictures hold a captioner to what it said before, alike in both frameworks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blip_core.datasets import open_dataset
from blip_core.training import train
from blip_core.training.replay import mix
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED
from tests.helpers.training_runs import losses, make_world, of, weights


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tiny world with a captioner of one step to begin with."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    train(**of(folder, "caption", "base", max_steps=1))
    return folder


def replaying(world, output, **more):
    return {**of(world, "caption", output, replay=2, learning_rate=1e-2, **more), "model": world / "base"}


def test_the_distance_from_before_is_the_same_in_both_frameworks(world):
    outputs = [train(**replaying(world, f"both-{name}", engine=name)).output for name in FRAMEWORKS]
    for output in outputs:
        distances = losses(output, "loss_replay")
        assert distances[0] == pytest.approx(0, abs=1e-6)  # nothing has changed yet
        assert min(distances[1:]) > 1e-4
        said = json.loads((output / "replay" / "captions.json").read_text())
        assert len(said) == 32
    for name in ("loss", "loss_replay"):
        assert np.allclose(losses(outputs[0], name), losses(outputs[-1], name), rtol=0, atol=2e-5)


@pytest.mark.parametrize("framework", ["pt", pytest.param("tf", marks=pytest.mark.slow)])
@pytest.mark.parametrize("freeze", ["none", "vision"])
def test_a_model_stays_nearer_to_what_it_said(world, framework, freeze, monkeypatch):
    found = []
    for weight in (0.0, 10.0):
        monkeypatch.setattr(f"blip_{framework}.trainer.REPLAY_WEIGHT", weight)
        run = replaying(world, f"{freeze}-{framework}-{weight}", engine=framework, freeze=freeze, epochs=4)
        found.append(losses(train(**run).output, "loss_replay")[-1])
    assert found[1] < 0.5 * found[0]


@pytest.mark.needs("pt")
def test_a_run_that_goes_on_compares_with_the_first_model(world):
    whole = train(**replaying(world, "whole", engine="pt")).output
    part = replaying(world, "part", engine="pt")
    train(**part, max_steps=2)
    assert train(**part, resume=True).step == 4
    assert all(np.array_equal(value, weights(part["output"])[name]) for name, value in weights(whole).items())
    assert losses(part["output"], "loss_replay") == losses(whole, "loss_replay")


def test_a_model_without_captions_is_refused(world):
    with pytest.raises(ValueError, match="replay keeps what a captioner says"):
        train(**{**replaying(world, "refused", engine=INSTALLED[0]), "model": world / "new" / "config.json"})


def test_mixed_pictures_have_the_size_of_their_parts(world):
    images = [picture.images[0].load().convert("RGB") for picture in open_dataset(world / "pairs.json", "caption")]
    noise = np.random.default_rng(0)
    assert {mix(images, noise).size for _ in range(20)} == {(32, 32)}
