"""The training objectives and rankings of the paper in both frameworks, against the original's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frameworks import FRAMEWORKS, check_gradients, original, to_tokens
from tests.helpers import difference, numpy


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return FRAMEWORKS[request.param]


# NLVR ---------------------------------------------------------------------------------------------------------------


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


# answers from a list ------------------------------------------------------------------------------------------------


def question_batch(reference):
    ids, mask = to_tokens(reference["questions"])
    return {"pixel_values": reference["pixel_values"], "input_ids": ids, "attention_mask": mask}


def answer_list(texts):
    ids, mask = to_tokens(texts)
    return {"answer_ids": ids, "answer_attention_mask": mask}


def one_by_one(framework, model, batch, answers):
    """Minus the training loss of each answer to each question, (questions, answers)."""
    ids, mask, count = answers["answer_ids"], answers["answer_attention_mask"], len(batch["input_ids"])
    texts = {"input_ids": np.tile(ids, (count, 1)), "attention_mask": np.tile(mask, (count, 1))}
    texts["input_ids"][:, 0] = model.config.text_config.bos_token_id
    labels = np.where(texts["attention_mask"], texts["input_ids"], -100)
    question = numpy(framework.run(model, {**batch, "labels": ids[:count]}).question_embeds).astype(np.float32)
    states = {"encoder_hidden_states": question, "encoder_attention_mask": batch["attention_mask"]}
    states = {name: np.repeat(value, len(ids), axis=0) for name, value in states.items()}
    output = framework.run(model.text_decoder, {**texts, **states, "labels": labels, "reduction": "none"})
    return -numpy(output.loss).reshape(count, len(ids))


def test_the_best_of_a_list_as_the_original(framework):
    model, reference = original(framework, "BlipForQuestionAnswering", "vqa")
    batch, answers = question_batch(reference), answer_list(reference["candidates"])
    ranked = framework.ask(model.rank_answers, {**batch, **answers, "k": int(reference["k_test"])})
    assert np.array_equal(ranked.best, reference["ranked_best"])
    assert ranked.indices.shape == (2, 6)


def test_ranking_all_answers_as_scoring_each_by_itself(framework, monkeypatch):
    monkeypatch.setattr("blip_core.ranking.NODES", 7)  # several tries
    model, reference = original(framework, "BlipForQuestionAnswering", "vqa")
    batch, answers = question_batch(reference), answer_list(reference["candidates"])
    expected = one_by_one(framework, model, batch, answers)
    ranked = framework.ask(model.rank_answers, {**batch, **answers})
    assert np.array_equal(ranked.indices, np.argsort(-expected, axis=1))
    assert np.array_equal(ranked.indices[:, 0], ranked.best)
    assert difference(np.sort(expected)[:, ::-1], ranked.scores) < 1e-6
    scores = framework.ask(model.score_texts, {**batch, **answers})
    assert difference(np.take_along_axis(numpy(scores.log_probs), numpy(ranked.indices), 1), ranked.log_probs) < 1e-6
    model.text_decoder.config.label_smoothing = 0.0
    expected = one_by_one(framework, model, batch, answers)
    assert difference(expected, scores.log_probs) < 1e-6
    tokens = numpy(scores.token_log_probs)
    assert np.array_equal(~np.isnan(tokens[0]), answers["answer_attention_mask"][:, 1:] == 1)
    assert difference(np.nansum(tokens, axis=2), expected) < 1e-6


def test_scores_of_captions(framework):
    model, reference = original(framework, "BlipForConditionalGeneration", "caption")
    ids, mask = to_tokens(["120 121 122", "120 121", "130", "120 121 125 126"])
    scores = framework.ask(
        model.score_texts, {"pixel_values": reference["pixel_values"], "input_ids": ids, "attention_mask": mask}
    )
    assert scores.log_probs.shape == (3, 4)
    for row in range(4):
        length = int(mask[row].sum())
        text = np.repeat(ids[row : row + 1, :length], 3, axis=0)
        text[:, 0] = model.config.text_config.bos_token_id
        logits = numpy(framework.run(model, {"pixel_values": reference["pixel_values"], "input_ids": text}).logits)
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected = np.take_along_axis(log_probs[:, :-1], text[:, 1:, None], axis=2)[..., 0]
        assert difference(expected, numpy(scores.token_log_probs)[:, row, : length - 1]) < 1e-5
        assert difference(expected.sum(axis=1), numpy(scores.log_probs)[:, row]) < 1e-5


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["114 157", "", "115"], "Answer 1 of the list is empty"),
        (["114 157", "115", "114 157"], "Answers 0 and 2 of the list are the same"),
    ],
)
def test_answer_lists_that_cannot_be_ranked(framework, texts, message):
    model, reference = original(framework, "BlipForQuestionAnswering", "vqa")
    with pytest.raises(ValueError, match=message):
        framework.ask(model.rank_answers, {**question_batch(reference), **answer_list(texts)})


def test_other_bad_answers(framework):
    model, reference = original(framework, "BlipForQuestionAnswering", "vqa")
    batch = question_batch(reference)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        framework.ask(model.rank_answers, {**batch, **answer_list(["114"]), "k": 0})
    with pytest.raises(ValueError, match="Give the answers as answer_ids"):
        framework.ask(model.rank_answers, batch)
    with pytest.raises(ValueError, match="Text 1 has 1 tokens"):
        framework.ask(model.score_texts, {**batch, "answer_ids": np.array([[101, 114, 102], [101, 0, 0]])})
    with pytest.raises(ValueError, match="must lie between 0 and 199, got 101 to 200"):
        framework.ask(model.score_texts, {**batch, "answer_ids": np.array([[101, 114, 200]])})


# retrieval and pre-training -----------------------------------------------------------------------------------------


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
    assert np.array_equal(reference["ptr_after"], after["queue_ptr"])
    if name == "retrieval":
        assert np.array_equal(reference["idx_queue_after"], after["idx_queue"])
    assert difference(reference["vision_proj_m_after"], after["vision_proj_m.weight"]) < 1e-6
