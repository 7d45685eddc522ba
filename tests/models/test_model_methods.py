"""What trainers and adapters call: counts of weights, gradient checkpointing."""

import math

import pytest

from tests.helpers.frameworks import require
from tests.helpers.random_models import CONFIGS_OF, HEADS, head_config

FRAMEWORKS = ("pt", "tf")


def make(framework: str, head: str, name: str = "wide"):
    """A model with random weights in a framework."""
    if framework == "pt":
        import blip_pt

        return getattr(blip_pt, head)(head_config(head, CONFIGS_OF[name]))
    import blip_tf

    return getattr(blip_tf, f"TF{head}")(head_config(head, CONFIGS_OF[name]))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("head", HEADS)
def test_weights_are_counted(framework, head):
    model = make(framework, head)
    rows = [row for row in model.table() if "queue" not in row.name]
    assert model.num_parameters() == sum(math.prod(row.shape) for row in rows)
    tables = [row for row in rows if row.name.endswith(("word_embeddings.weight", "position_embeddings.weight"))]
    without = model.num_parameters(exclude_embeddings=True)
    assert model.num_parameters() - without == sum(math.prod(row.shape) for row in tables)
    assert bool(tables) == (head != "BlipVisionModel")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_frozen_weights_are_no_trainable_ones(framework):
    model = make(framework, "BlipForConditionalGeneration")
    whole, vision = model.num_parameters(), model.vision_model.num_parameters()
    assert model.num_parameters(only_trainable=True) == whole
    if framework == "pt":
        model.vision_model.requires_grad_(False)
    else:
        model.vision_model.trainable = False
    assert model.num_parameters(only_trainable=True) == whole - vision
    assert model.num_parameters() == whole


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_checkpointing_is_turned_on_and_off(framework):
    model = make(framework, "BlipForQuestionAnswering")
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=None)
    assert model.is_gradient_checkpointing
    assert model.text_decoder.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=None, every_n_layers=1, offload=False)
    assert model.vision_model.encoder.gradient_checkpointing


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_unknown_options_of_checkpointing_are_refused(framework):
    model = make(framework, "BlipForConditionalGeneration")
    with pytest.raises(ValueError, match="holds reentrant; there is"):
        model.gradient_checkpointing_enable({"reentrant": False})
    with pytest.raises(ValueError, match="every_n_layers=2"):
        model.gradient_checkpointing_enable(every_n_layers=2)
    assert not model.is_gradient_checkpointing


@pytest.mark.parametrize("reentrant", [False, True])
def test_options_of_checkpointing_reach_pytorch(reentrant, monkeypatch):
    require("torch")
    import blip_pt.model_methods
    from tests.helpers import pytorch_models

    seen, checkpoint = [], blip_pt.model_methods.checkpoint

    def watched(*args, **options):
        seen.append(options)
        return checkpoint(*args, **options)

    monkeypatch.setattr(blip_pt.model_methods, "checkpoint", watched)
    head = "BlipForConditionalGeneration"
    model, values = pytorch_models.make(head).train(), pytorch_models.tensors(head)
    model(**values).loss.backward()
    weight = model.text_decoder.bert.encoder.layer[0].attention.self.query.weight
    expected = weight.grad.clone()
    model.zero_grad()
    options = {"use_reentrant": reentrant, "preserve_rng_state": True}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    model(**values).loss.backward()
    assert seen == [options] * 5  # three layers of the vision encoder, two of the text decoder
    assert (weight.grad - expected).abs().max() < 1e-6 * expected.abs().max()
