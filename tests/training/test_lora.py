"""LoRA in training: an adapter that loads upon its base, alike in both frameworks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blip_core.checkpoints import open_checkpoint
from blip_core.cli import main
from blip_core.training import train
from tests.helpers.frameworks import FRAMEWORKS, INSTALLED
from tests.helpers.training_runs import losses, make_world, of, weights


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tiny world with a captioner of one step to begin with."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    train(**of(folder, "caption", "base", max_steps=1))
    return folder


def lora(world, output, **more):
    return {**of(world, "caption", output, lora=3, learning_rate=1e-2, **more), "model": world / "base"}


def test_both_frameworks_write_the_same_adapter(world):
    outputs = [train(**lora(world, f"lora-{name}", engine=name)).output for name in FRAMEWORKS]
    base = weights(world / "base")
    for output in outputs:
        assert not (output / "model.safetensors").exists()
        settings = json.loads((output / "adapter_config.json").read_text())
        assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 3, 6.0)
        merged = weights(output)
        changed = {name for name in base if not np.array_equal(base[name], merged[name])}
        assert changed == {f"{name}.weight" for name in settings["target_modules"]}
        assert all(".layer" in name for name in changed)
    one, other = (weights(output) for output in (outputs[0], outputs[-1]))
    assert max(float(np.abs(one[name] - other[name]).max()) for name in one) < 2e-4
    assert np.allclose(losses(outputs[0]), losses(outputs[-1]), rtol=0, atol=2e-5)


def test_an_adapter_is_merged_by_convert_and_frozen_parts_get_none(world):
    output = train(**lora(world, "frozen", engine=INSTALLED[0], freeze="vision", max_steps=1)).output
    assert not any(
        "vision" in name for name in json.loads((output / "adapter_config.json").read_text())["target_modules"]
    )
    assert main(["convert", str(output), str(world / "merged")]) == 0
    expected, found = weights(output), open_checkpoint(world / "merged")
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())


@pytest.mark.needs("pt")
def test_a_stopped_run_goes_on_to_the_bit(world):
    whole = train(**lora(world, "whole", engine="pt", dropout=0.1)).output
    part = lora(world, "part", engine="pt", dropout=0.1)
    train(**part, max_steps=2)
    assert train(**part, resume=True).step == 4
    assert all(np.array_equal(value, weights(part["output"])[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "retrieval", "recipe": "retrieval"}, "lora does not go with retrieval"),
        ({"model": "new/config.json"}, "lora changes a model that exists; name one with --model"),
        ({"image_size": 16}, "lora keeps the pictures' size of its base, 32"),
    ],
)
def test_what_cannot_work_is_told(world, change, message):
    change = {**change, "model": world / change.get("model", "base")}
    with pytest.raises(ValueError, match=message):
        train(**{**lora(world, "refused", engine=INSTALLED[0]), **change})
