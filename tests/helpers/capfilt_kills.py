"""CapFilt without a framework, for tests that kill it.

    python -m tests.helpers.capfilt_kills DATA FOLDER           killed at every moment that is seen from outside
    python -m tests.helpers.capfilt_kills DATA FOLDER SHARES    SHARES processes at once, killed at random moments

It stands by itself so that it can fork: nothing else may run in a process that does.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from blip_core.capfilt import Captioning, capfilt
from blip_core.capfilt.cap_filter import CapFilter, PictureRead, Scored
from blip_core.datasets import open_dataset
from blip_core.jobs.progress import PROGRESS
from blip_core.jobs.sharding import Share

MOMENTS = 10


class NoModels(CapFilter):
    """Captions and scores that follow from the bytes of a picture alone, after a pause."""

    def __init__(self, pause=0.0):
        self.captioning = Captioning()
        self.captioner = self.matcher = SimpleNamespace(processor=lambda images, return_tensors: {"pixel_values": [0]})
        self.shared = True
        self.pause = pause

    @property
    def width(self):
        return 1

    @property
    def identity(self):
        return {"captioner": "none", "filter": "none"}

    def __call__(self, pictures: list[PictureRead], captions):
        time.sleep(self.pause)
        noise = [np.random.default_rng(int(picture.digest, 16)) for picture in pictures]
        scored = [
            [Scored(text, "web", round(random.random(), 4)) for text in web]
            + [Scored(f"synthetic {picture.digest}", "synthetic", round(random.random(), 4))]
            for random, picture, web in zip(noise, pictures, captions, strict=True)
        ]
        return scored, np.zeros((len(pictures), self.width), np.float16)


def begin(data: str, output: Path, moment: int = 0, share: Share | None = None, pause: float = 0.0) -> int:
    """Run in a process that is killed in place of giving its `moment`th file its name; returns its number."""
    if child := os.fork():
        return child
    replace, left = os.replace, moment

    def replace_or_die(source, target):
        nonlocal left
        left -= PROGRESS not in str(target)  # which is no result, and written at other moments, too
        if not left and PROGRESS not in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die
    try:
        dataset = open_dataset(data, "caption")
        capfilt(dataset, NoModels(pause), output, shard_size=3, batch_size=2, share=share or Share())
        os._exit(0)
    finally:
        os._exit(1)


def came_through(child: int) -> bool:
    """Wait for a process; says whether it ended by itself."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def run(data: str, output: Path, moment: int = 0) -> bool:
    return came_through(begin(data, output, moment))


def contents(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def every_moment(data: str, folder: Path, whole: dict[str, bytes]) -> tuple[int, int]:
    """How many moments there are, and how many kills it took."""
    moment, kills = 1, 0
    while not run(data, folder / str(moment), moment):
        kills += 1
        while not run(data, folder / str(moment), 4):  # and again and again: each run gets one file further
            kills += 1
        assert contents(folder / str(moment)) == whole, moment
        moment += 1
    return moment - 1, kills


def random_moments(data: str, folder: Path, whole: dict[str, bytes], of: int) -> tuple[int, int]:
    """How many folders were begun by processes that were killed, and how many kills met a process at work."""
    noise, kills = random.Random(of), 0
    for number in range(MOMENTS):
        for _ in range(2):
            children = [begin(data, folder / str(number), 0, Share(part + 1, of), 0.01) for part in range(of)]
            time.sleep(noise.random() * 0.12)
            for child in children:
                os.kill(child, signal.SIGKILL)
            kills += sum(not came_through(child) for child in children)
        children = [begin(data, folder / str(number), 0, Share(part + 1, of)) for part in range(of)]
        assert all(came_through(child) for child in children)
        assert contents(folder / str(number)) == whole, number
    return MOMENTS, kills


def main(data: str, folder: Path, shares: int = 0) -> None:
    """Print the two numbers; ends with an error where the output is not what it should be."""
    assert run(data, folder / "whole")
    whole = contents(folder / "whole")
    print(*random_moments(data, folder, whole, shares) if shares else every_moment(data, folder, whole))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
