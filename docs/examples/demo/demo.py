"""`make demo`: the model in the package describes real pictures in PyTorch and in TensorFlow, and the two agree.

The pictures are 96 emoji of Noto (tests/data/emoji), a style of drawing that the model has never seen: it learned the
names from other styles, see docs/shipped.md. They stay in .demo/pictures, to try the commands that are printed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_core import BlipProcessor
from blip_core.cli.load_model import quiet
from blip_core.datasets import clean_caption
from blip_core.engines import get_engine

EMOJI = Path(__file__).parents[3] / "tests" / "data" / "emoji"
PICTURES = Path(".demo") / "pictures"
QUESTIONS = ("what color is it mostly?", "what group is it of?")
SHOWN = 8


def main() -> None:
    names = {name: entry["name"] for name, entry in json.loads((EMOJI / "names.json").read_text()).items()}
    truths = [clean_caption(name) for name in names.values()]
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names:
        on_white(EMOJI / name).save(PICTURES / name)
    results, seconds = {}, {}
    for framework, title in (("pt", "PyTorch"), ("tf", "TensorFlow")):
        print(f"{title} ...", flush=True)
        begin = time.monotonic()
        results[framework] = describe(framework, [PICTURES / name for name in names], truths)
        seconds[title] = time.monotonic() - begin

    captions, answers, matches = results["pt"]
    for number in np.linspace(0, len(names) - 1, SHOWN).astype(int):
        lines = [f"caption  {captions[number]}   ({'right' if captions[number] == truths[number] else truths[number]})"]
        lines += [f"{question}  {answer}" for question, answer in zip(QUESTIONS, answers[number], strict=True)]
        other = truths[number - 1]
        lines += [
            f"{own:.0%} match  {text}" for own, text in zip(matches[number], (truths[number], other), strict=True)
        ]
        show(PICTURES / list(names)[number], lines)
    right = sum(caption == truth for caption, truth in zip(captions, truths, strict=True))
    better = np.mean(matches[:, 0] > matches[:, 1])
    print(
        f"{right} of {len(names)} captions are exactly the name; {better:.0%} of the names match better than another's."
    )

    same = results["tf"][0] == captions and results["tf"][1] == answers
    difference = np.abs(results["tf"][2] - matches).max()
    verdict = "yes" if same else "NO"
    print(f"The same words in both frameworks: {verdict}. Probabilities differ by {difference:.1e} at most.")
    print(", ".join(f"{title}: {value:.0f} s" for title, value in seconds.items()))
    print(f"\nTry:  blip caption {PICTURES}/1f98a.png\n      blip search fox {PICTURES}")
    sys.exit(0 if same and difference < 1e-4 else 1)


def describe(framework: str, pictures: list[Path], names: list[str]) -> tuple[list[str], list[list[str]], np.ndarray]:
    """Captions, the answers to each of the questions, and how well each picture matches its own name and another's."""
    engine = get_engine(framework)
    with quiet():  # TensorFlow remarks on the machine
        importlib.import_module(engine.module)
    processor = BlipProcessor.from_pretrained()
    pixels = processor(images=pictures, return_tensors="np")["pixel_values"]

    def load(head: str) -> Any:
        return engine.model_class(head).from_pretrained()

    captioner, answerer, matcher = map(
        load, ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval")
    )

    def words(model: Any, **inputs: np.ndarray) -> list[str]:
        tokens = model.generate(**{name: engine.to_tensor(array, model) for name, array in inputs.items()})
        return processor.batch_decode(engine.to_numpy(tokens), skip_special_tokens=True)

    def matching(texts: list[str]) -> np.ndarray:
        encoded = processor(text=texts, return_tensors="np")
        inputs = {name: engine.to_tensor(encoded[name], matcher) for name in ("input_ids", "attention_mask")}
        logits = engine.to_numpy(matcher(pixel_values=engine.to_tensor(pixels, matcher), **inputs).itm_score)
        return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))

    captions = words(captioner, pixel_values=pixels)
    asked = [
        words(answerer, pixel_values=pixels, **processor(text=[question] * len(pixels), return_tensors="np"))
        for question in QUESTIONS
    ]
    matches = np.stack([matching(names), matching([names[-1], *names[:-1]])], axis=1)
    return captions, [list(answers) for answers in zip(*asked, strict=True)], matches


def on_white(path: Path) -> Image.Image:
    """A picture without transparency."""
    picture = Image.open(path).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")


def show(path: Path, lines: list[str]) -> None:
    """Print what was found of a picture; on terminals of many colors with the picture."""
    if not (sys.stdout.isatty() and os.environ.get("COLORTERM") in ("truecolor", "24bit")):
        print("\n  ".join([str(path), *lines]))
        return
    pixels = Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BOX).load()
    for row in range(8):  # a half block shows two pixels: one as its own color, one as what is behind it
        cells = ((*pixels[x, 2 * row], *pixels[x, 2 * row + 1]) for x in range(16))
        picture = "".join("\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*cell) for cell in cells)
        print(f"{picture}\x1b[0m  {[str(path), *lines][row - 1] if 1 <= row <= len(lines) + 1 else ''}")
    print()


if __name__ == "__main__":
    main()
