"""Generation in TensorFlow: the tokens of PyTorch, whatever the options, and no growth of what is compiled."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import torch

from tests.helpers.tensorflow_models import CONFIGS_OF, difference, inputs, models, to_pt, to_tf

OPTIONS = [
    {},
    {"max_new_tokens": 1},
    {"max_length": 15, "min_length": 12},
    {"num_beams": 2},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 3},
    {"num_beams": 5, "length_penalty": -1.0, "early_stopping": "never"},
    {"repetition_penalty": 1.5},
    {"num_beams": 3, "no_repeat_ngram_size": 2, "bad_words_ids": [[7], [9, 10]], "min_new_tokens": 6},
    {"num_beams": 3, "force_words_ids": [[9, 10], [20]]},
    {"do_sample": True, "seed": 3},
    {"do_sample": True, "seed": [5, 6], "top_p": 0.8, "temperature": 0.7, "top_k": 20},
    {"do_sample": True, "seed": 1, "num_return_sequences": 3},
    {"do_sample": True, "seed": 9, "num_beams": 3},
    {"eos_token_id": [5, 17, 30]},
    {"eos_token_id": None, "max_new_tokens": 25},
]
HEADS = ("BlipForConditionalGeneration", "BlipForQuestionAnswering")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Both models of a head, made once."""
    made = {head: models(head, CONFIGS_OF["wide"], tmp_path_factory.mktemp(head)) for head in HEADS}
    return made.__getitem__


def prompts(head):
    values = inputs(head, CONFIGS_OF["wide"])
    return {name: values[name] for name in ("pixel_values", "input_ids", "attention_mask")}


@pytest.mark.filterwarnings("ignore:.*no effect")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_tokens_and_scores_as_in_pytorch(loaded, head, options):
    pt, tf_model = loaded(head)
    options = {"max_new_tokens": 12, **options} if "max_length" not in options else options
    options = {**options, "return_dict_in_generate": True, "output_scores": True}
    expected, found = (
        pt.generate(**to_pt(prompts(head)), **options),
        tf_model.generate(**to_tf(prompts(head)), **options),
    )
    assert found.sequences.dtype == tf.int64
    assert np.array_equal(expected.sequences, found.sequences)
    assert difference(expected.sequences_scores, found.sequences_scores) < 1e-5
    assert np.allclose(expected.token_log_probs, found.token_log_probs, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert len(expected.scores) == len(found.scores)
    if options.get("num_beams", 1) > 1:
        assert np.array_equal(expected.beam_indices, found.beam_indices)


def test_without_prompts_with_one_picture_and_with_streams(loaded):
    pt, tf_model = loaded("BlipForConditionalGeneration")
    values = prompts("BlipForConditionalGeneration")
    assert np.array_equal(
        pt.generate(torch.from_numpy(values["pixel_values"])), tf_model.generate(tf.constant(values["pixel_values"]))
    )
    for beams in (1, 3):
        options = {"prompt_ids": [7, 9], "num_beams": beams, "max_new_tokens": 4}
        begun = tf_model.generate(values["pixel_values"], **options)
        assert begun[:, 1:3].numpy().tolist() == [[7, 9], [7, 9]]
        assert np.array_equal(pt.generate(torch.from_numpy(values["pixel_values"]), **options), begun)
    with pytest.raises(ValueError, match="prompt_ids holds 99999"):
        tf_model.generate(values["pixel_values"], prompt_ids=[99999])
    values["pixel_values"] = values["pixel_values"][:1]  # for both prompts
    for beams in (1, 3):
        expected = pt.generate(**to_pt(values), num_beams=beams)
        assert np.array_equal(expected, tf_model.generate(**values, num_beams=beams))  # NumPy arrays do as well
    seen: list[tuple[int, int]] = []
    tokens = tf_model.generate(values["pixel_values"], stream=lambda *news: seen.append(news), max_new_tokens=6)
    assert [token for _, token in seen] == tokens[0, 1:].numpy().tolist()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 4}], ids=str)
def test_an_example_is_the_same_alone_and_in_a_batch(loaded, head, options):
    _, model = loaded(head)
    values = prompts(head)
    whole = model.generate(**values, **options, max_new_tokens=10).numpy()
    alone = {name: value[1:] for name, value in values.items()}
    alone |= {name: alone[name][:, :4] for name in ("input_ids", "attention_mask")}
    alone = model.generate(**alone, **options, max_new_tokens=10).numpy()[0]
    together = whole[1]
    assert np.array_equal(alone[alone != 0], together[together != 0])


def test_eager_tokens_are_the_compiled_ones(loaded):
    _, model = loaded("BlipForConditionalGeneration")
    values = prompts("BlipForConditionalGeneration")
    compiled = model.generate(**values, num_beams=2, max_new_tokens=5)
    tf.config.run_functions_eagerly(True)
    try:
        assert np.array_equal(compiled, model.generate(**values, num_beams=2, max_new_tokens=5))
    finally:
        tf.config.run_functions_eagerly(False)


def test_pictures_of_another_size(loaded):
    pt, tf_model = loaded("BlipForConditionalGeneration")
    pixels = np.random.default_rng(1).normal(size=(2, 3, 40, 24)).astype(np.float32)
    options = {"interpolate_pos_encoding": True, "max_new_tokens": 5}
    assert np.array_equal(pt.generate(torch.from_numpy(pixels), **options), tf_model.generate(pixels, **options))


def test_many_shapes_are_traced_once(loaded, caplog):
    _, model = loaded("BlipForConditionalGeneration")
    noise = np.random.default_rng(0)
    pixels = noise.normal(size=(5, 3, 32, 32)).astype(np.float32)
    with caplog.at_level(logging.WARNING, logger="tensorflow"):
        for count in range(150):
            batch, length, beams = 1 + count % 5, 2 + count % 7, 1 + count % 3
            ids = noise.integers(6, 80, (batch, length))
            model.generate(pixels[:batch], ids, num_beams=beams, max_new_tokens=2 + count % 4)
    graphs = model.text_decoder.decoding_graphs
    assert graphs.extend.experimental_get_tracing_count() == 1
    assert graphs.begin.experimental_get_tracing_count() == 1
    assert model.vision_model.encoding_graph.experimental_get_tracing_count() == 1
    assert "retracing" not in caplog.text


@pytest.mark.slow
def test_memory_does_not_grow(loaded):
    """1,000 generations of changing sizes; the first half may fill what is kept for good."""
    _, model = loaded("BlipForConditionalGeneration")
    noise = np.random.default_rng(0)
    pixels = noise.normal(size=(8, 3, 32, 32)).astype(np.float32)
    kilobytes = []
    for _ in range(1000):
        batch, length, beams, new = (int(noise.integers(1, end)) for end in (9, 16, 5, 12))
        model.generate(pixels[:batch], noise.integers(6, 80, (batch, length)), num_beams=beams, max_new_tokens=new)
        status = Path("/proc/self/status").read_text()
        kilobytes.append(int(status.partition("RssAnon:")[2].split()[0]))
    assert max(kilobytes[500:]) < max(kilobytes[:500]) + 2000


def test_training_between_generations_is_seen(loaded):
    _, model = loaded("BlipForConditionalGeneration")
    values = prompts("BlipForConditionalGeneration")
    bias = model.text_decoder.cls.predictions.bias
    before, first = bias.numpy(), model.generate(**values, max_new_tokens=4)
    bias.assign(before + 100 * (np.arange(90) == 33))
    assert np.array_equal(model.generate(**values, max_new_tokens=4)[0, -4:], [33] * 4)
    bias.assign(before)
    assert np.array_equal(model.generate(**values, max_new_tokens=4), first)


def test_refuses_in_the_words_of_pytorch(loaded):
    pt, tf_model = loaded("BlipForConditionalGeneration")
    values = prompts("BlipForConditionalGeneration")
    pixels, ids = values["pixel_values"], values["input_ids"]
    for call in (
        {"pixel_values": pixels[:, :, :8]},
        {},
        {"pixel_values": pixels, "input_ids": ids[:1].repeat(3, axis=0)},
        {"pixel_values": pixels, "input_ids": ids, "max_length": 4},
        {"pixel_values": pixels, "max_length": 400},
        {"pixel_values": pixels, "num_beams": 0},
        {"pixel_values": pixels.astype(np.int64)},
    ):
        with pytest.raises(ValueError, match=r"\w") as expected:
            pt.generate(**to_pt(call))
        with pytest.raises(ValueError, match=r"\w") as found:
            tf_model.generate(**to_tf(call))
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("framework", ["pt", "tf"])
def test_prompts_near_the_longest_length(loaded, framework):
    """A text ends within the model's positions (40), or a sentence says that it cannot."""
    source, copy = loaded(HEADS[0])
    model, convert = (copy, to_tf) if framework == "tf" else (source, to_pt)
    values = inputs(HEADS[0], CONFIGS_OF["wide"])
    for length in range(34, 42):
        ids = np.full((2, length), 7)
        ids[:, -1] = 5  # the closing token, which is dropped
        given = convert({"pixel_values": values["pixel_values"], "input_ids": ids, "attention_mask": np.ones_like(ids)})
        if length <= 40:
            found = model.generate(**given, eos_token_id=None)
            assert found.shape == (2, 40)
            continue
        with pytest.raises(ValueError, match="The prompt has 40 tokens, but the model has 40 positions; shorten it"):
            model.generate(**given)
    with pytest.raises(ValueError, match="may grow to 59 tokens, but the model has 40 positions"):
        model.generate(
            **{**given, "input_ids": given["input_ids"][:, :39], "attention_mask": given["attention_mask"][:, :39]},
            max_new_tokens=20,
        )
