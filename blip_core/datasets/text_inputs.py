"""The texts of a batch as the models of the tasks take them.

Each function is the `inputs` of rows in `blip_core.tasks`: examples, their cleaned texts, a processor with its options,
the prompt, and whether all examples have what is learned; arrays by the model's argument names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from blip_core.datasets.examples import Example

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
