"""Seconds to rank 3,128 answers and to match 64 texts with a picture, at base size, against one by one.

`python -m tests.bench.ranking pt|tf answers [--part 1/4 --keep FILE.npz]`, `python -m tests.bench.ranking pt|tf texts`.
The answers are one to three words of the vocabulary, drawn so that they have common beginnings; each is also scored by
itself, which takes minutes. With `--part` a call does a part of them and the ranking of all, and keeps both in a file;
what follows is printed once all parts are there. Weights are random.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from blip_core import BlipConfig, BlipTokenizer
from blip_core.cli.backend import to_numpy

ANSWERS, TEXTS = 3128, 64


def answer_list() -> tuple[np.ndarray, np.ndarray]:
    """As many different answers of one to three words as the original's list has, and their mask."""
    noise, tokenizer = np.random.default_rng(0), BlipTokenizer.from_pretrained()
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


def answers(framework: str, part: int, parts: int, keep: str | None) -> None:
    """Rank all answers at once, and score those of a part by themselves."""
    model, tensor = load(framework, "BlipForQuestionAnswering")
    pixels = np.random.default_rng(1).normal(size=(1, 3, 384, 384)).astype(np.float32)
    question = tensor(np.array([[101, 2054, 2003, 2023, 1029, 102]]))
    ids, mask = answer_list()
    embeds = model.vision_model(tensor(pixels)).last_hidden_state
    states = model.encode_question(embeds, question, None)
    given = {"answer_ids": tensor(ids), "answer_attention_mask": tensor(mask)}

    def rank(k: int) -> Any:
        return model.rank_answers(image_embeds=embeds, input_ids=question, **given, k=k)

    def score(index: int) -> float:
        text = ids[index : index + 1, : int(mask[index].sum())].copy()
        text[:, 0] = model.config.text_config.bos_token_id
        output = model.text_decoder(tensor(text), encoder_hidden_states=states, labels=tensor(text), reduction="none")
        return -float(output.loss[0])

    rank(128), score(0)  # warm
    found, at_once = timed(lambda: rank(ANSWERS))
    _, at_first = timed(lambda: rank(128))
    mine = np.array_split(np.arange(ANSWERS), parts)[part - 1]
    alone, seconds = timed(lambda: [score(int(index)) for index in mine])
    print(f"{len(mine)} answers: {seconds:.1f} s one by one; all {ANSWERS}: {at_once:.1f} s at once")
    print(f"the 128 with the likeliest first token: {at_first:.1f} s")
    scores = np.empty(ANSWERS)
    scores[to_numpy(found.indices)[0]] = to_numpy(found.scores)[0]
    now = {f"alone{part}": alone, f"seconds{part}": seconds, f"at_once{part}": at_once, f"scores{part}": scores}
    kept = now | (dict(np.load(keep)) if keep and Path(keep).exists() else {}) | now
    if keep:
        np.savez(keep, **kept)
    if all(f"alone{i}" in kept for i in range(1, parts + 1)):
        numbers = range(1, parts + 1)
        every = np.concatenate([kept[f"alone{i}"] for i in numbers])
        total, once = (float(reduce([kept[f"{name}{i}"] for i in numbers])) for name, reduce in SUMS)
        order, expected = np.argsort(-scores, kind="stable"), np.argsort(-every, kind="stable")
        print(f"{ANSWERS} answers: {total:.0f} s one by one, {once:.1f} s at once: {total / once:.1f} times")
        print(f"the same best answer: {order[0] == expected[0]}; places that differ: {(order != expected).sum()}")
        gaps = every[expected[:-1]] - every[expected[1:]]
        print(f"scores differ by {np.abs(every - scores).max():.1e} of {np.abs(every).max():.0f} at most;", end=" ")
        print(f"neighbours in the order are {np.median(gaps):.1e} apart in the median")


SUMS = (("seconds", np.sum), ("at_once", np.median))


def texts(framework: str) -> None:
    """Match a picture with texts in one call, and in a call for each."""
    model, tensor = load(framework, "BlipForImageTextRetrieval")
    pixels = tensor(np.random.default_rng(1).normal(size=(1, 3, 384, 384)).astype(np.float32))
    ids, mask = (tensor(array[:TEXTS]) for array in answer_list())
    model(pixels, ids[:1], mask[:1])  # warm
    many = [timed(lambda: model(pixels, ids, mask).itm_score) for _ in range(3)]
    one, alone = timed(lambda: [model(pixels, ids[i : i + 1], mask[i : i + 1]).itm_score for i in range(TEXTS)])
    together = float(np.median([seconds for _, seconds in many]))
    worst = np.abs(to_numpy(many[0][0]) - np.concatenate([to_numpy(score) for score in one])).max()
    print(f"{TEXTS} texts: {alone:.1f} s in {TEXTS} calls, {together:.2f} s in one: {alone / together:.1f} times")
    print(f"the scores differ by {worst:.1e} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=("pt", "tf"))
    parser.add_argument("what", choices=("answers", "texts"))
    parser.add_argument("--part", default="1/1", metavar="I/N")
    parser.add_argument("--keep", metavar="FILE.npz")
    arguments = parser.parse_args()
    if arguments.what == "texts":
        texts(arguments.framework)
    else:
        part, parts = map(int, arguments.part.split("/"))
        answers(arguments.framework, part, parts, arguments.keep)


if __name__ == "__main__":
    main()
