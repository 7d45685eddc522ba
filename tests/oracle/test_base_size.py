"""The heads at base size (ViT-B/16, 384 pixels, 12 text layers) against transformers 4.57.6."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.transformers_pairs import OUTPUTS, assert_close, assert_gradients, inputs, make_pair

pytestmark = pytest.mark.oracle

BASE = {
    "text_config": {"num_attention_heads": 12, "vocab_size": 30524, "bos_token_id": 30522, "sep_token_id": 102},
    "vision_config": {"image_size": 384, "layer_norm_eps": 1e-6, "num_channels": 3},
}


def test_captioning(tmp_path):
    ours, theirs = make_pair("BlipForConditionalGeneration", BASE, tmp_path)
    batch = inputs(BASE, batch=2, length=11)
    with torch.inference_mode():
        for options in ({}, {"num_beams": 3}):
            options |= {"max_new_tokens": 12}
            found, expected = (m.generate(batch["pixel_values"], **options) for m in (ours, theirs))
            assert found.tolist() == expected.tolist()
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    a, b = ours(**batch, **OUTPUTS), theirs(**batch, **OUTPUTS)
    assert_close(a, b)
    # Gradients this small and this far from the loss carry float32 rounding of 1e-5 to 1e-4 of their size in both
    # implementations; in float64 nothing hides.
    batch["pixel_values"] = batch["pixel_values"].double()
    for model in (ours, theirs):
        model.double()(**batch).loss.backward()
    assert_gradients(ours, theirs, 1e-10)


def test_matching(tmp_path):
    ours, theirs = make_pair("BlipForImageTextRetrieval", BASE, tmp_path)
    batch = inputs(BASE, batch=2, length=11)
    with torch.inference_mode():
        for use_itm_head in (True, False):
            a, b = (m(**batch, use_itm_head=use_itm_head, **OUTPUTS) for m in (ours, theirs))
            assert_close(a, b)


def test_answering(tmp_path):
    ours, theirs = make_pair("BlipForQuestionAnswering", BASE, tmp_path)
    batch = inputs(BASE, batch=2, length=11, padded=False)
    labels = inputs(BASE, batch=2, length=5, seed=3)["input_ids"]
    with torch.inference_mode():
        found, expected = (m.generate(**batch, max_new_tokens=8) for m in (ours, theirs))
        assert found.tolist() == expected.tolist()
        a, b = (m(**batch, labels=labels, **OUTPUTS) for m in (ours, theirs))
        assert_close(a, b)
