"""Memory that CapFilt takes for inputs of different sizes: tiny models, pictures of 8 x 8 pixels in a tar shard.

    python -m tests.bench.bootstrapping_memory [--pictures 1000 10000 100000]

Each size has a process of its own. `before` is what it has of its own (RssAnon) when models and input are loaded,
`peak` the most while the work goes on, looked at every 10 ms.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image


def own_memory() -> float:
    """RssAnon of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def write(path: Path, pictures: int) -> None:
    noise = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(pictures):
            file = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
            for suffix, data in ((".png", file.getvalue()), (".txt", f"picture {number}".encode())):
                member = tarfile.TarInfo(f"{number:06}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def measure(pictures: int) -> None:
    """Run and print a line."""
    from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
    from blip_core.capfilt import CapFilter, Captioning, capfilt
    from blip_core.datasets import open_dataset
    from blip_core.inference import Captioner, Matcher
    from blip_pt import BlipForConditionalGeneration, BlipForImageTextRetrieval

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = BlipTextConfig(**sizes), BlipVisionConfig.base(**sizes, image_size=32)
    config = BlipConfig.from_text_vision_configs(text, vision, image_text_hidden_size=8)
    models = [kind(config).eval() for kind in (BlipForConditionalGeneration, BlipForImageTextRetrieval)]
    processor = BlipProcessor(BlipImageProcessor(size=32), BlipTokenizer())
    loaded = CapFilter(Captioner(models[0], processor), Matcher(models[1], processor), Captioning(beams=1))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "data.tar", pictures)
        dataset = open_dataset(Path(folder) / "data.tar", "caption")
        before = peak = own_memory()
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.01):
                peak = max(peak, own_memory())

        thread, begin = threading.Thread(target=watch), time.perf_counter()
        thread.start()
        capfilt(dataset, loaded, Path(folder) / "out", threshold=0, to="webdataset", batch_size=32)
        done.set()
        thread.join()
        seconds = time.perf_counter() - begin
    print(f"{pictures:8,} pictures: before {before:.0f} MiB, peak {peak:.0f} MiB, {pictures / seconds:.0f} a second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000, 10_000, 100_000])
    args = parser.parse_args()
    if len(args.pictures) == 1:
        measure(args.pictures[0])
    for pictures in args.pictures if len(args.pictures) > 1 else ():
        subprocess.run(
            [sys.executable, "-m", "tests.bench.bootstrapping_memory", "--pictures", str(pictures)], check=True
        )
