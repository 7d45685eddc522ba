"""`blip explain`: a picture and a sentence -> where in the picture the model finds each word."""

from __future__ import annotations

import argparse
import os

from blip_core.cli.arguments import add_model_arguments, whole
from blip_core.cli.backend import Backend
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import Report
from blip_core.files import atomic_path
from blip_core.inference.answer_tries import probabilities
from blip_core.inference.attribution import METHODS, chosen_layer, find_words, peak, strengths, word_maps
from blip_core.inference.heatmaps import draw_maps, load_font
from blip_core.processing.picture_files import load_image
from blip_core.processing.pictures import to_rgb


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
    backend = Backend("BlipForImageTextRetrieval", args)
    turned = backend.processor.image_processor.apply_exif_orientation
    picture = to_rgb(load_image(args.image, turned), args.image)  # as the model sees it, but whole
    model, patch = backend.model, backend.model.config.vision_config.patch_size
    layer = chosen_layer(args.layer, args.method, model.config.text_config)
    if args.method == "gradcam" and layer == model.config.text_config.num_hidden_layers - 1:
        parser.error(
            f"--layer {layer} is the last one, of which the match score reads no word; take one below it, "
            "or --method attention"
        )
    tokens = backend.tokens([args.text])
    words = find_words(backend.processor.tokenizer, args.text)
    pixels = backend.read_picture(args.image)
    embeds, grid = backend.embeds(pixels), [size // patch for size in pixels.shape[1:]]
    itm = float(probabilities(backend.engine.to_numpy(model(image_embeds=embeds, **tokens).itm_score))[0, 1])
    maps = model.explain(image_embeds=embeds, **tokens, layer=layer, method=args.method, grid=grid)
    heat = word_maps(backend.engine.to_numpy(maps)[0], words)
    sheet = draw_maps(picture, f"{args.text}  (match {itm:.3f})", [word.text for word in words], heat, args.font)
    with atomic_path(args.output) as temporary:
        sheet.save(temporary, format="PNG")
    found = [
        {"word": word.text, "strength": float(strength), "peak": peak(one, picture.size) if strength else None}
        for word, strength, one in zip(words, strengths(heat), heat, strict=True)
    ]
    entry = {
        "image": args.image, "text": args.text, "output": args.output, "itm": itm, "method": args.method,
        "layer": layer, "words": found,
    }  # fmt: skip
    report = Report(args.json)
    report.result(entry, f"{args.image}: {args.text} (itm {itm:.3f}) -> {args.output}")
    return report.exit_code()
