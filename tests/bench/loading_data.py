"""How many pictures a second the batches of training bring: small drawings and photographs, by task, workers and cache.

    python tests/bench/loading_data.py [--side 64] [--batch 64] [--seconds 3]

Drawings are the emoji of the tests (64 x 64, transparent PNG), at `--side` pixels; photographs are JPEGs of 640 x 480
made of the tests' one, at 224 pixels. `plain` is without augmentation, `original` the original's, `strong` also
rotates, scales, moves, bends and recolours. Each number is the median of three rounds of `--seconds`, after a whole
epoch that fills the cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image

from blip_core import BlipImageProcessor, BlipProcessor
from blip_core.datasets import Augmentation, Batches, Dataset, open_dataset
from blip_core.tasks import TASKS

DATA = Path(__file__).parents[1] / "data"
AUGMENTATIONS = {
    "plain": None,
    "original": Augmentation(),
    "strong": Augmentation(
        crop_scale=(0.7, 1.0), rotate=20, scale=(0.6, 1.1), translate=0.1, elastic=0.03, random_background=0.7,
        hue=0.05, saturation=0.3, brightness=0.3, erase=0.2,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        emoji = sorted((DATA / "emoji").glob("*.png"))
        photos = [Path(folder) / f"{number}.jpg" for number in range(16)]
        for number, path in enumerate(photos):
            Image.open(DATA / "photos" / "astronaut.jpg").convert("RGB").rotate(number).resize((640, 480)).save(path)
        print(f"pictures a second, batches of {args.batch}")
        for task in TASKS:
            show(args, f"drawings {args.side}, {task}", write(folder, emoji, task), task, args.side, 2, 0, "original")
        for augmentation in AUGMENTATIONS:
            for workers in (0, 1, 2, 4):
                for cache in (0, 256):
                    name = f"drawings {args.side}, {augmentation}"
                    show(args, name, write(folder, emoji), "caption", args.side, workers, cache, augmentation)
        for workers in (0, 1, 2, 4):
            for cache in (0, 256):
                show(
                    args, "photographs 224, original", write(folder, photos), "caption", 224, workers, cache, "original"
                )


def write(folder: str, pictures: list[Path], task: str = "caption") -> Dataset:
    """A data set of four entries for each picture."""
    fields = {
        "vqa": {"question": "what is it?", "answer": ["a drawing", "a thing"]},
        "nlvr": {"sentence": "both are drawings", "label": "True"},
    }.get(task, {"caption": "a drawing of something on a plain ground"})
    entries = [{**fields, "images": [str(path)] * (2 if task == "nlvr" else 1)} for _ in range(4) for path in pictures]
    path = Path(folder) / f"{task}.json"
    path.write_text(json.dumps(entries))
    return open_dataset(path, task)


def show(
    args: argparse.Namespace,
    name: str,
    data: Dataset,
    task: str,
    side: int,
    workers: int,
    cache: int,
    augmentation: str,
) -> None:
    processor = BlipProcessor(BlipImageProcessor(size=side))
    batches = Batches(
        data, processor, task, min(args.batch, len(data)), training=True, augment=AUGMENTATIONS[augmentation],
        background="white", workers=workers, cache=cache,
    )  # fmt: skip
    for _ in batches.epoch(0):
        pass
    rates = [rate(batches, round_, args.seconds) for round_ in range(3)]
    print(f"{name:<34} {workers} workers  {'cache' if cache else '     '}  {statistics.median(rates):8.0f}", flush=True)


def rate(batches: Batches, round_: int, seconds: float) -> float:
    count, epoch, start = 0, round_ * 1000, time.perf_counter()
    while True:
        epoch += 1
        for batch in batches.epoch(epoch):
            count += batch.inputs["pixel_values"].shape[0] * len(batch.examples[0].images)
            if (passed := time.perf_counter() - start) > seconds:
                return count / passed


if __name__ == "__main__":
    main()
