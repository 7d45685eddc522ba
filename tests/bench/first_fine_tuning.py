"""The first fine-tuning of a user: what is learned by default settings alone, and what is kept of what was known.

python -m tests.bench.first_fine_tuning [--engine pt] [--count 20] [--seeds 0 1 2] [--drawn FOLDER]

For each seed, drawings of random shapes with made-up names are taught to the shipped model by `blip train caption`
without any setting. Prints how many are named rightly then, and of other pictures the share of captions that are the
same as before, or right: the 96 emoji of tests/data, or 500 of each style in FOLDER, which
`python -m docs.examples.shipped.drawings FOLDER` draws. Seconds are those of the processor, over all threads.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from blip_core import Captioner
from blip_core.cli import main as blip
from blip_core.datasets import clean_caption
from blip_core.processing.pictures import on_ground
from docs.examples.shipped.prepare import drawings
from tests.helpers.made_up_drawings import draw, kept, same

EMOJI = Path(__file__).parents[1] / "data" / "emoji"
STYLES = ("twemoji", "noto")
WHITE = (255, 255, 255)
MANY = 500


def others(folder: Path | None) -> dict[str, list[tuple[Path, str]]]:
    """Pictures that the model should not forget, with their names, by style."""
    if folder is None:
        names = json.loads((EMOJI / "names.json").read_text())
        return {"emoji": [(EMOJI / name, clean_caption(entry["name"])) for name, entry in names.items()]}
    known = json.loads((folder / "names.json").read_text())
    found = {}
    for style in STYLES:
        rows = [(folder / path, clean_caption(known[code]["name"])) for path, code in drawings(folder, [style], known)]
        order = np.random.default_rng(0).permutation(len(rows))[:MANY]
        found[style] = [rows[index] for index in order]
    return found


def measure(engine: str, count: int, seed: int, styles: dict[str, list[tuple[Path, str]]]) -> str:
    """Teach one set of drawings and say what came of it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = draw(folder / "own", count, seed)
        begin = time.process_time()
        words = ["train", "caption", "--data", str(folder / "own"), "--output", str(folder / "mine")]
        if blip([*words, "--engine", engine]):
            sys.exit(1)
        seconds = time.process_time() - begin
        old, new = (Captioner.from_pretrained(name, engine=engine) for name in (None, folder / "mine"))
        said = [caption.text for caption in new(list(names), batch_size=50)]
        lines = [f"{engine}, seed {seed}: {round(same(said, list(names.values())) * count)} of {count} are named"]
        for style, rows in styles.items():
            images = [on_ground(Image.open(path), WHITE) for path, _ in rows]
            before, after = ([caption.text for caption in model(images, batch_size=50)] for model in (old, new))
            truths = [truth for _, truth in rows]
            lines.append(
                f"{style}: of {len(rows)} {kept(before, after, truths):.1%} as before or right, right "
                f"{same(before, truths):.1%} before, {same(after, truths):.1%} after"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return "; ".join([*lines, f"{seconds:.0f} s of processor, {peak:.1f} GB"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="pt", choices=("pt", "tf"))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--drawn", type=Path)
    args = parser.parse_args()
    for number in args.seeds:
        print(measure(args.engine, args.count, number, others(args.drawn)), flush=True)
