"""The texts of a batch as a task's model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_core.datasets.cleaning import clean_caption, clean_question
from blip_core.datasets.examples import Example
from blip_core.processing.processor import BlipProcessor

MAX_LENGTH = {"caption": 40, "retrieval": 35, "vqa": 35, "pretrain": 30}
"""The original's number of tokens of a text, special ones included; the sentences of NLVR are not cut."""
NLVR_WORDS = 40
SIDES = {"left": "right", "right": "left"}


def lacks(task: str, example: Example) -> str:
    """What an example has not got that training needs, "" where it has all."""
    if task == "vqa":
        return "" if example.answers else "an answer"
    if task == "nlvr":
        return "" if example.label is not None else "a label"
    return "" if example.texts else "a caption"


def clean_text(task: str, text: str) -> str:
    """A caption, question or sentence as the original cleans it for a task."""
    if task == "vqa":
        return clean_question(text)
    return clean_caption(text, NLVR_WORDS) if task == "nlvr" else clean_caption(text)


def swap_sides(sentence: str) -> str:
    """The cleaned sentence about two pictures that are swapped: left becomes right and right left."""
    return " ".join(SIDES.get(word, word) for word in sentence.split(" "))


def text_inputs(
    task: str,
    examples: Sequence[Example],
    texts: Sequence[str],
    processor: BlipProcessor,
    prompt: str,
    with_targets: bool,
    options: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Tokenize the cleaned text of each example, and what the model is to say or to choose `with_targets`.

    `input_ids` and `attention_mask` int64 (batch, length). Captioning: after `prompt`, with `labels` (batch, length).
    VQA: questions; `labels`, `decoder_input_ids` and `decoder_attention_mask` (answers, length) of the answers of all
    questions in order, `answer_counts` int64 (batch,), `answer_weights` float32 (answers,). NLVR: `labels` int64
    (batch,). `options` are of the processor.
    """
    options = {**options, "truncation": True, "return_tensors": "np"}
    if task == "caption":
        return dict(processor(text=texts, prompt=prompt or None, return_labels=True, **options))
    inputs: dict[str, np.ndarray] = dict(processor(text=texts, **options))
    if task == "nlvr" and with_targets:
        inputs["labels"] = np.array([example.label for example in examples], np.int64)
    if task == "vqa" and with_targets:
        answers = processor(
            text=[answer for example in examples for answer in example.answers], return_labels=True, **options
        )
        inputs["labels"] = answers["labels"]
        inputs["decoder_input_ids"] = answers["input_ids"]
        inputs["decoder_attention_mask"] = answers["attention_mask"]
        inputs["answer_counts"] = np.array([len(example.answers) for example in examples], np.int64)
        weights = [weight for example in examples for weight in example.weights]
        inputs["answer_weights"] = np.array(weights, np.float32)
    return inputs
