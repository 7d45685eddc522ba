"""`blip match`: pictures and texts -> how well they go together."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from blip_core.cli.backend import Backend
from blip_core.cli.pairs import Work, add_pair_arguments, run_pairs
from blip_core.cli.parser import CommandParser
from blip_core.inference.answer_tries import probabilities


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "IMAGE TEXT... [options]",
        "Say how well texts describe a picture, or each picture of a folder: itm is the probability that they match, "
        "itc the cosine similarity of their features.",
        'blip match photo.jpg "a dog on a beach" "a city at night"',
    )
    add_pair_arguments(parser, "TEXT")


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Match pictures with texts; returns the exit code.

    `itm` is the probability, 0 to 1, that picture and text match, by the classifier that reads both together; `itc`
    the cosine similarity, -1 to 1, of their separate features.
    """

    def prepare(backend: Backend, texts: list[Any]) -> Work:
        features = [backend.engine.to_numpy(backend.model.get_text_features(**tokens)) for _, tokens in texts]

        def work(embeds: Any) -> Iterator[tuple[dict[str, Any], str]]:
            image_features = backend.engine.to_numpy(backend.model.get_image_features(image_embeds=embeds))[0]
            for (part, tokens), text_features in zip(texts, features, strict=True):
                logits = backend.engine.to_numpy(backend.model(image_embeds=embeds, **tokens).itm_score)
                itm = probabilities(logits)[:, 1]
                itc = text_features @ image_features
                for text, *scores in zip(part, itm.tolist(), itc.tolist(), strict=True):
                    entry = {"text": text, "itm": scores[0], "itc": scores[1]}
                    yield entry, f"{text} (itm {scores[0]:.3f}, itc {scores[1]:.3f})"

        return work

    return run_pairs(args, "BlipForImageTextRetrieval", prepare)
