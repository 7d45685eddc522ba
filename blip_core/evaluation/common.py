"""What the evaluations share: their result, which examples count, pictures in batches, a model that does not train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from blip_core.datasets import Batch, Batches, Dataset, Example
from blip_core.datasets.text_inputs import lacks
from blip_core.processing import BlipProcessor
from blip_core.tensors import is_pytorch, no_gradients

HEADS = {
    "caption": "BlipForConditionalGeneration",
    "vqa": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
    "nlvr": "BlipForNLVR",
}
"""The model that each task needs, of either framework."""

Progress = Callable[[int], None]
"""Called with how many more pictures are dealt with."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    `metrics` by name, 0 to 1 each but CIDEr (0 to 10); `counted` says over how many examples, or pictures and texts,
    they are; `entries` holds the results one by one; `problems` what was left out, by the examples' keys, and why.
    """

    task: str
    metrics: dict[str, float]
    counted: dict[str, int]
    entries: list[dict[str, Any]]
    problems: list[tuple[str, str]]


def check_model(model: Any, task: str) -> None:
    """Refuse a model of another head."""
    if not any(kind.__name__.removeprefix("TF") == HEADS[task] for kind in type(model).__mro__):
        raise ValueError(f"Evaluation of {task} needs a {HEADS[task]}, got {type(model).__name__}.")


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """Let a model neither drop anything nor keep anything for gradients; it trains on afterwards as before."""
    training = is_pytorch(model) and model.training
    if training:
        model.eval()
    try:
        with no_gradients(model):
            yield
    finally:
        if training:
            model.train()


def complete(dataset: Dataset, task: str, problems: list[tuple[str, str]]) -> list[Example]:
    """The examples that have what a result is compared with; the others become problems.

    Raises `ValueError` for a data set of another task, and where no example is left.
    """
    if dataset.task != task:
        raise ValueError(f"The data set was opened for {dataset.task}, not for {task}.")
    found = []
    for example in dataset:
        if missing := lacks(task, example):
            problems.append((example.key, f"has not got {missing} to compare with"))
        else:
            found.append(example)
    if not found:
        reason = f"; the first: {': '.join(problems[0])}" if problems else ""
        raise ValueError(f"The data set has no example that can be evaluated{reason}.")
    return found


def by_picture(examples: Sequence[Example]) -> list[list[Example]]:
    """Put examples of the same picture together, in the order of the first of each."""
    groups: dict[Any, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.images if example.image_id is None else example.image_id, []).append(example)
    return list(groups.values())


def read_pictures(
    examples: Sequence[Example],
    processor: BlipProcessor,
    task: str,
    batch_size: int,
    background: str | None,
    problems: list[tuple[str, str]],
    progress: Progress | None,
) -> Iterator[Batch]:
    """Yield the pictures of examples in batches, read ahead by threads; those that cannot be read become problems."""
    dataset = Dataset(task, examples)
    batches = Batches(dataset, processor, task, batch_size, training=False, background=background)
    done = 0
    for batch in batches.epoch(0):
        yield batch
        if progress:
            progress(len(batch.examples))
        done += len(batch.examples)
    if progress and done < len(examples):
        progress(len(examples) - done)
    problems.extend(dataset.problems)
    if not done:
        raise ValueError(f"Not one picture can be read; the first: {': '.join(dataset.problems[0])}.")
