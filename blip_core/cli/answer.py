"""`blip answer`: pictures and questions -> answers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from blip_core.cli.arguments import add_length_arguments, generation_options
from blip_core.cli.backend import Backend
from blip_core.cli.pairs import Work, add_arguments, run_pairs


def add_command(commands: Any) -> None:
    """Add `answer` to the command line."""
    parser = commands.add_parser("answer", help="answer questions about a picture", description=__doc__)
    add_arguments(parser, "QUESTION")
    parser.add_argument("--scores", action="store_true", help="add how sure the model is")
    add_length_arguments(parser)
    parser.set_defaults(run=lambda args: run(args, parser))


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Answer questions about pictures; returns the exit code."""
    options = generation_options(
        parser, num_beams=args.beams, min_new_tokens=args.min_tokens, max_new_tokens=args.max_tokens
    )

    def prepare(backend: Backend, questions: list[Any]) -> Work:
        def work(embeds: Any) -> Iterator[tuple[dict[str, Any], str]]:
            for texts, tokens in questions:
                output = backend.model.generate(image_embeds=embeds, **tokens, **options)
                for question, (answer, scores) in zip(texts, backend.texts(output), strict=True):
                    entry = {"question": question, "answer": answer}
                    confidence = f" ({scores['confidence']:.3f})" if args.scores else ""
                    yield entry | scores if args.scores else entry, f"{question} {answer}{confidence}"

        return work

    return run_pairs(args, "BlipForQuestionAnswering", prepare)
