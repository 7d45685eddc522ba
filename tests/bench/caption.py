"""How long a caption takes: base size, one picture of 384 pixels, 20 tokens, greedy, in both frameworks.

    python tests/bench/caption.py [--threads 2] [--repeats 5] [--beams 1]

Each framework runs in a process of its own with the same random weights' sizes; medians in seconds. `load` is making
the model, `first` the first caption (with what TensorFlow compiles), `vision` the image encoder, `caption` the whole.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--framework", choices=("pt", "tf"), help="run one framework in this process, print JSON")
    args = parser.parse_args()
    if args.framework:
        print(json.dumps(measure(args)))
        return
    seconds = {}
    for framework in ("pt", "tf"):
        command = [sys.executable, __file__, "--framework", framework, *sys.argv[1:]]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(args.threads)}
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if found.returncode:
            sys.exit(found.stderr)
        seconds[framework] = json.loads(found.stdout.splitlines()[-1])
        print(framework, " ".join(f"{name} {value:.2f}" for name, value in seconds[framework].items()))
    print(f"tf / pt: {seconds['tf']['caption'] / seconds['pt']['caption']:.2f}")


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds in one framework."""
    import numpy as np

    from blip_core import BlipConfig

    pixels = np.random.default_rng(0).standard_normal((1, 3, 384, 384), np.float32)
    if args.framework == "pt":
        import torch

        from blip_pt import BlipForConditionalGeneration as Model

        torch.set_num_threads(args.threads)
        picture: Any = torch.from_numpy(pixels)
    else:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
        from blip_tf import TFBlipForConditionalGeneration as Model

        picture = tf.constant(pixels)
    load, model = clock(lambda: Model(BlipConfig.base()))
    options = {"num_beams": args.beams, "max_new_tokens": args.tokens, "eos_token_id": None}

    def caption() -> Any:
        return model.generate(picture, **options)

    first, tokens = clock(caption)
    assert tokens.shape == (1, args.tokens + 1), tokens.shape
    times = [clock(caption)[0] for _ in range(args.repeats)]
    embeds = np.zeros((1, 577, 768), np.float32)
    embeds = torch.from_numpy(embeds) if args.framework == "pt" else tf.constant(embeds)
    text = [clock(lambda: model.generate(image_embeds=embeds, **options))[0] for _ in range(args.repeats)]
    median, text_median = statistics.median(times), statistics.median(text)
    return {"load": load, "first": first, "vision": median - text_median, "text": text_median, "caption": median}


def clock(run: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
