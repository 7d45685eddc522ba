"""Batches for training and evaluation: examples in, a model's inputs out."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from blip_core.datasets.augmentation import Augmentation
from blip_core.datasets.examples import Dataset, Example
from blip_core.datasets.picture_loader import PictureLoader
from blip_core.processing.pictures import on_ground, to_colour
from blip_core.processing.processor import BlipProcessor
from blip_core.tasks import get_task
from blip_core.validators import number, whole_number

AHEAD = 2  # batches that workers prepare ahead of the one that is waited for
CHUNK = 8  # examples that a worker takes at once
TRIES = 100  # examples to try in place of one whose picture is broken


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch.

    Attributes:
        inputs: NumPy arrays by the names of the model's arguments.
        examples: What they were made from, in order.
    """

    inputs: dict[str, np.ndarray]
    examples: tuple[Example, ...]


Row = tuple[Example, str]
"""An example and its cleaned text, "" if it has none."""


class Batches:
    """The batches of each epoch of a data set, the same for every engine and any number of workers.

    In training, examples are shuffled; one text of each is chosen, its picture is augmented, and the two pictures of
    NLVR are swapped, with "left" and "right", half of the time. All of it is determined by seed, epoch and the
    example's key, not by order or batch. Examples without a target are left out and reported. Otherwise examples come
    in order, with their first text.

    A picture that cannot be read is reported in `dataset.problems`. In training another example, determined by its key,
    takes its place, and the rest of the batch stays the same; otherwise the example is left out.

    Args:
        dataset: From `open_dataset`.
        processor: Its image processor must resize pictures to one size.
        task: The task of the data set, or one that reads the same entries.
        batch_size: Examples of a batch on each rank.
        training: Whether to shuffle, choose and augment.
        seed: Determines everything that is random.
        augment: How pictures are augmented in training; None leaves them as they are.
        background: A colour ("white", "#ffcc00", (255, 204, 0)) to put transparent pictures on; None takes the
            processor's.
        prompt: What captions begin with.
        max_text_length: Tokens of a text, of answers too; None for the original's number.
        padding: As for the tokenizer.
        workers: Threads that read and augment pictures; 0 does it in the caller's thread.
        cache: Megabytes of decoded pictures to keep in memory.
        rank: The number of this process.
        world_size: How many processes train together. Their batches of `batch_size` are those that one process has
            with `batch_size * world_size`.
        drop_last: Whether to leave out an incomplete last batch; unless given, in training. Otherwise it is short, or
            in training on several ranks, and where pairs of a batch are compared, filled with examples from the
            beginning.
        synthetic_share: In training, how often a synthetic caption is drawn for a picture that has both synthetic ones
            and captions from the web, 0 to 1; None draws among all alike.
        fast_decode: Decode large JPEG files at a part of their size, as the image processor's setting of this name.

    Raises:
        ValueError: For an argument that cannot work, and if there are not enough examples.

    Example:
        >>> from blip_core.datasets import Picture
        >>> examples = [Example("1", (Picture("tests/data/emoji/1f98a.png"),), ("a fox",))]
        >>> dataset, processor = Dataset("caption", examples), BlipProcessor()
        >>> batches = Batches(dataset, processor, "caption", 1, training=True, background="white")
        >>> next(batches.epoch(0)).inputs["pixel_values"].shape
        (1, 3, 384, 384)
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: BlipProcessor,
        task: str,
        batch_size: int,
        *,
        training: bool,
        seed: int = 0,
        augment: Augmentation | None = None,
        background: str | Sequence[int] | None = None,
        prompt: str = "",
        max_text_length: int | None = None,
        padding: bool | str = True,
        workers: int = 2,
        cache: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool | None = None,
        synthetic_share: float | None = None,
        fast_decode: bool = False,
    ):
        whole_number("batch_size", batch_size, least=1)
        whole_number("world_size", world_size, least=1)
        for name, value in {"seed": seed, "workers": workers, "cache": cache, "rank": rank}.items():
            whole_number(name, value)
        number("synthetic_share", synthetic_share, 0, 1, optional=True)
        self.synthetic_share = synthetic_share
        if rank >= world_size:
            raise ValueError(f"rank must be less than world_size, {world_size}, got {rank}.")
        self.task = get_task(task)
        if self.task.parse != get_task(dataset.task).parse:
            raise ValueError(f"The data set was opened for {dataset.task}, and cannot be used for {task!r}.")
        if not processor.image_processor.do_resize:
            raise ValueError("Pictures of a batch need one size; use an image processor with do_resize=True.")
        self.dataset, self.processor, self.batch_size = dataset, processor, batch_size
        self.training, self.seed, self.prompt, self.workers = training, seed, prompt, workers
        self.augment = augment if training else None
        self.background = to_colour(processor.image_processor.background if background is None else background)
        self.rank, self.world_size = rank, world_size
        self.drop_last = training if drop_last is None else drop_last
        longest = max_text_length or self.task.max_length or processor.tokenizer.model_max_length
        self.tokenize = partial(processor, truncation=True, max_length=longest, padding=padding, return_tensors="np")
        keep_alpha = self.background is not None or (self.augment is not None and self.augment.random_background > 0)
        images = replace(processor.image_processor, fast_decode=True) if fast_decode else processor.image_processor
        self.load = PictureLoader(cache, keep_alpha, images.least)
        self.examples: Sequence[Example] = dataset
        self.with_targets = not any(self.task.lacks(example) for example in dataset)
        if training and not self.with_targets:
            self.examples, self.with_targets = [e for e in dataset if not self._left_out(e)], True
        if not self.steps_per_epoch:
            told = dataset.tell_problems("the data")
            raise ValueError(
                f"{len(self.examples)} examples to learn from are less than a batch of {batch_size * world_size}; "
                + (f"{told}. Mend them, or " if told else "")
                + "use a smaller batch_size (blip train --batch-size), or give Batches drop_last=False."
            )
        self.image_numbers: dict[Any, int] = {}
        given = self.task.image_ids == "given" and any(example.image_id is not None for example in dataset)
        if given or self.task.image_ids == "always":
            for example in dataset:
                self.image_numbers.setdefault(picture_of(example), len(self.image_numbers))

    def _left_out(self, example: Example) -> bool:
        missing = self.task.lacks(example)
        if missing:
            self.dataset.report(example.key, f"has no {missing} to learn from")
        return bool(missing)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch on each rank; in evaluation the last one may be empty on some ranks."""
        whole = self.batch_size * self.world_size
        return len(self.examples) // whole if self.drop_last else -(-len(self.examples) // whole)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from step `start` on without reading what lies before.

        In evaluation a batch without a single readable picture is left out.

        Raises:
            OSError: In training, if 100 pictures in a row cannot be read.
        """
        order = self._order(epoch)
        pool = ThreadPoolExecutor(self.workers, "pictures") if self.workers else None
        submit = _run_now if pool is None else pool.submit
        ahead: deque[tuple[np.ndarray, list[Future[list[Row | None]]]]] = deque()
        try:
            for step in range(start, self.steps_per_epoch):
                first = (step * self.world_size + self.rank) * self.batch_size
                ahead.append(self._begin(submit, epoch, order[first : first + self.batch_size]))
                if len(ahead) > (AHEAD if pool else 0):
                    yield from self._end(*ahead.popleft())
            while ahead:
                yield from self._end(*ahead.popleft())
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _order(self, epoch: int) -> np.ndarray:
        if not self.training:
            return np.arange(len(self.examples))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))
        if (self.world_size > 1 or self.task.contrastive) and not self.drop_last:
            order = np.resize(order, self.steps_per_epoch * self.batch_size * self.world_size)
        return order

    def _begin(
        self, submit: Callable[..., Future[list[Row | None]]], epoch: int, indices: np.ndarray
    ) -> tuple[np.ndarray, list[Future[list[Row | None]]]]:
        """Start filling the pictures of a batch, float32 (batch, pictures, 3, height, width)."""
        size = self.processor.image_processor.size
        pixels = np.empty((len(indices), self.task.pictures, 3, size["height"], size["width"]), np.float32)
        parts = [slice(i, i + CHUNK) for i in range(0, len(indices), CHUNK)]
        return pixels, [submit(self._fill, epoch, indices[part].tolist(), pixels[part]) for part in parts]

    def _fill(self, epoch: int, indices: list[int], pixels: np.ndarray) -> list[Row | None]:
        return [self._prepare(epoch, index, out) for index, out in zip(indices, pixels, strict=True)]

    def _end(self, pixels: np.ndarray, parts: list[Future[list[Row | None]]]) -> Iterator[Batch]:
        rows = [row for part in parts for row in part.result()]
        found = [row for row in rows if row is not None]
        if not found:
            return
        if len(found) < len(rows):
            pixels = pixels[[row is not None for row in rows]]
        examples, texts = zip(*found, strict=True)
        inputs = {"pixel_values": pixels if self.task.pictures > 1 else pixels[:, 0]}
        if self.with_targets or self.task.needs_text:
            inputs |= self.task.inputs(examples, texts, self.tokenize, self.prompt, self.with_targets)
        if self.image_numbers:
            numbers = [self.image_numbers[picture_of(example)] for example in examples]
            inputs["image_ids"] = np.array(numbers, np.int64)
        yield Batch(inputs, examples)

    def _prepare(self, epoch: int, index: int, out: np.ndarray) -> Row | None:
        """Write the pictures of an example, or of one in its place, into `out`, (pictures, 3, height, width)."""
        example = self.examples[index]
        others = None
        for _ in range(TRIES):
            try:
                images = [self.load(picture) for picture in example.images]
                break
            except (OSError, ValueError) as error:
                self.dataset.report(example.key, str(error))
                if not self.training:
                    return None
                reason = error
            others = others or self._noise(epoch, example, "in its place")
            example = self.examples[int(others.integers(len(self.examples)))]
        else:
            raise OSError(f"{TRIES} pictures in a row cannot be read; the last: {reason}")
        text = example.texts[0] if example.texts else ""
        if self.training and len(example.texts) > 1:
            noise = self._noise(epoch, example, "text")
            texts = self._of_one_source(example, noise)
            text = texts[int(noise.integers(len(texts)))]
        text = self.task.clean(text)
        swap = self.task.swap
        if self.training and swap is not None and self._noise(epoch, example, "sides").random() < 0.5:
            images, text = images[::-1], swap(text)
        noise = self._noise(epoch, example, "picture")
        for image, pixels in zip(images, out, strict=True):
            pixels[:] = self._pixels(image, noise)
        return example, text

    def _of_one_source(self, example: Example, noise: np.random.Generator) -> Sequence[str]:
        """The texts to draw from: all, or with `synthetic_share` those of one source, where there are both."""
        synthetic = [source == "synthetic" for source in example.sources]
        if self.synthetic_share is None or len(set(synthetic)) < 2:
            return example.texts
        wanted = bool(noise.random() < self.synthetic_share)
        return [text for text, found in zip(example.texts, synthetic, strict=True) if found == wanted]

    def _pixels(self, image: Image.Image, noise: np.random.Generator) -> np.ndarray:
        processor = self.processor.image_processor
        if self.augment is not None:
            size = (processor.size["width"], processor.size["height"])
            image = self.augment(image, size, noise, self.background, processor.resample)
        elif self.background is not None:
            image = on_ground(image, self.background)
        pixels: np.ndarray = processor(image)["pixel_values"][0]
        return pixels

    def _noise(self, epoch: int, example: Example, purpose: str) -> np.random.Generator:
        text = f"{self.seed} {epoch} {purpose} {example.key}"
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "big"))


def picture_of(example: Example) -> Any:
    """Return what examples of the same picture share."""
    return example.images[0] if example.image_id is None else example.image_id


def _run_now(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(work(*arguments))
    return future
