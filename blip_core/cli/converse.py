"""`blip dialogue`: a question about a picture after others and their answers -> an answer, chosen or generated."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from blip_core.cli.arguments import add_model_arguments, add_result_arguments, words
from blip_core.cli.lists import read_list
from blip_core.cli.load_model import load
from blip_core.cli.parser import CommandParser
from blip_core.cli.picture_results import Row, print_results
from blip_core.inference import Answerer
from blip_core.inference.dialogue import Dialogue, after_history


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "IMAGE QUESTION [--history QUESTION ANSWER]... [options]",
        "Answer a question about a picture, or each picture of a folder, after other questions and their answers: in "
        "the model's own words, or with --choices and --caption by the best of a list, which takes a matching model.",
        'blip dialogue photo.jpg "what color is it?" --history "what is it?" "a fox"',
    )
    parser.add_argument("image", metavar="IMAGE", help="a file, a folder, a 'pattern*.jpg', or - for a list on stdin")
    parser.add_argument("question", metavar="QUESTION", type=words, help="the question, in quotes")
    parser.add_argument(
        "--history",
        nargs=2,
        action="append",
        default=[],
        metavar=("QUESTION", "ANSWER"),
        type=words,
        help="what was asked and answered before; often, in order",
    )
    parser.add_argument("--choices", metavar="FILE", help="choose a line of this file (- for standard input)")
    parser.add_argument("--caption", metavar="TEXT", type=words, help="with --choices: what the picture shows")
    add_result_arguments(parser, batch="answers")
    add_model_arguments(parser)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Answer a question after a history; returns the exit code."""
    if (args.choices is None) != (args.caption is None):
        given, other = ("caption", "choices") if args.choices is None else ("choices", "caption")
        parser.error(f"argument --{given}: goes with --{other}")
    if args.choices == args.image == "-":
        parser.error("argument --choices: standard input cannot be the pictures' list, too")
    choices = [] if args.choices is None else read_list("--choices", args.choices)

    def chosen(pictures: list[str]) -> Iterator[Exception | list[Row]]:
        dialogue, how = load(Dialogue, args), {"caption": args.caption, "history": args.history}
        for picture in pictures:
            try:
                found = dialogue(picture, args.question, choices, batch_size=args.batch_size, **how)
            except OSError as error:
                yield error
                continue
            rows = found.choices or []
            lines = [f"{row['answer']} ({row['itm']:.3f})" for row in rows]
            yield [({"question": args.question, "answer": found.text, "choices": rows}, lines)]

    def generated(pictures: list[str]) -> Iterator[Exception | list[Row]]:
        asked = after_history(args.history, args.question)
        for (answer,) in load(Answerer, args)(pictures, [asked], batch_size=args.batch_size):
            yield answer.error or [({"question": args.question, "answer": answer.text}, [str(answer.text)])]

    return print_results(args, [args.image], chosen if choices else generated)
