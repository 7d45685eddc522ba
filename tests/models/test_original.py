"""Everything that the original implementation computed for us, in both frameworks.

Losses and logits within 1e-5 relative, gradient norms of every parameter within 1e-4, queues and momentum weights.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.frameworks import FRAMEWORKS, answer_list, check_gradients, original, question_batch, to_tokens
from tests.helpers.random_models import difference


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return FRAMEWORKS[request.param]


def test_captioning_as_the_original(framework):
    model, reference = original(framework, "BlipForConditionalGeneration", "caption")
    assert model.config.text_config.label_smoothing == 0.1
    ids, mask = reference["input_ids"].copy(), reference["attention_mask"]
    ids[:, 0] = model.config.text_config.bos_token_id
    labels = np.where(mask, ids, -100)
    labels[:, : int(reference["prompt_length"])] = -100
    batch = {"pixel_values": reference["pixel_values"], "input_ids": ids, "attention_mask": mask, "labels": labels}
    output, gradients = framework.gradients(model, batch)
    assert difference(reference["image_embeds"], output.image_embeds) < 1e-5
    assert difference(reference["logits"], output.logits) < 1e-5
    assert difference(reference["loss"], output.loss) < 1e-5
    check_gradients(model, gradients, reference)


def test_matching_as_the_original(framework):
    model, reference = original(framework, "BlipForImageTextRetrieval", "itm")
    model.config.enc_token_id = None  # the original's own inference leaves [CLS] in place
    batch = {name: reference[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    assert difference(reference["itm_logits"], framework.run(model, batch).itm_score) < 1e-5
    similarity = framework.run(model, batch | {"use_itm_head": False}).itm_score
    assert difference(reference["itc_similarity"], similarity) < 1e-5


def test_answering_as_the_original(framework):
    model, reference = original(framework, "BlipForQuestionAnswering", "vqa")
    answers, mask = to_tokens(reference["answers"])
    batch = question_batch(reference) | {
        "labels": np.where(mask, answers, -100),
        "decoder_attention_mask": mask,
        "answer_counts": reference["n_answers"].tolist(),
        "answer_weights": reference["weights"],
    }
    output, gradients = framework.gradients(model, batch)
    assert difference(reference["loss"], output.loss) < 1e-5
    check_gradients(model, gradients, reference)


def test_the_best_of_a_list_as_the_original(framework):
    model, reference = original(framework, "BlipForQuestionAnswering", "vqa")
    batch, answers = question_batch(reference), answer_list(reference["candidates"])
    ranked = framework.ask(model.rank_answers, {**batch, **answers, "k": int(reference["k_test"])})
    assert np.array_equal(ranked.best, reference["ranked_best"])
    assert ranked.indices.shape == (2, 6)


def nlvr_batch(reference):
    ids, mask = to_tokens(reference["sentences"])
    pictures = reference["pixel_values"]  # all first pictures, then all second ones
    pairs = np.stack(np.split(pictures, 2), axis=1)
    return {"pixel_values": pairs, "input_ids": ids, "attention_mask": mask, "labels": reference["targets"]}


def test_nlvr_as_the_original(framework):
    model, reference = original(framework, "BlipForNLVR", "nlvr")
    output, gradients = framework.gradients(model, nlvr_batch(reference))
    assert difference(reference["logits"], output.logits) < 1e-5
    assert difference(reference["loss"], output.loss) < 1e-5
    check_gradients(model, gradients, reference)


def pair_batch(reference):
    ids, mask = to_tokens(reference["captions"])
    batch = {"pixel_values": reference["pixel_values"], "input_ids": ids, "attention_mask": mask}
    return (
        batch | {"alpha": float(reference["alpha"])} | ({"image_ids": reference["idx"]} if "idx" in reference else {})
    )


@pytest.mark.parametrize(
    ("head", "name"), [("BlipForImageTextRetrieval", "retrieval"), ("BlipForPreTraining", "pretrain")]
)
def test_contrastive_training_as_the_original(framework, head, name):
    model, reference = original(framework, head, name)
    output, gradients = framework.gradients(model, pair_batch(reference), training=True)
    assert difference(reference["loss_ita"], output.loss_itc) < 1e-5
    assert difference(reference["loss_itm"], output.loss_itm) < 1e-5
    assert difference(output.loss_itc + output.loss_itm + (output.get("loss_lm") or 0.0), output.loss) < 1e-6
    if name == "pretrain":
        assert difference(reference["loss_lm"], output.loss_lm) < 1e-5
    check_gradients(model, gradients, reference)
    after = framework.weights(model)
    for queue in ("image_queue", "text_queue"):
        assert difference(reference[f"{queue}_after"], after[queue]) < 1e-5
    assert np.array_equal(reference["ptr_after"], after["ptr_queue" if name == "retrieval" else "queue_ptr"])
    if name == "retrieval":
        assert np.array_equal(reference["idx_queue_after"], after["idx_queue"])
    assert difference(reference["vision_proj_m_after"], after["vision_proj_m.weight"]) < 1e-6
