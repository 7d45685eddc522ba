"""Tiny models, pictures with web captions, and the command, for the tests of CapFilt."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from blip_core import (
    BlipConfig,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
    BlipTokenizer,
    BlipVisionConfig,
)
from blip_core.checkpoints.saving import write_pretrained
from blip_core.cli import main
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.models import parameters, training_state
from tests.helpers.capfilt_runs import HEADS
from tests.helpers.object_store import served, store  # noqa: F401


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A captioner, a filter, and a checkpoint of pre-training, with its state, that holds both; all tiny and random."""
    root = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = BlipTextConfig(**sizes), BlipVisionConfig.base(**sizes, image_size=32)
    config = BlipConfig.from_text_vision_configs(text, vision, image_text_hidden_size=8)
    config.enc_token_id, config.queue_size = 30523, 6
    for name, head in HEADS.items():
        noise, rows = np.random.default_rng(4), parameters(head, config)
        values = {row.name: noise.normal(0, 0.5, row.shape).astype(np.float32) for row in rows}
        state = training_state(head, config) if name == "both" else []
        rows, values = rows + state, values | {row.name: initial_value(row, config, noise) for row in state}
        if name == "filter":
            values["itm_head.bias"][1] += 0.8  # scores lie on both sides of 0.5
            values["vision_model.embeddings.class_embedding"] += 0.1  # its vision encoder is not the captioner's
        write_pretrained(root / name, head, config, rows, lambda row, values=values: values[row.name])
        BlipProcessor(BlipImageProcessor(size=32), BlipTokenizer()).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures, the last with the bytes of the first, and web captions in a file of JSON lines."""
    root = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(5)
    entries = []
    for number in range(12):
        if number < 11:
            Image.fromarray(noise.integers(0, 256, (30, 40, 3), np.uint8)).save(root / f"{number}.png")
        entries.append({"image": f"{number}.png", "caption": f"Picture ({number})! {'of a red dog ' * (number % 3)}"})
    shutil.copy(root / "0.png", root / "11.png")
    entries.append({"image": "3.png", "caption": ["a second text", "A SECOND TEXT."]})
    (root / "data.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return root


@pytest.fixture
def blip(models, capfd):
    """Run `blip capfilt`; returns the exit code, standard output (parsed with --json) and standard error."""

    def run(source, output, *arguments, captioner="captioner", matcher="filter"):
        named = ("--captioner", str(models / captioner), "--filter", str(models / matcher))
        code = main(["capfilt", "--input", str(source), "--output", str(output), *named, *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, json.loads(out) if "--json" in arguments else out, err

    return run
