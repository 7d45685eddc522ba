"""Seconds to rank 3,128 answers and to match 64 texts with a picture, at base size, against one by one.

`python -m tests.bench.ranking pt|tf [--sample N]`. The answers are one to three words of the vocabulary, drawn so that
they have common beginnings; `--sample` says how many are also scored by themselves, from which the time for all
follows. Weights are random.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from blip_core import BlipConfig, BlipTokenizer

ANSWERS = 3128


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
    """The result of a call and the seconds it took, the second time."""
    run()
    begin = time.perf_counter()
    return run(), time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=("pt", "tf"))
    parser.add_argument("--sample", type=int, default=32)
    arguments = parser.parse_args()
    noise, config = np.random.default_rng(1), BlipConfig.base()
    pixels = noise.normal(size=(1, 3, 384, 384)).astype(np.float32)
    question = np.array([[101, 2054, 2003, 2023, 1029, 102]])
    ids, mask = answer_list()
    if arguments.framework == "pt":
        import torch

        import blip_pt

        tensor, prefix, library = torch.from_numpy, "", blip_pt
    else:
        import tensorflow as tf

        import blip_tf

        tensor, prefix, library = tf.constant, "TF", blip_tf

    answerer = getattr(library, f"{prefix}BlipForQuestionAnswering")(config)
    matcher = getattr(library, f"{prefix}BlipForImageTextRetrieval")(config)
    if arguments.framework == "pt":
        answerer.eval()
        matcher.eval()
        torch.set_grad_enabled(False)
    embeds = answerer.vision_model(tensor(pixels)).last_hidden_state
    given = {"image_embeds": embeds, "input_ids": tensor(question)}

    def rank(rows: slice, k: int) -> Any:
        answers = {"answer_ids": tensor(ids[rows]), "answer_attention_mask": tensor(mask[rows])}
        return answerer.rank_answers(**given, **answers, k=k)

    everything, all_seconds = timed(lambda: rank(slice(None), ANSWERS))
    short, short_seconds = timed(lambda: rank(slice(None), 128))
    states = answerer.encode_question(embeds, given["input_ids"], None)

    def score(index: int) -> float:
        length = int(mask[index].sum())
        text = ids[index : index + 1, :length].copy()
        text[:, 0] = config.text_config.bos_token_id
        output = answerer.text_decoder(
            tensor(text), encoder_hidden_states=states, labels=tensor(text), reduction="none"
        )
        return -float(output.loss[0])

    chosen = np.asarray(everything.indices)[0][np.linspace(0, ANSWERS - 1, arguments.sample, dtype=int)]
    alone, seconds = timed(lambda: [score(int(index)) for index in chosen])
    seconds *= ANSWERS / arguments.sample
    print(
        f"{ANSWERS} answers: {all_seconds:.1f} s at once, {seconds:.1f} s one by one: {seconds / all_seconds:.1f} times"
    )
    print(f"the 128 likeliest: {short_seconds:.1f} s; the same answer: {int(short.best[0] == everything.best[0])}")
    print(f"the same order: {int((np.diff(alone) <= 1e-4).all())}")

    texts = tensor(ids[:64]), tensor(mask[:64])
    _, many = timed(lambda: matcher(tensor(pixels), *texts))
    _, one = timed(lambda: matcher(tensor(pixels), texts[0][:1], texts[1][:1]))
    print(f"64 texts: {many:.2f} s at once, {64 * one:.2f} s in 64 calls: {64 * one / many:.1f} times")


if __name__ == "__main__":
    main()
