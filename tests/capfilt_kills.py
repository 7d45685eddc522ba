"""Run as `python -m tests.capfilt_kills DATA FOLDER`: CapFilt, killed at every moment that is seen from outside.

It stands by itself, without a framework, so that it can fork: nothing else may run in a process that does.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from blip_core.capfilt import Captioning, capfilt
from blip_core.capfilt.models import CapFilter, PictureRead, Scored
from blip_core.datasets import open_dataset


class NoModels(CapFilter):
    """Captions and scores that follow from the bytes of a picture alone."""

    def __init__(self):
        self.captioning = Captioning()
        self.captioner_processor = self.matcher_processor = lambda images, return_tensors: {"pixel_values": [0]}
        self.shared = True

    @property
    def identity(self):
        return {"captioner": "none", "filter": "none"}

    def __call__(self, pictures: list[PictureRead], captions):
        noise = [np.random.default_rng(int(picture.digest, 16)) for picture in pictures]
        return [
            [Scored(text, "web", round(random.random(), 4)) for text in web]
            + [Scored(f"synthetic {picture.digest}", "synthetic", round(random.random(), 4))]
            for random, picture, web in zip(noise, pictures, captions, strict=True)
        ]


def run(data: str, output: Path, moment: int) -> bool:
    """Run in a process that is killed in place of giving its `moment`th file its name; says whether it came through."""
    child = os.fork()
    if not child:
        replace, left = os.replace, moment

        def replace_or_die(source, target):
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = replace_or_die
        try:
            capfilt(open_dataset(data, "caption"), NoModels(), output, shard_size=3, batch_size=2)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def contents(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def main(data: str, folder: Path) -> None:
    """Print how many moments there were; ends with an error where the output is not what it should be."""
    assert run(data, folder / "whole", 0)
    whole = contents(folder / "whole")
    moment, kills = 1, 0
    while not run(data, folder / str(moment), moment):
        kills += 1
        while not run(data, folder / str(moment), 4):  # and again and again: each run gets one shard further
            kills += 1
        assert contents(folder / str(moment)) == whole, moment
        moment += 1
    print(moment - 1, kills)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
