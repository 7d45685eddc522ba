"""What the weights of exports change, against PyTorch in float32, on the shipped model and the drawings of emoji.

    python -m tests.bench.exported_weights [--pictures 96]

Prints a table: of each engine and type of weights the size of the captioner, how many captions (greedy and by 3 beams)
and answers are those of PyTorch, and how far matching probabilities are from its. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from blip_core import Answerer, Captioner, Matcher
from blip_core.checkpoints import FORMATS
from blip_core.datasets import clean_caption
from blip_core.hub import SHIPPED
from conversion import convert

EMOJI = Path(__file__).parents[1] / "data" / "emoji"
QUESTIONS = ["what is it?", "what group is it of?", "what color is it mostly?"]
ROWS = [
    (engine, weights, dtype)
    for engine in ("onnx", "openvino")
    for weights, dtype in (("", "float32"), ("", "float16"), ("int8", "float16"), ("int8-dynamic", "float16"))
    if weights in ("", *FORMATS[engine].weights)
]  # fmt: skip


def results(captioner: Any, answerer: Any, engine: str, pictures: list[str], names: list[str]) -> dict[str, np.ndarray]:
    """Captions, answers and matching probabilities of all pictures."""
    kinds = {Captioner: captioner, Answerer: answerer, Matcher: captioner}
    caption, answer, match = (kind.from_pretrained(path, engine=engine) for kind, path in kinds.items())
    return {
        "greedy": np.array([found.text for found in caption(pictures)]),
        "3 beams": np.array([found.text for found in caption(pictures, num_beams=3)]),
        "answers": np.array([one.text for found in answer(pictures, QUESTIONS) for one in found]),
        "matches": np.array([found.itm for found in match(pictures, names[:8])]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=96)
    about = json.loads((EMOJI / "names.json").read_text())
    files = list(about)[: parser.parse_args().pictures]
    pictures, names = [str(EMOJI / file) for file in files], [clean_caption(about[file]["name"]) for file in files]
    answers = SHIPPED / "questions.safetensors.index.json"
    expected = results(SHIPPED, answers, "pt", pictures, names)
    print("| Engine | Weights | Size | Captions, greedy | Captions, 3 beams | Answers | Matches differ by up to |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as made:
        for number, (engine, weights, dtype) in enumerate(ROWS):
            captioner, answerer = (Path(made) / f"{number}-{name}" for name in ("captioner", "answerer"))
            how = {"to": engine, "dtype": dtype, "weights": weights or None}
            convert(SHIPPED, captioner, **how)
            convert(answers, answerer, head="BlipForQuestionAnswering", **how)
            found = results(captioner, answerer, engine, pictures, names)
            size = sum(path.stat().st_size for path in captioner.iterdir()) / 1e6
            same = [f"{np.mean(expected[name] == found[name]):.0%}" for name in ("greedy", "3 beams", "answers")]
            far = np.abs(expected["matches"] - found["matches"]).max()
            label = f"{weights}, others {dtype}" if weights else dtype
            print(f"| {engine} | {label} | {size:.1f} MB | {' | '.join(same)} | {far:.1e} |", flush=True)


if __name__ == "__main__":
    main()
