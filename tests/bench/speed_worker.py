"""One system of the benchmark in a process of its own: loads a model, then runs the cases that it is told to.

    python -m tests.bench.speed_worker SYSTEM HEAD THREADS DEVICE

Reads names of cases from standard input, a line each, and answers each with a line of JSON: the seconds of one run,
and a digest of the result. `speed.py` starts it; it runs where this project is not installed, too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.speed_data import CACHE, HEADS, PHOTOS

LENGTH = 20


class Torch:
    """Ours and transformers' in PyTorch: both have the same classes and methods."""

    precision = "float32"

    def __init__(self, library: str, threads: int, device: str):
        import importlib

        import torch

        if sys.argv[1] in ("hf-new", "openvino"):
            mend_torchvision()
        self.torch, self.library, self.device = torch, importlib.import_module(library), device
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    def load(self, head: str) -> Any:
        options = {"dtype": self.torch.bfloat16} if self.precision == "bfloat16" else {}
        return getattr(self.library, HEADS[head]).from_pretrained(CACHE / head, **options).to(self.device).eval()

    def tensor(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(array).to(self.device)

    def done(self, result: Any) -> np.ndarray:
        result = result.cpu()  # which waits for a GPU
        return (result.float() if result.is_floating_point() else result).numpy()

    def prefix(self, model: Any, pixels: Any) -> Any:
        return model.vision_model(pixels).last_hidden_state


class Bfloat16(Torch):
    """Ours in half precision."""

    precision = "bfloat16"


class Int8(Torch):
    """Ours with int8 weights, taken from the file as they lie in it."""

    def load(self, head: str) -> Any:
        return getattr(self.library, HEADS[head]).from_pretrained(CACHE / f"{head}-int8", dtype="auto").to(self.device)


class Optimized(Torch):
    """Ours with packed weights."""

    def load(self, head: str) -> Any:
        return super().load(head).optimize()


class TensorFlow:
    """Ours and transformers' in TensorFlow."""

    def __init__(self, library: str, threads: int, device: str):
        import importlib

        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.tf, self.library = tf, importlib.import_module(library)

    def load(self, head: str) -> Any:
        kind = getattr(self.library, f"TF{HEADS[head]}")
        if self.library.__name__ == "transformers":
            return kind.from_pretrained(CACHE / f"{head}-bin", from_pt=True)
        return kind.from_pretrained(CACHE / head)

    def tensor(self, array: np.ndarray) -> Any:
        return self.tf.constant(array)

    def done(self, result: Any) -> np.ndarray:
        return result.numpy()

    prefix = Torch.prefix


class OpenVino(Torch):
    """transformers' vision encoder, converted; it has no other part of the model ready."""

    def load(self, head: str) -> Any:
        import openvino

        model = super().load(head).vision_model
        example = self.tensor(np.zeros((1, 3, 384, 384), np.float32))
        settings = {"INFERENCE_NUM_THREADS": self.torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        graph = openvino.convert_model(_FirstOutput(model, self.torch).module, example_input=example)
        return openvino.compile_model(graph, "CPU", settings)

    def tensor(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(array)

    def done(self, result: Any) -> np.ndarray:
        return np.asarray(result)

    def prefix(self, model: Any, pixels: Any) -> Any:
        return model(pixels.numpy())[0]


class _FirstOutput:
    def __init__(self, model: Any, torch: Any):
        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = model

            def forward(self, pixel_values: Any) -> Any:
                return self.inner(pixel_values, return_dict=False)[0]

        self.module = Module().eval()


class Graphs:
    """Ours over an export beside the checkpoint; `library` is the engine, and behind it the type of its weights."""

    def __init__(self, library: str, threads: int, device: str):
        from blip_core.engines import get_engine

        self.export, self.engine = library, get_engine(library.partition("-")[0])
        assert self.engine.backend  # imports it

    def load(self, head: str) -> Any:
        model = self.engine.model_class(HEADS[head])
        return model.from_pretrained(CACHE / f"{head}-{self.export}")

    def tensor(self, array: np.ndarray) -> Any:
        return array

    def done(self, result: Any) -> np.ndarray:
        return np.asarray(result)

    prefix = Torch.prefix


class Notebook(Graphs):
    """A plain loop over OpenVINO's own conversion of transformers' parts."""

    def __init__(self, library: str, threads: int, device: str):
        import openvino  # noqa: F401

        from tests.bench import openvino_notebook

        self.kind, self.threads = openvino_notebook.Notebook, threads

    def load(self, head: str) -> Any:
        return self.kind(CACHE / f"{head}-notebook", self.threads)

    def prefix(self, model: Any, pixels: Any) -> Any:
        return model.vision(pixels)


SYSTEMS: dict[str, tuple[type, str]] = {
    "ours-onnx": (Graphs, "onnx"),
    "ours-openvino": (Graphs, "openvino"),
    "ours-onnx-int8": (Graphs, "onnx-int8"),
    "ours-onnx-int8-dynamic": (Graphs, "onnx-int8-dynamic"),
    "ours-openvino-int8": (Graphs, "openvino-int8"),
    "notebook": (Notebook, ""),
    "ours-pt": (Torch, "blip_pt"),
    "ours-optimized": (Optimized, "blip_pt"),
    "ours-bfloat16": (Bfloat16, "blip_pt"),
    "ours-int8": (Int8, "blip_pt"),
    "ours-tf": (TensorFlow, "blip_tf"),
    "hf-pt": (Torch, "transformers"),
    "hf-tf": (TensorFlow, "transformers"),
    "hf-new": (Torch, "transformers"),
    "openvino": (OpenVino, "transformers"),
}


def cases(backend: Any, model: Any, system: str) -> dict[str, Callable[[], Any]]:
    """Every case by its name, as something to call."""
    given = {name: backend.tensor(array) for name, array in np.load(CACHE / "inputs.npz").items()}
    pixels, ours = given["pixel_values"], system.startswith("ours")

    def caption(count: int, beams: int, length: int = LENGTH) -> Any:
        options = {"num_beams": beams, "min_new_tokens": length, "max_new_tokens": length}
        return model.generate(pixel_values=pixels[:count], **options)

    @functools.cache
    def embeds() -> Any:
        return backend.prefix(model, pixels[:1])

    def decode(length: int) -> Any:
        return model.generate(image_embeds=embeds(), min_new_tokens=length, max_new_tokens=length)

    def answer() -> Any:
        question = {"input_ids": given["question_ids"], "attention_mask": given["question_mask"]}
        options = {"num_beams": 3, "min_new_tokens": 5, "max_new_tokens": 5}
        return model.generate(pixel_values=pixels[:1], **question, **options)

    def match(count: int) -> Any:
        texts = {"input_ids": given["text_ids"][:count], "attention_mask": given["text_mask"][:count]}
        picture = pixels[:1] if ours else backend.tensor(np.repeat(backend.done(pixels[:1]), count, axis=0))
        return model(pixel_values=picture, **texts)[0]

    return {
        "vision 1": lambda: backend.prefix(model, pixels[:1]),
        "vision 4": lambda: backend.prefix(model, pixels[:4]),
        "greedy 1": lambda: caption(1, 1),
        "greedy 8": lambda: caption(8, 1),
        "beams 1": lambda: caption(1, 3),
        "beams 8": lambda: caption(8, 3),
        "decode 20": lambda: decode(LENGTH),
        "decode 4": lambda: decode(4),
        "vqa": answer,
        "itm 64": lambda: match(64),
        "itm 8": lambda: match(8),  # of transformers, which encodes the picture again for each text
    }


def preprocess(system: str, threads: int) -> dict[str, Callable[[], Any]]:
    """Photographs that are in memory as PIL images, as `pixel_values` of NumPy."""
    import torch  # before `also_alone`, which gives it one thread
    from PIL import Image

    pictures = [Image.open(photo).convert("RGB") for photo in PHOTOS] * 8
    if system == "ours-pt":
        from blip_core import BlipImageProcessor

        exact, quick = BlipImageProcessor(), BlipImageProcessor(backend="fast")
        return also_alone(
            {
                "preprocess": lambda: exact(pictures, return_tensors="np").pixel_values,
                "preprocess fast": lambda: quick(pictures, return_tensors="np").pixel_values,
            }
        )
    if system == "hf-new":
        mend_torchvision()
    import transformers

    torch.set_num_threads(threads)
    if system == "hf-pt":
        slow = transformers.BlipImageProcessor()
        return also_alone({"preprocess": lambda: np.asarray(slow(pictures, return_tensors="np")["pixel_values"])})
    pil, fast = transformers.BlipImageProcessorPil(), transformers.BlipImageProcessor()
    return also_alone(
        {
            "preprocess": lambda: np.asarray(pil(pictures, return_tensors="np")["pixel_values"]),
            "preprocess fast": lambda: fast(pictures, return_tensors="pt")["pixel_values"].numpy(),
        }
    )


def also_alone(found: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """The cases, and each on one processor and one thread of PyTorch."""
    torch = sys.modules.get("torch")

    def alone(run: Callable[[], Any]) -> Any:
        processors, threads = os.sched_getaffinity(0), torch.get_num_threads() if torch else 1
        os.sched_setaffinity(0, {min(processors)})  # threads that begin now inherit it
        if torch:
            torch.set_num_threads(1)
        try:
            return run()
        finally:
            os.sched_setaffinity(0, processors)
            if torch:
                torch.set_num_threads(threads)

    return found | {f"{name} one": functools.partial(alone, run) for name, run in found.items()}


def mend_torchvision() -> None:
    """Let torchvision be imported beside a PyTorch that it was not built for, which transformers' imports need.

    Two operators that no BLIP uses are declared; resizing, which the fast processor takes from it, is PyTorch's own.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


def clock(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def resident() -> float:
    """The greatest resident set so far in MB; pages of mapped files count."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


def digest(result: np.ndarray) -> Any:
    """Tokens as they are, numbers as their mean and their sum of squares."""
    if result.dtype.kind in "iu":
        return hashlib.sha1(result.astype(np.int64).tobytes()).hexdigest()[:8]
    return [float(result.mean(dtype=np.float64)), float(np.square(result, dtype=np.float64).mean())]


def start(system: str, threads: int, device: str) -> dict[str, float]:
    """Seconds from the first import to the first caption, and the memory that it took."""
    kind, library = SYSTEMS[system]
    imported, backend = clock(lambda: kind(library, threads, device))
    loaded, model = clock(lambda: backend.load("captioner"))
    first, _ = clock(lambda: backend.done(cases(backend, model, system)["greedy 1"]()))
    return {"import": imported, "load": loaded, "first caption": first, "start": imported + loaded + first,
            "peak MB": resident()}  # fmt: skip


def main() -> None:
    system, head, threads, device = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    warnings.simplefilter("ignore")
    if head == "start":
        print(json.dumps(start(system, threads, device)), flush=True)
        return
    kind, library = SYSTEMS[system]
    if head == "preprocess":
        found, done = preprocess(system, threads), np.asarray
    else:
        backend = kind(library, threads, device)
        found, done = cases(backend, backend.load(head), system), backend.done
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        try:
            case = found[line.strip()]
            seconds, result = clock(lambda case=case: done(case()))  # type: ignore[misc]
            answer = {"seconds": seconds, "digest": digest(np.asarray(result))}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:100]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
