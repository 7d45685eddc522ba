"""The texts of a batch as the models of the tasks take them.

Each function is the `inputs` of rows in `blip_core.tasks`: examples, their cleaned texts, a processor with its options,
the prompt, and whether all examples have what is learned; arrays by the model's argument names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from blip_core.datasets.examples import Example
from blip_core.processing.processor import BlipProcessor
from blip_core.tasks import TASKS, get_task

Texts = Sequence[str]
Examples = Sequence[Example]
Tokenize = Callable[..., dict[str, np.ndarray]]
Inputs = dict[str, np.ndarray]


def plain_texts(examples: Examples, texts: Texts, tokenize: Tokenize, prompt: str, with_targets: bool) -> Inputs:
    """`input_ids` and `attention_mask`, int64 (batch, length)."""
    return dict(tokenize(text=texts))


def captions(examples: Examples, texts: Texts, tokenize: Tokenize, prompt: str, with_targets: bool) -> Inputs:
    """Texts behind the prompt, and `labels` int64 (batch, length)."""
    return dict(tokenize(text=texts, prompt=prompt or None, return_labels=True))


def questions(examples: Examples, texts: Texts, tokenize: Tokenize, prompt: str, with_targets: bool) -> Inputs:
    """Questions, and the answers of all of them in order.

    `labels`, `decoder_input_ids` and `decoder_attention_mask` int64 (answers, length), `answer_counts` int64 (batch,),
    `answer_weights` float32 (answers,).
    """
    inputs = dict(tokenize(text=texts))
    if with_targets:
        answers = tokenize(text=[answer for example in examples for answer in example.answers], return_labels=True)
        inputs["labels"] = answers["labels"]
        inputs["decoder_input_ids"] = answers["input_ids"]
        inputs["decoder_attention_mask"] = answers["attention_mask"]
        inputs["answer_counts"] = np.array([len(example.answers) for example in examples], np.int64)
        weights = [weight for example in examples for weight in example.weights]
        inputs["answer_weights"] = np.array(weights, np.float32)
    return inputs


def sentences(examples: Examples, texts: Texts, tokenize: Tokenize, prompt: str, with_targets: bool) -> Inputs:
    """Sentences, and `labels` int64 (batch,)."""
    inputs = dict(tokenize(text=texts))
    if with_targets:
        inputs["labels"] = np.array([example.label for example in examples], np.int64)
    return inputs


MAX_LENGTH = {task.name: task.max_length for task in TASKS.values()}


def lacks(task: str, example: Example) -> str:
    """See `Task.lacks`."""
    return get_task(task).lacks(example)


def clean_text(task: str, text: str) -> str:
    """See `Task.clean`."""
    return get_task(task).clean(text)


def text_inputs(
    task: str,
    examples: Examples,
    texts: Texts,
    processor: BlipProcessor,
    prompt: str,
    with_targets: bool,
    options: dict[str, Any],
) -> Inputs:
    """See `Task.inputs`."""
    tokenize = partial(processor, truncation=True, return_tensors="np", **options)
    return get_task(task).inputs(examples, texts, tokenize, prompt, with_targets)
