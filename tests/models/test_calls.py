"""Calls as in transformers: tuples, flags of the configuration, positions, caches, embeddings, classes of one's own."""

import copy
import inspect

import numpy as np
import pytest

from tests.helpers.random_models import CONFIGS_OF, head_config, inputs, numpy

CAPTIONER, CONFIG = "BlipForConditionalGeneration", CONFIGS_OF["wide"]
HEADS = ("BlipVisionModel", "BlipTextModel", "BlipTextLMHeadModel", CAPTIONER, "BlipForQuestionAnswering")
HEADS += ("BlipForImageTextRetrieval",)


class Backend:
    """A framework's models, and its tensors."""

    def __init__(self, name):
        self.name = name
        if name == "pt":
            import torch

            import blip_pt

            self.package, self.prefix, self.tensor = blip_pt, "", torch.from_numpy
        else:
            import tensorflow as tf

            import blip_tf

            self.package, self.prefix, self.tensor = blip_tf, "TF", tf.constant

    def make(self, head, config=CONFIG):
        model = getattr(self.package, self.prefix + head)(copy.deepcopy(head_config(head, config)))
        return model.eval() if self.name == "pt" else model

    def inputs(self, head):
        return {name: self.tensor(value) for name, value in inputs(head, CONFIG).items()}


@pytest.fixture(scope="module", params=["pt", "tf"])
def backend(request):
    return Backend(request.param)


@pytest.fixture(scope="module")
def captioner(backend):
    return backend.make(CAPTIONER), backend.inputs(CAPTIONER)


@pytest.mark.parametrize("head", HEADS)
def test_tuples(backend, head):
    model, values = backend.make(head), backend.inputs(head)
    whole, parts = model(**values, use_cache=False), model(**values, use_cache=False, return_dict=False)
    assert isinstance(parts, tuple)
    assert len(parts) == len(whole)
    assert all(np.array_equal(numpy(part), numpy(whole[i])) for i, part in enumerate(parts))


def test_the_configuration_decides_unless_the_call_does(backend):
    model, values = backend.make(CAPTIONER), backend.inputs(CAPTIONER)
    model.config.return_dict, model.config.output_attentions = False, True
    assert isinstance(model(**values), tuple)
    assert "decoder_attentions" in model(**values, return_dict=True)
    assert "decoder_attentions" not in model(**values, return_dict=True, output_attentions=False)


def test_keywords_without_effect(captioner):
    model, values = captioner
    assert "loss" in model(**values, use_cache=True, past_key_values=None, head_mask=None)
    with pytest.raises(ValueError, match="head_mask is not offered by this model; leave it out"):
        model(**values, head_mask=values["input_ids"])


@pytest.mark.parametrize(
    ("head", "order"),
    [
        (CAPTIONER, ["pixel_values", "input_ids", "attention_mask", "labels"]),
        ("BlipForQuestionAnswering", ["input_ids", "pixel_values", None, None, "attention_mask", "labels"]),
        ("BlipForImageTextRetrieval", ["input_ids", "pixel_values", False, "attention_mask"]),
    ],
)
def test_arguments_by_position(backend, head, order):
    model, values = backend.make(head), backend.inputs(head)
    named = {"use_itm_head": False} if False in order else {}
    expected = model(**values, **named)[0]
    found = model(*(values[name] if isinstance(name, str) else name for name in order))[0]
    assert np.array_equal(numpy(found), numpy(expected))


def test_a_dictionary_as_first_argument(captioner):
    model, values = captioner
    expected, labels = model(**values), values["labels"]
    texts = {name: value for name, value in values.items() if name != "labels"}
    assert np.array_equal(numpy(model(texts, labels=labels).loss), numpy(expected.loss))


def test_past_key_values(captioner):
    decoder, values = captioner[0].text_decoder, captioner[1]
    ids, states = values["input_ids"], captioner[0](**values).image_embeds
    whole = decoder(ids, encoder_hidden_states=states)
    assert "past_key_values" not in decoder(ids, encoder_hidden_states=states, use_cache=False)
    assert [tuple(tensor.shape) for tensor in whole.past_key_values[1]] == [(2, 2, 7, 16)] * 2 + [(2, 2, 17, 16)] * 2
    begun = decoder(ids[:, :4], encoder_hidden_states=states, use_cache=True, return_dict=False)[1]

    class Layer:
        def __init__(self, keys, values):
            self.keys, self.values = keys, values

    class Cache:
        def __init__(self, place):
            self.layers = [Layer(*layer[place : place + 2]) for layer in begun]

    class Both:
        self_attention_cache, cross_attention_cache = Cache(0), Cache(2)

    for past in (begun, Both()):
        found = decoder(ids[:, 4:], past_key_values=past, encoder_hidden_states=states)
        assert np.allclose(numpy(found.logits), numpy(whole.logits)[:, 4:], atol=1e-5)
        assert found.past_key_values[0][0].shape[2] == 7
    with pytest.raises(ValueError, match="past_key_values must have 2 layers, got 1"):
        decoder(ids[:, 4:], past_key_values=begun[:1])
    given = captioner[0].prepare_inputs_for_generation(ids, past_key_values=begun, encoder_hidden_states=states)
    assert (given["input_ids"].shape[1], set(given)) == (1, {"input_ids", "past_key_values", "encoder_hidden_states"})


@pytest.mark.parametrize("head", [CAPTIONER, "BlipForQuestionAnswering"])
def test_new_words(backend, head, tmp_path):
    model, values = backend.make(head), backend.inputs(head)
    before, count, bytes_before = model(**values).logits, model.num_parameters(), model.get_memory_footprint()
    words = model.get_input_embeddings()
    assert model.resize_token_embeddings(93) is words
    after, tables = model(**values).logits, 2 if head == "BlipForQuestionAnswering" else 1
    assert np.allclose(numpy(after)[..., :90], numpy(before), atol=1e-6)
    assert after.shape[-1] == model.config.text_config.vocab_size == model.text_decoder.config.vocab_size == 93
    assert model.num_parameters() - count == 3 * (32 * tables + 1)
    assert model.get_memory_footprint() - bytes_before == 4 * 3 * (32 * tables + 1)
    assert model.get_output_embeddings().weight is model.text_decoder.get_input_embeddings().weight
    table = numpy(words.weight if backend.name == "pt" else words.weight.value)
    assert np.allclose(table[90:], table[:90].mean(axis=0), atol=0.01)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert np.allclose(numpy(again(**values).logits), numpy(after), atol=1e-6)
    assert again.name_or_path == str(tmp_path)
    model.resize_token_embeddings(pad_to_multiple_of=16)
    assert model.get_input_embeddings().weight.shape[0] == model.vocab_size == 96
    model.generate(pixel_values=values["pixel_values"], input_ids=values["input_ids"], max_new_tokens=2)
    with pytest.raises(ValueError, match="new_num_tokens must be None or a whole number above 0, got 0"):
        model.resize_token_embeddings(0)


def test_facts_of_classes(backend):
    model = backend.make("BlipVisionModel")
    assert model.get_input_embeddings() is model.embeddings
    assert model.get_output_embeddings() is None
    assert not model.can_generate()
    captioner = getattr(backend.package, backend.prefix + CAPTIONER)
    assert (captioner.can_generate(), captioner.config_class.__name__) == (True, "BlipConfig")


def test_a_class_of_ones_own(backend, tmp_path):
    model, values = backend.make(CAPTIONER), backend.inputs(CAPTIONER)
    model.save_pretrained(tmp_path)
    if backend.name == "pt":
        from torch.nn import Linear

        layer = lambda: Linear(4, 3)  # noqa: E731
    else:
        import keras

        layer = lambda: keras.layers.Dense(3)  # noqa: E731

    class Mine(type(model)):
        def __init__(self, config):
            super().__init__(config)
            self.extra = layer()

    mine = Mine.from_pretrained(tmp_path)
    assert np.allclose(numpy(mine(**values).logits), numpy(model(**values).logits), atol=1e-6)
    assert np.isfinite(numpy(mine.extra(backend.tensor(np.ones((2, 4), np.float32))))).all()


def test_made_without_memory():
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        model = Backend("pt").make(CAPTIONER)
        with pytest.raises(RuntimeError, match="from_pretrained needs a device with memory, got meta"):
            type(model).from_pretrained()
    assert model.device.type == "meta"


def test_a_setting_of_old_configurations_recomputes_activations(backend, tmp_path):
    config = copy.deepcopy(CONFIG)
    config.gradient_checkpointing = True
    model = backend.make(CAPTIONER, config)
    assert model.is_gradient_checkpointing
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).is_gradient_checkpointing
    made = type(model)._from_config(CONFIG)
    assert not made.is_gradient_checkpointing
    assert made.config is not CONFIG


def test_ways_of_attention():
    backend = Backend("pt")
    model, values = backend.make(CAPTIONER), backend.inputs(CAPTIONER)
    fused = model(**values).logits
    model.set_attn_implementation("eager")
    assert model.vision_model.encoder.layers[0].self_attn.eager
    assert (model(**values).logits - fused).abs().max() < 1e-5 * fused.abs().max()
    with pytest.raises(ValueError, match="attn_implementation must be one of sdpa, eager"):
        model.set_attn_implementation("flash_attention_2")


def test_inputs_that_require_gradients():
    backend = Backend("pt")
    model, values = backend.make(CAPTIONER).train(), backend.inputs(CAPTIONER)
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model(**values).loss.requires_grad
    model.disable_input_require_grads()
    assert not model(**values).loss.requires_grad


@pytest.mark.parametrize("head", [*HEADS, "BlipForPreTraining", "BlipForNLVR", "BlipModel"])
def test_lists_and_tensors_of_another_kind_get_a_sentence(backend, head):
    model, values = backend.make(head), inputs(head, CONFIG)
    kinds = [{name: value.tolist() for name, value in values.items()}]
    if backend.name == "pt":  # TensorFlow takes arrays
        kinds.append(values)
    for kind in kinds:
        for method in ("__call__", "generate", "score_texts", "explain", "get_image_features", "get_text_features"):
            if not hasattr(model, method):
                continue
            taken = inspect.signature(getattr(model, method)).parameters
            names = [name for name in kind if name in taken or method == "__call__"]
            answers = {"answer_ids": kind["input_ids"]} if "answer_ids" in taken else {}
            with pytest.raises(ValueError, match=r"takes tensors, got .*; call the processor with return_tensors="):
                getattr(model, method)(**{name: kind[name] for name in names}, **answers)
