"""Seconds to rank 3,128 answers and to match 64 texts with a picture, at base size, against one by one.

`python -m tests.bench.ranking_answers pt|tf answers|texts|check`.
The answers are one to three words of the vocabulary, drawn
so that they have common beginnings. `answers` also scores each by itself, which takes minutes; with `--part I/N` only
every Nth, beginning with the Ith. `check` measures nothing: it compares the order with plain scores of all answers.
Weights are random.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from blip_core import BlipConfig, BlipTokenizer
from tests.helpers.random_models import numpy as to_numpy

ANSWERS, TEXTS = 3128, 64


def answer_list() -> tuple[np.ndarray, np.ndarray]:
    """As many different answers of one to three words as the original's list has, and their mask."""
    noise, tokenizer = np.random.default_rng(0), BlipTokenizer()
    words = [word for word, index in tokenizer.get_vocab().items() if 1996 <= index < 4500 and word.isalpha()]
    answers: dict[str, None] = dict.fromkeys(words[:1500])
    while len(answers) < ANSWERS:
        answers[" ".join(noise.choice(words[:300], noise.integers(2, 4)))] = None
    inputs = tokenizer(list(answers)[:ANSWERS], padding=True, return_tensors="np")
    return inputs["input_ids"], inputs["attention_mask"]


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call and the seconds it took."""
    begin = time.perf_counter()
    return run(), time.perf_counter() - begin


def load(framework: str, head: str) -> tuple[Any, Callable[[np.ndarray], Any]]:
    """A model of base size, the same random weights in each call, and what makes tensors of arrays."""
    if framework == "pt":
        import torch

        import blip_pt

        torch.manual_seed(0)
        torch.set_grad_enabled(False)
        return getattr(blip_pt, head)(BlipConfig.base()).eval(), torch.from_numpy
    import tensorflow as tf

    import blip_tf

    tf.random.set_seed(0)
    return getattr(blip_tf, f"TF{head}")(BlipConfig.base()), tf.constant


class Answering:
    """One question about one picture, and the list of answers."""

    def __init__(self, framework: str):
        self.model, self.tensor = load(framework, "BlipForQuestionAnswering")
        pixels = np.random.default_rng(1).normal(size=(1, 3, 384, 384)).astype(np.float32)
        self.question = self.tensor(np.array([[101, 2054, 2003, 2023, 1029, 102]]))
        self.ids, self.mask = answer_list()
        self.embeds = self.model.vision_model(self.tensor(pixels)).last_hidden_state
        _, self.states = self.model.encode_question(None, self.embeds, False, self.question, None)

    def rank(self, k: int) -> Any:
        """Order the k answers with the likeliest first token."""
        given = {"answer_ids": self.tensor(self.ids), "answer_attention_mask": self.tensor(self.mask)}
        return self.model.rank_answers(image_embeds=self.embeds, input_ids=self.question, **given, k=k)

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Minus the training loss of answers of the same length, in one plain call of the decoder."""
        texts = self.ids[rows, : int(self.mask[rows[0]].sum())].copy()
        texts[:, 0] = self.model.config.text_config.bos_token_id
        labels = self.tensor(texts)
        output = self.model.text_decoder(labels, encoder_hidden_states=self.states, labels=labels, reduction="none")
        return -to_numpy(output.loss)


def answers(framework: str, part: int, parts: int) -> None:
    """Rank all answers at once, and score a part of them one by one."""
    run = Answering(framework)
    run.rank(128), run.score(np.array([0]))  # warm
    _, at_once = timed(lambda: run.rank(ANSWERS))
    _, at_first = timed(lambda: run.rank(128))
    mine = np.arange(ANSWERS)[part - 1 :: parts]
    _, alone = timed(lambda: [run.score(np.array([row])) for row in mine])
    print(f"all {ANSWERS} at once: {at_once:.1f} s; the 128 with the likeliest first token: {at_first:.2f} s")
    print(f"{len(mine)} one by one: {alone:.1f} s; at once they are {alone / at_once * parts:.1f} times as fast")


def check(framework: str) -> None:
    """Score all answers without tries, in batches, and compare with the ranking."""
    run = Answering(framework)
    found = run.rank(ANSWERS)
    lengths, exact = run.mask.sum(axis=1), np.empty(ANSWERS)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        for i in range(0, len(rows), 64):
            exact[rows[i : i + 64]] = run.score(rows[i : i + 64])
    order, expected = to_numpy(found.indices)[0], np.argsort(-exact, kind="stable")
    worst = np.abs(exact[order] - to_numpy(found.scores)[0]).max()
    print(
        f"the same best answer: {order[0] == expected[0]}; the same order in {(order == expected).sum()} of {ANSWERS}"
    )
    print(f"scores from {exact.min():.3f} to {exact.max():.3f} differ by {worst:.1e} at most")


def texts(framework: str) -> None:
    """Match a picture with texts in one call, and in a call for each."""
    model, tensor = load(framework, "BlipForImageTextRetrieval")
    pixels = tensor(np.random.default_rng(1).normal(size=(1, 3, 384, 384)).astype(np.float32))
    ids, mask = (tensor(array[:TEXTS]) for array in answer_list())
    model(ids[:1], pixels, True, mask[:1])  # warm
    many = [timed(lambda: model(ids, pixels, True, mask).itm_score) for _ in range(3)]
    one, alone = timed(lambda: [model(ids[i : i + 1], pixels, True, mask[i : i + 1]).itm_score for i in range(TEXTS)])
    together = float(np.median([seconds for _, seconds in many]))
    worst = np.abs(to_numpy(many[0][0]) - np.concatenate([to_numpy(score) for score in one])).max()
    print(f"{TEXTS} texts: {alone:.1f} s in {TEXTS} calls, {together:.2f} s in one: {alone / together:.1f} times")
    print(f"the scores differ by {worst:.1e} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=("pt", "tf"))
    parser.add_argument("what", choices=("answers", "texts", "check"))
    parser.add_argument("--part", default="1/1", metavar="I/N")
    arguments = parser.parse_args()
    if arguments.what == "answers":
        answers(arguments.framework, *map(int, arguments.part.split("/")))
    else:
        {"texts": texts, "check": check}[arguments.what](arguments.framework)


if __name__ == "__main__":
    main()
