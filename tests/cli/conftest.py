"""Tiny models, pictures and the `blip` command, for the tests of the command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
from blip_core.checkpoints.saving import write_pretrained
from blip_core.cli import main
from blip_core.inference.loaded_model import LoadedModel
from blip_core.parameters.models import parameters
from tests.helpers.object_store import served, store  # noqa: F401

HEADS = {
    "caption": "BlipForConditionalGeneration",
    "answer": "BlipForQuestionAnswering",
    "match": "BlipForImageTextRetrieval",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a tiny random model for each command."""
    root = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = BlipTextConfig(**sizes), BlipVisionConfig.base(**sizes, image_size=32)
    config = BlipConfig.from_text_vision_configs(text, vision, image_text_hidden_size=8)
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), BlipTokenizer())
    noise = np.random.default_rng(0)
    for command, head in HEADS.items():
        rows = parameters(head, config)
        values = {row.name: noise.normal(0, 0.5, row.shape).astype(np.float32) for row in rows}
        write_pretrained(root / command, head, config, rows, lambda row, values=values: values[row.name])
        processor.save_pretrained(root / command)
    return root


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The working directory: red.png, green.png, blue.png, bad.jpg (no picture), and below/white.png."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    for name in ("red", "green", "blue", "below/white"):
        Image.new("RGB", (40, 30), name.split("/")[-1]).save(f"{name}.png")
    Path("bad.jpg").write_bytes(b"this is no picture")
    return ["red.png", "green.png", "blue.png"]


@pytest.fixture
def blip(models, capfd):
    """Run a command with its model; returns the exit code, standard output and standard error."""

    def run(command, *arguments, model=None):
        code = main([command, *arguments, "--model", str(model or models / command)])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def no_models(monkeypatch):
    """Fail if anything loads a model."""

    def refuse(*_, **__):
        raise AssertionError("a model was loaded though nothing was to be done")

    monkeypatch.setattr(LoadedModel, "from_pretrained", refuse)
