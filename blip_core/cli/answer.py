"""`blip answer`: pictures and questions -> answers, in the model's own words or from a list."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from blip_core.cli.arguments import add_length_arguments, generation_options
from blip_core.cli.backend import Backend
from blip_core.cli.lists import read_list, told_apart
from blip_core.cli.pairs import Work, add_pair_arguments, run_pairs
from blip_core.cli.parser import CommandParser
from blip_core.inference.answer_tries import probabilities

HEAD = "BlipForQuestionAnswering"


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "IMAGE QUESTION... [options]",
        "Answer questions about a picture, or about each picture of a folder, in the model's own words or from a list.",
        'blip answer photo.jpg "how many dogs are there?" "is it day or night?"',
    )
    add_pair_arguments(parser, "QUESTION")
    parser.add_argument("--scores", action="store_true", help="add how sure the model is")
    add_length_arguments(parser)
    parser.add_argument(
        "--choices", metavar="FILE", help="answer with the likeliest line of this file (- for standard input)"
    )


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Answer questions about pictures; returns the exit code."""
    options = {"num_beams": args.beams, "min_new_tokens": args.min_tokens, "max_new_tokens": args.max_tokens}
    if args.choices is None:
        generate = generation_options(parser, **options)
        return run_pairs(args, HEAD, lambda backend, questions: in_own_words(backend, questions, generate, args.scores))
    if any(value is not None for value in options.values()):
        parser.error("argument --choices: goes with none of --beams, --min-tokens and --max-tokens")
    if args.choices == args.image == "-":
        parser.error("argument --choices: standard input cannot be the pictures' list, too")
    choices = read_list("--choices", args.choices)
    return run_pairs(args, HEAD, lambda backend, questions: from_list(backend, questions, choices, args.scores))


def in_own_words(backend: Backend, questions: list[Any], options: dict[str, Any], with_scores: bool) -> Work:
    """Generate the answers, with these keywords of `generate`."""

    def work(embeds: Any) -> Iterator[tuple[dict[str, Any], str]]:
        for texts, tokens in questions:
            output = backend.model.generate(image_embeds=embeds, **tokens, **options)
            for question, (answer, scores) in zip(texts, backend.texts(output), strict=True):
                entry = {"question": question, "answer": answer}
                confidence = f" ({scores['confidence']:.3f})" if with_scores else ""
                yield entry | scores if with_scores else entry, f"{question} {answer}{confidence}"

    return work


def from_list(backend: Backend, questions: list[Any], choices: list[str], with_scores: bool) -> Work:
    """Take the likeliest of the choices, all scored exactly; with scores, list all of them by their probability.

    The probability is that among the choices: the softmax of the log-probabilities of the whole answers.
    """
    choices = told_apart(choices, backend.processor)
    encoded = backend.tokens(choices)
    answers = {"answer_ids": encoded["input_ids"], "answer_attention_mask": encoded["attention_mask"]}

    def work(embeds: Any) -> Iterator[tuple[dict[str, Any], str]]:
        for texts, tokens in questions:
            log_probs = backend.engine.to_numpy(
                backend.model.score_texts(image_embeds=embeds, **tokens, **answers).log_probs
            )
            for question, row in zip(texts, log_probs, strict=True):
                order = (-row).argsort(kind="stable")
                entry: dict[str, Any] = {"question": question, "answer": choices[order[0]]}
                if not with_scores:
                    yield entry, f"{question} {entry['answer']}"
                    continue
                shares = probabilities(row)
                entry["choices"] = [
                    {"answer": choices[i], "probability": float(shares[i]), "log_prob": float(row[i])} for i in order
                ]
                yield entry, "\n".join(f"{question} {choices[i]} ({shares[i]:.3f})" for i in order)

    return work
