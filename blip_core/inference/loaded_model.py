"""What the classes of this package share: a loaded model with its processor, and pictures read ahead of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.exported import read_export
from blip_core.checkpoints.loading import find_head
from blip_core.engines import engine_of, get_engine
from blip_core.hub import or_shipped, resolve_folder
from blip_core.inference.identity import identity
from blip_core.jobs.read_ahead import read_batches
from blip_core.parameters.heads import HEADS
from blip_core.processing.image_processor import BlipImageProcessor
from blip_core.processing.picture_files import is_source
from blip_core.processing.processor import BlipProcessor
from blip_core.processing.video import read_frames
from blip_core.validators import whole_number

Output = TypeVar("Output")


class LoadedModel:
    """A model of any engine with pictures and texts in, and NumPy arrays out.

    Args:
        model: A model of the class's `head`, of any engine.
        processor: Its processor.

    Attributes:
        engine: The engine that runs the model.
        identity: What results depend on, as 32 hexadecimal digits: the weights and settings of model and processor.

    Raises:
        ValueError: For a model of another head.
    """

    head: ClassVar[str] = ""

    def __init__(self, model: Any, processor: BlipProcessor):
        self.engine = engine_of(model)
        if not self.engine.has_head(model, self.head):
            raise ValueError(f"{type(self).__name__} needs a {self.head}, got {type(model).__name__}.")
        self.model: Any = model
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        *,
        engine: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        revision: str | None = None,
        background: str | Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
        image_size: int | None = None,
        fast_decode: bool = False,
    ) -> Self:
        """Load a model and its processor.

        Args:
            name: A folder, a weight file or a Hub repository; the small model in the package unless given.
            engine: "pt", "tf" or another registered engine; the first that is installed unless given.
            device: Such as "cpu" or "cuda:1"; a GPU where the engine finds one unless given.
            dtype: The type of the weights, such as "float16"; "auto" keeps the stored one.
            revision: A branch, tag or commit of the Hub repository.
            background: The colour on which transparent pictures are put, over that of the model's image processor.
            config: Settings over those of the checkpoint, nested for `text_config` and `vision_config`.
            image_size: Height and width of pictures in pixels, over the checkpoint's; its positions are resized.
            fast_decode: Decode large JPEG files at a part of their size, as `BlipImageProcessor` says.

        Raises:
            OSError: Where the model cannot be found or read.
            ValueError: For a checkpoint of another head or without a part of the model, for an engine that is not
                installed, for a device that the engine does not have, and for what is no colour.
        """
        chosen = get_engine(engine)
        cls.check_head(name, revision)
        processor = BlipProcessor.from_pretrained(name, revision=revision)
        changed: dict[str, Any] = {} if background is None else {"background": background}
        if fast_decode:
            changed["fast_decode"] = True
        if image_size is not None:
            changed["size"] = {"height": image_size, "width": image_size}
        if changed:
            settings = processor.image_processor.to_dict()
            processor.image_processor = BlipImageProcessor.from_dict(settings, **changed)
        over = {"config": config, "image_size": image_size}
        over = {key: value for key, value in over.items() if value is not None}
        model_class = chosen.model_class(cls.head)
        device = device or chosen.default_device()
        chosen.check_device(device)
        with warnings.catch_warnings():
            # Training may begin with random weights, but what they say of a picture means nothing.
            warnings.filterwarnings("error", message=".*initialised at random")
            try:
                model = model_class.from_pretrained(name, dtype=dtype, device=device, revision=revision, **over)
            except UserWarning as warning:
                raise ValueError(f"The model does not fit a {cls.__name__}: {warning}") from None
        return cls(model, processor)

    @classmethod
    def check_head(cls, name: str | Path | None, revision: str | None = None) -> None:
        """Refuse a checkpoint of another head, which may hold all the parts and still give nonsense.

        What is pre-trained holds the heads of captioning and of matching, each of which is cut out.
        """
        head = HEADS[cls.head]
        if str(path := or_shipped(name, head.shipped)) == str(or_shipped(None, head.shipped)):
            return
        try:
            stored = find_head(open_checkpoint(path, revision=revision))
        except FileNotFoundError:  # of some exports, graphs have all the weights
            if (export := read_export(resolve_folder(path, revision=revision, patterns=["export.json"]))) is None:
                raise
            stored = export.head
        if stored not in (None, head.name, head.cut_from):
            use = HEADS[stored].use
            raise ValueError(f"The model does not fit a {cls.__name__}: {path} holds a {stored}; use {use}.")

    @cached_property
    def identity(self) -> str:
        """What results depend on, as 32 hexadecimal digits; the same in every engine."""
        return identity(self.model, self.processor)

    def read(self, picture: Any) -> np.ndarray:
        """Read and prepare a picture in any form that the processor takes.

        Returns:
            What the vision encoder takes, float32 (3, height, width).

        Raises:
            OSError: For a file that is missing or not a picture.
            ValueError: For what is not a picture.
        """
        result: np.ndarray = self.processor(images=picture, return_tensors="np")["pixel_values"][0]
        return result

    def encode(self, pixels: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Encode prepared pictures (B, 3, height, width), for any number of texts about them.

        Returns:
            Image embeddings, float32 (B, image tokens, vision width).
        """
        with self.engine.no_gradients(self.model):
            return self.engine.to_numpy(self._vision(np.stack(list(pixels))))

    def item_states(self, items: Sequence[np.ndarray], batch_size: int = 8) -> list[np.ndarray]:
        """Encode items, `batch_size` frames at a time; texts attend to all frames of a video in a row.

        Args:
            items: The prepared frames of each picture or video, float32 (n, 3, height, width); a picture has n = 1.
            batch_size: How many frames the model gets at once.

        Returns:
            The image embeddings of each item, float32 (1, n x image tokens, vision width).
        """
        states = np.concatenate([self.encode(frames) for frames in split(np.concatenate(list(items)), batch_size)])
        return [part.reshape(1, -1, states.shape[-1]) for part in cut(states, items)]

    def tokens(self, texts: Sequence[str], max_length: int | None = None) -> dict[str, np.ndarray]:
        """Tokenize texts, padded on the right to the longest: `input_ids` and `attention_mask`, int64 (texts, length).

        Texts of more than `max_length` tokens are cut; without it, the model refuses those that are too long.
        """
        cut: dict[str, Any] = {"truncation": max_length is not None, "max_length": max_length}
        found = self.processor(text=list(texts), padding=True, padding_side="right", return_tensors="np", **cut)
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    def _tensor(self, array: np.ndarray) -> Any:
        return self.engine.to_tensor(np.ascontiguousarray(array), self.model)

    def _array(self, tensor: Any) -> np.ndarray:
        return self.engine.to_numpy(tensor).astype(np.float32, copy=False)

    def _vision(self, pixels: np.ndarray) -> Any:
        """The output of the vision encoder as a tensor."""
        return self.model.vision_model(self._tensor(pixels)).last_hidden_state

    def _call(self, method: Callable[..., Any], arrays: Mapping[str, np.ndarray], /, **options: Any) -> Any:
        """Call the model, or a method of it, with arrays and other options, without gradients and dropout."""
        with self.engine.no_gradients(self.model):
            return method(**{name: self._tensor(array) for name, array in arrays.items()}, **options)

    def _run(
        self,
        pictures: Any,
        batch_size: int,
        work: Callable[[list[Any], Any], Iterable[Output]],
        failed: Callable[[Any, Exception], Output],
        frames: int = 1,
    ) -> Any:
        """Work on one picture and return its result, or on many and return an iterator of theirs, in order.

        `work` gets some pictures and their pixels (B, 3, height, width), or with 2 `frames` and more a list of the
        frames (n, 3, height, width) of each; `failed` a picture that cannot be read and why. Threads read the next
        batch while the model works on one. A single picture that cannot be read raises.
        """
        whole_number("batch_size", batch_size, 1)
        whole_number("frames", frames, 1)
        read = self.read if frames == 1 else partial(read_frames, self.processor, frames=frames)
        join: Callable[[list[np.ndarray]], Any] = np.stack if frames == 1 else list
        if is_one(pictures):
            return next(iter(work([pictures], join([read(pictures)]))))
        return self._results(pictures, batch_size, work, failed, read, join)

    def _results(
        self,
        pictures: Iterable[Any],
        batch_size: int,
        work: Callable[[list[Any], Any], Iterable[Output]],
        failed: Callable[[Any, Exception], Output],
        read: Callable[[Any], np.ndarray],
        join: Callable[[list[np.ndarray]], Any],
    ) -> Iterator[Output]:
        for batch in read_batches(pictures, batch_size, read):
            good = [(picture, pixels) for picture, pixels in batch if not isinstance(pixels, Exception)]
            done = iter(work([picture for picture, _ in good], join([pixels for _, pixels in good])) if good else ())
            for picture, pixels in batch:
                yield failed(picture, pixels) if isinstance(pixels, Exception) else next(done)


def is_one(pictures: Any) -> bool:
    """Say whether something is one picture, and not several: a list, an iterator, an array of four dimensions."""
    if is_source(pictures):
        return True
    dimensions = getattr(pictures, "ndim", None)
    return dimensions <= 3 if dimensions is not None else not hasattr(pictures, "__iter__")


def split(items: Any, size: int) -> Iterator[Any]:
    """Yield a sequence, or an array along its first axis, in parts of `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def cut(frames: np.ndarray, items: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
    """Cut what was made of all frames, (all frames, ...), into what belongs to each item."""
    return np.split(frames, np.cumsum([len(item) for item in items])[:-1])
