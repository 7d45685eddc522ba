"""Metrics against the numbers of the official programs, stored in `tests/data/metrics`."""

import json
from pathlib import Path

import numpy as np
import pytest

from blip_core.metrics import (
    answer_accuracy,
    best_box,
    box_iou,
    caption_scores,
    is_inside,
    normalize_answer,
    recalls,
    rouge_l,
)
from blip_core.metrics.ptb import ptb_tokens

DATA = Path(__file__).parents[1] / "data" / "metrics"
CAPTIONS = json.loads((DATA / "captions.json").read_text(encoding="utf-8"))
ANSWERS = json.loads((DATA / "answers.json").read_text(encoding="utf-8"))


def test_tokens_are_those_of_the_official_tokenizer():
    for example in CAPTIONS["examples"]:
        texts = [example["caption"], *example["references"]]
        for text, tokens in zip(texts, example["tokens"], strict=True):
            assert ptb_tokens(text) == tokens, text


def test_caption_scores_are_the_official_ones():
    examples = CAPTIONS["examples"]
    scores = caption_scores([e["caption"] for e in examples], [e["references"] for e in examples])
    np.testing.assert_allclose(scores.bleu, CAPTIONS["bleu"], rtol=1e-12)
    np.testing.assert_allclose([scores.rouge_l, scores.cider], [CAPTIONS["rouge_l"], CAPTIONS["cider"]], rtol=1e-12)
    np.testing.assert_allclose(scores.ciders, [e["cider"] for e in examples], rtol=1e-12, atol=1e-12)


def test_a_good_caption_scores_higher():
    references = [["a dog on a beach", "the dog runs on sand"], ["a red car", "car parked in a street"]]
    good = caption_scores(["a dog on a beach", "a red car"], references)
    poor = caption_scores(["a red car", "a dog on a beach"], references)
    assert good.bleu[0] == pytest.approx(1)
    assert good.cider > 1 > poor.cider == 0
    assert good.bleu[3] > poor.bleu[3]
    assert caption_scores(["", "a red car"], references).bleu[0] < 1


def test_captions_without_references_are_refused():
    with pytest.raises(ValueError, match="1 captions, 2"):
        caption_scores(["a dog"], [["a dog"], ["a cat"]])
    with pytest.raises(ValueError, match="no captions"):
        caption_scores([], [])
    with pytest.raises(ValueError, match="1 have no references"):
        caption_scores(["a dog", "a cat"], [["a dog"], []])


def test_answers_are_normalized_as_in_the_challenge():
    for answer, normalized in ANSWERS["normalized"].items():
        assert normalize_answer(answer) == normalized, answer


def test_answer_accuracies_are_those_of_the_challenge():
    for case in ANSWERS["accuracies"]:
        assert answer_accuracy(case["answer"], case["given"]) == pytest.approx(case["accuracy"], abs=1e-12), case


def test_counts_stand_for_repeated_answers():
    assert answer_accuracy("red", ["red", "blue"], [4, 6]) == answer_accuracy("red", ["red"] * 4 + ["blue"] * 6)
    for counts in ([], [1], [1, 0]):
        with pytest.raises(ValueError, match="one or more that people gave"):
            answer_accuracy("red", ["red", "blue"], counts)


def test_recalls_count_the_best_of_several_right_ones():
    ranks = [[4, 2, 0], [1, 3, 2], [5, 6, 7]]  # for three queries, the candidates from best to worst
    assert recalls(ranks, [{0, 1}, {1}, {0}], (1, 2, 3)) == {1: 1 / 3, 2: 1 / 3, 3: 2 / 3}
    assert recalls(ranks, [{0}, {1}, {7}], (1, 10)) == {1: 1 / 3, 10: 1.0}
    with pytest.raises(ValueError, match="no queries"):
        recalls([], [])


def test_boxes_agree_as_in_the_official_evaluation():
    assert box_iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert box_iou((0, 0, 10, 10), (2, 3, 10, 10)) == pytest.approx(56 / 144)
    assert box_iou((0, 0, 10, 10), (20, 0, 10, 10)) == 0
    assert box_iou((0, 0, 10, 10), (9, 0, 10, 10)) == 0  # a column of pixels is not counted there
    heat = np.zeros((20, 30))
    heat[4:8, 10:14] = 1
    whole, tight, half = (0, 0, 30, 20), (10, 4, 4, 4), (10, 4, 8, 4, 0.9)
    assert best_box(heat, [whole, half, tight]) == tight
    assert best_box(heat, [whole, half]) == half[:4]
    assert is_inside((10.5, 7.5), tight)
    assert not is_inside((9.5, 7.5), tight)
    assert not is_inside(None, tight)


def test_rouge_takes_the_best_precision_and_the_best_recall():
    captions, references = [["a", "b", "c"]], [[["a", "c"], ["a", "b", "x", "y", "z", "c"]]]
    assert rouge_l(captions, references) == [1.0]  # all of the caption in one, all of the other in the caption
    assert rouge_l([["a", "x"]], [[["a", "b", "c"]]])[0] == pytest.approx(2.44 * 0.5 / 3 / (1 / 3 + 1.44 * 0.5))
    assert rouge_l([["x"], []], [[["a"]], [["a"]]]) == [0.0, 0.0]
