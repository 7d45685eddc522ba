"""The examples of other people's trainers run, and what they save loads."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor
from blip_pt import BlipForConditionalGeneration, BlipForQuestionAnswering
from tests.helpers.frameworks import require

pytestmark = pytest.mark.oracle
COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
PICTURES = [(Image.new("RGB", (40, 30), colour), f"a {name} wall") for name, colour in COLOURS.items()]
SIZES = {"hidden_size": 24, "num_hidden_layers": 1, "intermediate_size": 32}
CONFIG = {
    "text_config": {**SIZES, "num_attention_heads": 3, "max_position_embeddings": 24},
    "vision_config": {**SIZES, "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "initializer_range": 0.02},
}


@pytest.fixture
def name(request, tmp_path):
    """A small model of the head that the test names, with its processor."""
    torch.manual_seed(0)
    model = request.param(BlipConfig.from_dict(CONFIG))
    model.save_pretrained(tmp_path / "base")
    BlipProcessor(BlipImageProcessor(size=32)).save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


CAPTIONER = pytest.mark.parametrize("name", [BlipForConditionalGeneration], indirect=True)
ANSWERER = pytest.mark.parametrize("name", [BlipForQuestionAnswering], indirect=True)
QUIET = {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1}


@CAPTIONER
def test_trainer_checkpoints_and_goes_on(name, tmp_path):
    from docs.examples.trainers import hf_trainer

    options = {**QUIET, "learning_rate": 1e-2, "save_steps": 2, "lr_scheduler_type": "constant"}
    first = hf_trainer.train(name, PICTURES, str(tmp_path / "run"), max_steps=2, **options)
    second = hf_trainer.train(name, PICTURES, str(tmp_path / "run"), max_steps=4, **options)
    losses = [entry["loss"] for entry in second.state.log_history if "loss" in entry]
    assert (len(losses), second.state.global_step) == (4, 4)
    assert losses[-1] < losses[0]
    assert first.model.is_gradient_checkpointing
    inputs = BlipProcessor.from_pretrained(tmp_path / "run")(*PICTURES[0], return_labels=True, return_tensors="pt")
    for folder in ("run", "run/checkpoint-4"):
        again = BlipForConditionalGeneration.from_pretrained(tmp_path / folder)
        torch.testing.assert_close(again(**inputs).loss, second.model.eval()(**inputs).loss)


@ANSWERER
def test_seq2seq_trainer_evaluates_what_it_generates(name, tmp_path):
    from docs.examples.trainers import hf_seq2seq

    triples = [(image, "which colour?", text.split()[1]) for image, text in PICTURES]
    options = {**QUIET, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "num_train_epochs": 40}
    found = hf_seq2seq.train(name, triples, str(tmp_path / "run"), save_strategy="no", **options)
    assert found["eval_accuracy"] == 1


@CAPTIONER
def test_lightning(name, tmp_path):
    require("lightning")
    from docs.examples.trainers import lightning_module

    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trained = lightning_module.train(name, PICTURES, str(tmp_path / "run"), lr=1e-2, max_epochs=3, **options)
    inputs = BlipProcessor.from_pretrained(tmp_path / "run")(*PICTURES[0], return_labels=True, return_tensors="pt")
    again = BlipForConditionalGeneration.from_pretrained(tmp_path / "run")
    before = BlipForConditionalGeneration.from_pretrained(name)
    torch.testing.assert_close(again(**inputs).loss, trained.model.eval()(**inputs).loss)
    assert again(**inputs).loss < before(**inputs).loss
