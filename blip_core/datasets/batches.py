"""Batches for training and for evaluation: examples in, a model's inputs out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_core.datasets.augmentation import Augmentation
from blip_core.datasets.cleaning import clean_caption, clean_question
from blip_core.datasets.examples import TASKS, Dataset, Example
from blip_core.processing import BlipProcessor

MAX_TEXT_LENGTH = {"caption": 40, "retrieval": 35, "vqa": 35, "nlvr": 64, "pretrain": 30}
"""Tokens of a text, special ones included: the original's; that of NLVR has room for any 40 words."""


@dataclass(frozen=True)
class Batch:
    """`inputs`: NumPy arrays by the names of the model's arguments. `examples`: what they were made of, in order."""

    inputs: dict[str, np.ndarray]
    examples: tuple[Example, ...]


class Batches:
    """The batches of each epoch of a data set."""

    def __init__(
        self,
        dataset: Dataset,
        processor: BlipProcessor,
        task: str,
        batch_size: int,
        *,
        seed: int = 0,
        training: bool,
        augment: Augmentation | None = None,
        background: str | None = None,
        prompt: str = "",
        max_text_length: int | None = None,
        padding: bool | str = True,
        workers: int = 2,
        cache: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool | None = None,
    ):
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
        self.dataset, self.processor, self.task, self.batch_size = dataset, processor, task, batch_size
        self.seed, self.training, self.augment, self.prompt = seed, training, augment, prompt
        self.rank, self.world_size = rank, world_size
        self.max_text_length = max_text_length or MAX_TEXT_LENGTH[task]
        self.padding = padding
        self.drop_last = training if drop_last is None else drop_last

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has, on each rank."""
        step = self.batch_size * self.world_size
        return len(self.dataset) // step if self.drop_last else -(-len(self.dataset) // step)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the step `start` on."""
        order = np.arange(len(self.dataset))
        if self.training:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        for step in range(start, self.steps_per_epoch):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield self._batch([self.dataset[int(i)] for i in order[first : first + self.batch_size]])

    def _batch(self, examples: list[Example]) -> Batch:
        pixels = [
            self.processor.image_processor([p.load() for p in e.images], return_tensors="np")["pixel_values"]
            for e in examples
        ]
        inputs: dict[str, np.ndarray] = {"pixel_values": np.stack([p if self.task == "nlvr" else p[0] for p in pixels])}
        inputs.update(self._texts(examples))
        return Batch(inputs, tuple(examples))

    def _texts(self, examples: list[Example]) -> dict[str, np.ndarray]:
        clean = clean_question if self.task == "vqa" else clean_caption
        texts = [clean(example.texts[0]) for example in examples]
        options: dict[str, Any] = {"truncation": True, "max_length": self.max_text_length, "padding": self.padding}
        if self.task == "caption":
            return dict(
                self.processor(text=texts, prompt=self.prompt, return_labels=True, return_tensors="np", **options)
            )
        inputs = dict(self.processor(text=texts, return_tensors="np", **options))
        if self.task == "nlvr":
            inputs["labels"] = np.array([example.label for example in examples], np.int64)
        elif self.task == "retrieval":
            numbers: dict[Any, int] = {}
            for example in self.dataset:
                numbers.setdefault(example.image_id, len(numbers))
            inputs["image_ids"] = np.array([numbers[example.image_id] for example in examples], np.int64)
        elif self.task == "vqa":
            answers = [answer for example in examples for answer in example.answers]
            given = self.processor(text=answers, return_labels=True, return_tensors="np", **options)
            inputs["decoder_input_ids"], inputs["decoder_attention_mask"] = given["input_ids"], given["attention_mask"]
            inputs["labels"] = given["labels"]
            inputs["answer_counts"] = np.array([len(example.answers) for example in examples], np.int64)
            inputs["answer_weights"] = np.array([w for example in examples for w in example.weights], np.float32)
        return inputs
