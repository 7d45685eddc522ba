"""What exporting base-size models gives: sizes, seconds, and how far the results are from the model's.

    python tests/bench/exporting.py

A captioner of random weights as a SavedModel, and a retrieval model as LiteRT files with float32 and with int8 weights;
differences are the greatest absolute one over the greatest absolute value.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

sys.path.insert(0, str(Path(__file__).parents[2]))

from blip_core import BlipConfig
from blip_tf import TFBlipForConditionalGeneration, TFBlipForImageTextRetrieval
from conversion import convert

PIXELS = np.random.default_rng(0).standard_normal((1, 3, 384, 384), np.float32)
TEXT = {"input_ids": np.array([[101, 1037, 3861, 1997, 102]], np.int32), "attention_mask": np.ones((1, 5), np.int32)}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved_model(folder / "captioner")
        litert(folder)


def saved_model(folder: Path) -> None:
    """Export, load and run a captioner."""
    model = TFBlipForConditionalGeneration(BlipConfig.base())
    model.save_pretrained(folder.with_name("source"))
    clock("export", lambda: convert(folder.with_name("source"), folder, to="savedmodel"))
    print(f"SavedModel: {sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.0f} MB")
    caption = clock("load", lambda: tf.saved_model.load(folder)).signatures["caption"]
    given = {"pixel_values": tf.constant(PIXELS), **{key: tf.constant(value) for key, value in TEXT.items()}}
    model.generate(**given)
    caption(**given)
    expected = clock("generate", lambda: model.generate(**given))
    found = clock("caption signature", lambda: caption(**given)["sequences"])
    print("the same tokens:", np.array_equal(expected, found))


def litert(folder: Path) -> None:
    """Convert a retrieval model and run its encoders."""
    model = TFBlipForImageTextRetrieval(BlipConfig.base())
    given = {"image_features": {"pixel_values": PIXELS}, "text_features": TEXT}
    expected = {"image_features": model.get_image_features(**given["image_features"]).numpy()}
    expected["text_features"] = model.get_text_features(**given["text_features"]).numpy()
    model.save_pretrained(folder / "matcher")
    for weights in (None, "int8"):
        made = folder / f"matcher-{weights}"
        clock("convert", lambda made=made, how=weights: convert(folder / "matcher", made, to="litert", weights=how))
        path = made / "model.tflite"
        print(f"LiteRT, {weights or 'float32'}: {path.stat().st_size / 1e6:.0f} MB")
        interpreter = Interpreter(str(path), num_threads=2)
        for name, arguments in given.items():
            run = interpreter.get_signature_runner(name)
            found = clock(name, lambda run=run, arguments=arguments, name=name: run(**arguments)[name])
            difference = np.abs(found - expected[name]).max() / np.abs(expected[name]).max()
            print(f"{name} differ by {difference:.1e}, cosine {float((found * expected[name]).sum()):.6f}")


def clock(what: str, run: Callable[[], Any]) -> Any:
    """Run, print the seconds that it takes, and return the result."""
    start = time.perf_counter()
    result = run()
    print(f"{what}: {time.perf_counter() - start:.2f} s", flush=True)
    return result


if __name__ == "__main__":
    main()
