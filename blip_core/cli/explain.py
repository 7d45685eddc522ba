"""`blip explain`: a picture and a sentence -> where in the picture the model finds each word."""

from __future__ import annotations

import argparse
import os

from blip_core.checks import METHODS
from blip_core.cli.arguments import add_model_arguments, whole
from blip_core.cli.load_model import load
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import Report
from blip_core.files import atomic_path
from blip_core.inference import Explainer
from blip_core.inference.heatmaps import load_font


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "IMAGE TEXT -o FILE.png [options]",
        "Draw where in a picture the model finds each word of a text.",
        'blip explain photo.jpg "two dogs on a beach" -o maps.png',
    )
    parser.add_argument("image", metavar="IMAGE", help="a picture")
    parser.add_argument("text", metavar="TEXT", help="what it may show, in quotes")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.png", help="the file to draw into")
    parser.add_argument(
        "--method", choices=METHODS, default="gradcam", help="attention weighted by its gradient, or attention alone"
    )
    parser.add_argument("--layer", type=whole(0), metavar="N", help="layer of the text encoder, from 0 (7 of 12)")
    parser.add_argument("--boxes", action="store_true", help="say and draw a box around what each word goes by")
    parser.add_argument("--font", metavar="FILE", help="a TrueType font, for words in other scripts than Latin")
    parser.add_argument("--json", action="store_true", help="print one JSON object: the match, each word's peak")
    add_model_arguments(parser)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Draw what each word of a text goes by; returns the exit code."""
    if not args.output.lower().endswith(".png"):
        parser.error(f"--output must end in .png, got {args.output!r}")
    if os.path.exists(args.output) and os.path.exists(args.image) and os.path.samefile(args.output, args.image):
        parser.error("--output would replace IMAGE; name another file")
    if not args.text.strip():
        parser.error("TEXT is empty; say what the picture may show")
    load_font(args.font)  # before the model, which takes longer to be refused
    explainer = load(Explainer, args)
    try:
        layer = explainer.check(args.method, args.layer)
    except ValueError as error:
        parser.error(str(error).replace("layer ", "--layer ").replace("method='attention'", "--method attention"))
    found = explainer(args.image, args.text, method=args.method, layer=layer)
    sheet = found.draw(args.font, args.boxes)
    with atomic_path(args.output) as temporary:
        sheet.save(temporary, format="PNG")
    report = Report(args.json)
    entry, lines = found.to_dict(), [f"{args.image}: {args.text} (itm {found.itm:.3f}) -> {args.output}"]
    if args.boxes:
        for row, one in zip(entry["words"], found.boxes, strict=True):
            row |= {"box": one and one.box, "score": one and one.score}
            said = (
                "nowhere" if one is None else f"{', '.join(f'{side:.0f}' for side in one.box)} (score {one.score:.3f})"
            )
            lines.append(f"  {row['word']}: {said}")
    report.result({**entry, "output": args.output}, *lines)
    return report.exit_code()
