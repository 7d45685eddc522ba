"""Measure the shipped model on Noto, the style that it has never seen, beside two baselines.

    python -m docs.examples.shipped.measure FOLDER [pt|tf]

"pixels" takes everything from the training drawing that is nearest in 16 x 16 pixels on white; "untrained" is the same
network with random weights. Prints a table of Markdown.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_core import BlipConfig, BlipProcessor
from blip_core.datasets import Example, clean_caption, open_dataset
from blip_core.engines import get_engine
from blip_core.evaluation import evaluate_answers, evaluate_captions, evaluate_retrieval
from blip_core.metrics import caption_scores
from blip_core.processing.pictures import on_ground
from blip_core.tasks import get_task
from docs.examples.shipped import run

GROUND = "white"
SIDE = 16
RERANK = 32
SEED = 0
TASKS: dict[str, tuple[Callable[..., Any], str]] = {
    "caption": (evaluate_captions, "held_out.json"),
    "vqa": (evaluate_answers, "held_out_vqa.json"),
    "retrieval": (evaluate_retrieval, "held_out.json"),
}
COLUMNS = (
    "picture → name", "with ITM", "name → picture", "with ITM", "exact caption", "CIDEr", "answers",
    "what is it?", "what group is it of?", "what color is it mostly?", "what country has this flag?",
)  # fmt: skip


def main(folder: Path, framework: str = "pt") -> None:
    """Print the table."""
    print(f"| | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    rows = {
        "pixels": lambda: of_pixels(folder),
        "untrained": lambda: of_model(folder, framework, trained=False),
        "shipped": lambda: of_model(folder, framework, trained=True),
    }
    for name, measure in rows.items():
        cells = ["" if value is None else f"{value:.3f}" for value in measure()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def of_model(folder: Path, framework: str, *, trained: bool) -> list[float | None]:
    """Measure the model in the package, or the same with random weights."""

    def result(task: str, **options: Any) -> Any:
        evaluate, data = TASKS[task]
        dataset = open_dataset(folder / data, task)
        return evaluate(models[task], processor, dataset, batch_size=64, background=GROUND, **options)

    classes = {task: get_engine(framework).model_class(get_task(task).head) for task in TASKS}
    load = (lambda model_class: model_class.from_pretrained()) if trained else untrained
    models = {task: load(model_class) for task, model_class in classes.items()}
    processor = BlipProcessor.from_pretrained()
    captions, answers = result("caption"), result("vqa")
    exact = np.mean([entry["caption"] == clean_caption(entry["references"][0]) for entry in captions.entries])
    asked = {(entry["image"], entry["question"]): entry["accuracy"] for entry in answers.entries}
    found = [result("retrieval", rerank=rerank).metrics for rerank in (0, RERANK)]
    recalls = [metrics[f"{way}_recall_1"] for way in ("image_to_text", "text_to_image") for metrics in found]
    return [*recalls, float(exact), captions.metrics["cider"], *by_question(asked)]


def untrained(model_class: Any) -> Any:
    """A model with random weights of the shipped configuration."""
    if model_class.__name__.startswith("TF"):
        import tensorflow as tf

        tf.random.set_seed(SEED)
        return model_class(BlipConfig.from_pretrained())
    import torch

    torch.manual_seed(SEED)
    return model_class(BlipConfig.from_pretrained()).eval()


def of_pixels(folder: Path) -> list[float | None]:
    """Measure the nearest training drawing."""
    known, unknown = (list(open_dataset(folder / file, "caption")) for file in ("pretrain.json", "held_out.json"))
    names, truths = ([clean_caption(example.texts[0]) for example in examples] for examples in (known, unknown))
    features, others = pixels(unknown), pixels(known)
    distances = np.square(features).sum(1)[:, None] - 2 * features @ others.T + np.square(others).sum(1)
    nearest = [names[number] for number in distances.argmin(1)]
    exact = float(np.mean([name == truth for name, truth in zip(nearest, truths, strict=True)]))
    columns: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        columns.setdefault(name, []).append(number)
    found = [truths[distances[:, columns[truth]].min(1).argmin()] == truth for truth in truths]
    cider = caption_scores(nearest, [[truth] for truth in truths]).cider
    answers = by_question(answers_of_pixels(folder, known, unknown, distances))
    return [exact, None, float(np.mean(found)), None, exact, cider, *answers]


def answers_of_pixels(
    folder: Path, known: list[Example], unknown: list[Example], distances: np.ndarray
) -> dict[tuple[str, str], float]:
    """Whether the answer for the nearest training drawing of which the same is asked is right."""
    rows, columns = ({example.images[0].name: i for i, example in enumerate(part)} for part in (unknown, known))
    answers: dict[str, dict[int, str]] = {}
    for example in open_dataset(folder / "vqa.json", "vqa"):
        if example.images[0].name in columns:
            answers.setdefault(example.texts[0], {})[columns[example.images[0].name]] = example.answers[0]
    right = {}
    for example in open_dataset(folder / "held_out_vqa.json", "vqa"):
        name, question = example.images[0].name, example.texts[0]
        if name in rows:
            asked = list(answers[question])
            best = asked[distances[rows[name], asked].argmin()]
            right[name, question] = float(answers[question][best] == example.answers[0])
    return right


def by_question(right: dict[tuple[str, str], float]) -> list[float | None]:
    """The accuracy of all answers, and that of each question in the order of `COLUMNS`."""
    parts = [[value for (_, asked), value in right.items() if asked == question] for question in COLUMNS[7:]]
    return [float(np.mean(part)) if part else None for part in (list(right.values()), *parts)]


def pixels(examples: list[Example]) -> np.ndarray:
    """Drawings on white, float32 (drawings, 768), 0 to 1."""
    drawn = [on_ground(example.images[0].load(), (255, 255, 255)) for example in examples]
    small = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) for image in drawn]
    return np.stack(small).reshape(len(small), -1) / 255


if __name__ == "__main__":
    run(main)
