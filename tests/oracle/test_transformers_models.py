"""Every PyTorch model against transformers 4.57.6: outputs, hidden states, attentions, losses, gradients, tokens."""

from __future__ import annotations

import pytest
import torch
import transformers

import blip_pt
from tests.helpers.transformers_pairs import (
    CONFIGS,
    OUTPUTS,
    assert_close,
    assert_gradients,
    inputs,
    make_pair,
    relative,
)

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("name", ["BlipModel", "BlipForConditionalGeneration", "BlipForImageTextRetrieval"])
def test_outputs_loss_gradients(pair, config, name):
    ours, theirs = pair(name)
    batch = inputs(config)
    if name == "BlipModel":
        batch["return_loss"] = True
    if name == "BlipForConditionalGeneration":
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    a, b = ours(**batch, **OUTPUTS), theirs(**batch, **OUTPUTS)
    assert_close(a, b, name)
    (a.itm_score if name == "BlipForImageTextRetrieval" else a.loss).pow(2).sum().backward()
    (b.itm_score if name == "BlipForImageTextRetrieval" else b.loss).pow(2).sum().backward()
    assert_gradients(ours, theirs)


TUPLES = ("BlipModel", "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval")


@pytest.mark.parametrize("details", [{}, OUTPUTS], ids=["plain", "with states"])
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("name", TUPLES)
def test_tuples_have_the_same_order(tmp_path, name, labels, details):
    ours, theirs = make_pair(name, CONFIGS["square"], tmp_path)
    batch = inputs(CONFIGS["square"], padded=False)
    if labels or name == "BlipForQuestionAnswering":
        batch |= {"return_loss": True} if name == "BlipModel" else {"labels": batch["input_ids"]}
    if name == "BlipForQuestionAnswering":
        batch["decoder_input_ids"] = batch["labels"] if labels else batch.pop("labels")
    if name == "BlipForImageTextRetrieval":
        batch.pop("labels", None)
        batch["use_itm_head"] = labels
    for call in ({"return_dict": False}, {}):
        a, b = ours(**batch, **details, **call), theirs(**batch, **details, **call)
        a, b = (found if call else found.to_tuple() for found in (a, b))
        assert len(a) >= len(b)
        assert_close(a[: len(b)], b, name)


def test_question_answering(tmp_path):
    """transformers needs vision and text of one width, and no padding in the questions (see docs/transformers.md)."""
    config = CONFIGS["square"]
    ours, theirs = make_pair("BlipForQuestionAnswering", config, tmp_path)
    batch = inputs(config, padded=False)
    labels = inputs(config, length=5, seed=3)["input_ids"]
    a, b = ours(**batch, labels=labels, **OUTPUTS), theirs(**batch, labels=labels, **OUTPUTS)
    assert_close(a, b)
    a.loss.backward()
    b.loss.backward()
    assert_gradients(ours, theirs)


def test_similarity_and_features(pair, config):
    ours, theirs = pair("BlipForImageTextRetrieval")
    batch = inputs(config)
    assert_close(ours(**batch, use_itm_head=False), theirs(**batch, use_itm_head=False))
    similarity = (
        ours.get_image_features(batch["pixel_values"])
        @ ours.get_text_features(batch["input_ids"], batch["attention_mask"]).T
    )
    assert relative(similarity, theirs(**batch, use_itm_head=False).itm_score) < 1e-5
    ours, theirs = pair("BlipModel")
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert_close(ours.get_text_features(**text), theirs.get_text_features(**text))
    assert_close(ours.get_image_features(batch["pixel_values"]), theirs.get_image_features(batch["pixel_values"]))
    assert_close(ours.get_multimodal_features(**batch), theirs.get_multimodal_features(**batch))


@pytest.mark.parametrize("name", ["BlipVisionModel", "BlipTextModel"])
def test_towers(config, tmp_path, name):
    part = "vision_config" if "Vision" in name else "text_config"
    kind = transformers.BlipVisionConfig if "Vision" in name else transformers.BlipTextConfig
    from transformers.models.blip import modeling_blip, modeling_blip_text

    module = modeling_blip if "Vision" in name else modeling_blip_text
    theirs = getattr(module, name)(kind(**config[part])).eval()
    theirs.save_pretrained(tmp_path)
    ours = getattr(blip_pt, name).from_pretrained(tmp_path)
    batch = inputs(config)
    batch = (
        {"pixel_values": batch["pixel_values"]}
        if "Vision" in name
        else {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    )
    assert_close(ours(**batch, **OUTPUTS), theirs(**batch, **OUTPUTS))
    if "Text" in name:
        del batch["attention_mask"]
        causal = {"is_decoder": True, "use_cache": False}
        assert_close(ours(**batch, is_decoder=True, **OUTPUTS), theirs(**batch, **causal, **OUTPUTS))
        embeds = ours.embeddings.word_embeddings(batch["input_ids"])
        assert_close(ours(inputs_embeds=embeds), theirs(inputs_embeds=embeds))
        mask = torch.ones(3, 7, 7, dtype=torch.long).tril()
        assert_close(ours(**batch, attention_mask=mask), theirs(**batch, attention_mask=mask))


def test_interpolated_positions(pair, config):
    ours, theirs = pair("BlipForConditionalGeneration")
    batch = inputs(config)
    size = config["vision_config"]["image_size"] + 3 * config["vision_config"]["patch_size"]
    for height, width in ((size, size), (size, size - config["vision_config"]["patch_size"]), (size // 2, size + 2)):
        batch["pixel_values"] = torch.randn(3, 3, height, width)
        assert_close(ours(**batch, interpolate_pos_encoding=True), theirs(**batch, interpolate_pos_encoding=True))


SEARCHES = [
    {},
    {"num_beams": 2},
    {"num_beams": 3, "length_penalty": 2.0, "min_length": 9},
    {"num_beams": 4, "early_stopping": True, "num_return_sequences": 3},
    {"num_beams": 5, "early_stopping": "never", "length_penalty": -0.5},
    {"repetition_penalty": 1.7},
    {"num_beams": 3, "repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"num_beams": 2, "no_repeat_ngram_size": 2, "max_new_tokens": 11},
    {"min_new_tokens": 6},
    {"max_length": 12, "min_length": 10},
    {"bad_words_ids": [[20], [30, 31]], "num_beams": 2},
]


@pytest.mark.parametrize("options", SEARCHES, ids=str)
@pytest.mark.parametrize("prompt", [None, 4, 7])
def test_caption_tokens(tmp_path, options, prompt):
    config = CONFIGS["odd"]
    ours, theirs = make_pair("BlipForConditionalGeneration", config, tmp_path)
    end_often(ours, theirs, config)
    for seed in range(4):
        batch = inputs(config, batch=1, length=prompt or 3, seed=seed)
        if prompt is None:
            batch = {"pixel_values": batch["pixel_values"]}
        expected = theirs.generate(**{k: v.clone() for k, v in batch.items()}, **options)
        assert torch.equal(ours.generate(**batch, **options), padded(expected, config))


@pytest.mark.parametrize("options", SEARCHES, ids=str)
def test_answer_tokens(tmp_path, options):
    config = CONFIGS["square"]
    ours, theirs = make_pair("BlipForQuestionAnswering", config, tmp_path)
    end_often(ours, theirs, config)
    for seed in range(4):
        batch = inputs(config, batch=1, seed=seed)
        expected = padded(theirs.generate(**batch, **options), config)
        assert torch.equal(ours.generate(**batch, **options), expected)


def padded(tokens: torch.Tensor, config: dict) -> torch.Tensor:
    """With beams transformers fills up with the end token where `pad_token_id` is 0; put padding there."""
    ended = (tokens == config["text_config"]["sep_token_id"]).cumsum(1)
    return tokens.masked_fill(ended > 1, 0)


def end_often(ours, theirs, config) -> None:
    """A random model seldom ends a text; raise the logit of its end token so that texts of all lengths occur."""
    with torch.no_grad():
        for bias in (ours.text_decoder.cls.predictions.bias, theirs.text_decoder.cls.predictions.bias):
            bias[config["text_config"]["sep_token_id"]] += 2.0


def test_saved_models_load_in_transformers(pair, config, tmp_path):
    for name in ("BlipModel", "BlipForConditionalGeneration", "BlipForImageTextRetrieval"):
        ours, _ = pair(name)
        ours.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
        theirs, info = getattr(transformers, name).from_pretrained(tmp_path / "saved", output_loading_info=True)
        assert not any(info.values()), info
        batch = inputs(config)
        assert_close(ours(**batch), theirs.eval()(**batch))
