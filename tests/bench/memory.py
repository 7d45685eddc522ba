"""How much memory loading a base captioner and captioning one picture takes, beside the size of its file.

    python tests/bench/memory.py [--framework pt|tf] [--image-size 384]

Writes a base-size checkpoint of random weights to a temporary folder, then measures in a fresh process the greatest
resident set (VmHWM: pages of the mapped file count) after each step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import json, re, sys, time
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
framework, folder, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
import numpy as np
if framework == "pt":
    import torch
    from blip_pt import BlipForConditionalGeneration as Model
    tensor = torch.from_numpy
else:
    import tensorflow as tf
    from blip_tf import TFBlipForConditionalGeneration as Model
    tensor = tf.constant
figures = {"import": peak()}
start = time.perf_counter()
model = Model.from_pretrained(folder)
figures["load_s"] = time.perf_counter() - start
figures["load"] = peak()
pixels = tensor(np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32))
start = time.perf_counter()
model.generate(pixels, max_new_tokens=20)
figures["caption_s"] = time.perf_counter() - start
figures["caption"] = peak()
print(json.dumps(figures))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--framework", choices=("pt", "tf"), default="pt")
    parser.add_argument("--image-size", type=int, default=384)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write = (
            "import sys; from blip_core import BlipConfig; from blip_pt import BlipForConditionalGeneration as M; "
            f"M(BlipConfig.base(image_size={args.image_size})).save_pretrained(sys.argv[1])"
        )
        subprocess.run([sys.executable, "-c", write, folder], check=True)
        size = (Path(folder) / "model.safetensors").stat().st_size / 2**20
        command = [sys.executable, "-c", CHILD, args.framework, folder, str(args.image_size)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f"file {size:.0f} MiB; greatest resident set in MiB:")
    print(f"  after imports {figures['import']:.0f}")
    print(f"  after from_pretrained {figures['load']:.0f} ({figures['load_s']:.2f} s)")
    beyond = figures["caption"] - size
    print(f"  after one caption {figures['caption']:.0f}, file {beyond:+.0f} ({figures['caption_s']:.1f} s)")


if __name__ == "__main__":
    main()
