"""`blip answer`: pictures and questions -> answers, in the model's own words or from a list."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from blip_core.cli.arguments import add_frames_argument, add_length_arguments, add_pair_arguments, generation_options
from blip_core.cli.lists import read_list
from blip_core.cli.load_model import load
from blip_core.cli.parser import CommandParser
from blip_core.cli.picture_results import Row, print_results
from blip_core.inference import Answer, Answerer


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "IMAGE QUESTION... [options]",
        "Answer questions about a picture, or about each picture of a folder, in the model's own words or from a list.",
        'blip answer photo.jpg "how many dogs are there?" "is it day or night?"',
    )
    add_pair_arguments(parser, "QUESTION")
    add_frames_argument(parser)
    parser.add_argument("--scores", action="store_true", help="add how sure the model is")
    add_length_arguments(parser)
    parser.add_argument(
        "--choices", metavar="FILE", help="answer with the likeliest line of this file (- for standard input)"
    )


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Answer questions about pictures; returns the exit code."""
    options = {"num_beams": args.beams, "min_new_tokens": args.min_tokens, "max_new_tokens": args.max_tokens}
    generation = generation_options(parser, **options)
    choices = None
    if args.choices is not None:
        if any(value is not None for value in options.values()):
            parser.error("argument --choices: goes with none of --beams, --min-tokens and --max-tokens")
        if args.choices == args.image == "-":
            parser.error("argument --choices: standard input cannot be the pictures' list, too")
        choices = read_list("--choices", args.choices)

    def work(pictures: list[str]) -> Iterator[Exception | list[Row]]:
        answerer, how = load(Answerer, args), {"batch_size": args.batch_size, "frames": args.frames}
        if choices is None:
            results = answerer(pictures, args.texts, **how, **generation)
        else:
            results = answerer.choose(pictures, args.texts, choices, **how)
        for answers in results:
            yield answers[0].error or [as_row(answer, args.scores) for answer in answers]

    return print_results(args, [args.image], work)


def as_row(answer: Answer, with_scores: bool) -> Row:
    """An answer for JSON and for people; with scores how sure the model is, or all choices, the likeliest first."""
    said = {"question": answer.question, "answer": answer.text}
    if not with_scores:
        return said, [f"{answer.question} {answer.text}"]
    if answer.choices is None:
        return said | answer.scores(), [f"{answer.question} {answer.text} ({answer.confidence:.3f})"]
    lines = [f"{answer.question} {choice['answer']} ({choice['probability']:.3f})" for choice in answer.choices]
    return {**said, "choices": answer.choices}, lines
