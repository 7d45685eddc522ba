"""From pictures to `pixel_values`: BLIP's image processor."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from blip_core.files import read_json, write_json
from blip_core.hub import or_shipped, resolve_folder
from blip_core.processing.inputs import BlipInputs, check_framework, stack
from blip_core.processing.pictures import (
    FORMATS,
    find_format,
    flatten,
    load_image,
    look_up,
    resize,
    scale,
    to_array,
    to_rgb,
)

__all__ = ["BlipImageProcessor", "load_image"]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
TYPES = {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor"}
FILES = ("preprocessor_config.json", "processor_config.json", "config.json")


@dataclass
class BlipImageProcessor:
    """Resize, rescale and normalise pictures: uint8 RGB 0-255 of any size -> float32 (batch, 3, height, width).

    `size` is {"height": ..., "width": ...}, (height, width), or one number for a square. `resample` is a PIL filter
    (3 is bicubic). Pixels are resized as 8 bits, multiplied by `rescale_factor`, then (x - `image_mean`) /
    `image_std`; a mean or deviation is one number or one per channel, None stands for those of BLIP (OpenAI CLIP's).
    `do_convert_rgb` converts PIL images and files of any mode. `apply_exif_orientation` turns them as the camera
    noted; by default files are turned and PIL images are not. The result equals that of transformers' (slow)
    `BlipImageProcessor` 4.57.6 to the last bit, dtype included.
    Raises `ValueError` for a setting that cannot work.
    """

    do_resize: bool = True
    size: Any = None
    resample: int = Image.Resampling.BICUBIC
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: float | Sequence[float] | None = None
    image_std: float | Sequence[float] | None = None
    do_convert_rgb: bool = True
    apply_exif_orientation: bool | None = None
    extra: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """Keys of a `preprocessor_config.json` that are not BLIP's, to be written back."""

    def __post_init__(self) -> None:
        self.size = _size({"height": 384, "width": 384} if self.size is None else self.size)
        if isinstance(self.resample, bool) or self.resample not in list(Image.Resampling):
            raise ValueError(f"resample must be a PIL filter, 0 to 5, got {self.resample!r}.")
        self.resample = int(self.resample)
        if not _is_number(self.rescale_factor):
            raise ValueError(f"rescale_factor must be a finite number, got {self.rescale_factor!r}.")
        self.rescale_factor = float(self.rescale_factor)
        self.image_mean = _per_channel("image_mean", MEAN if self.image_mean is None else self.image_mean)
        self.image_std = _per_channel("image_std", STD if self.image_std is None else self.image_std)
        if not np.all(self.image_std):
            raise ValueError(f"image_std must not be zero, got {self.image_std}.")
        switches = {"bool": bool, "bool | None": bool | None}
        for f in fields(self):
            if f.type in switches and not isinstance(getattr(self, f.name), switches[f.type]):
                raise ValueError(f"{f.name} must be True or False, got {getattr(self, f.name)!r}.")

    def __call__(self, images: Any, **options: Any) -> BlipInputs:
        """The same as `preprocess`."""
        return self.preprocess(images, **options)

    def preprocess(
        self,
        images: Any,
        *,
        return_tensors: str | None = None,
        data_format: str | None = "channels_first",
        input_data_format: str | None = None,
        **overrides: Any,
    ) -> BlipInputs:
        """Prepare one or many pictures; returns `pixel_values`, one per picture, float32 unless scaling is off.

        `images` is a path, a PIL image, a NumPy array or a tensor (torch, TensorFlow) of shape (height, width,
        channels) or (channels, height, width), a list of these, or an array of four dimensions. Arrays hold 0-255, or
        0-1 together with `do_rescale=False`. `input_data_format` ("channels_first", "channels_last") tells where an
        array's channels are instead of looking for 3 or 1 of them; `data_format` where the result's are, None as in
        the input. `return_tensors` "np", "pt" or "tf" gives one tensor, None a list of arrays. `overrides` are
        options of the constructor, for this call alone; None leaves them as they are. Several pictures are prepared in
        as many threads as there are processors.

        Raises `OSError` for a file that cannot be read, `ValueError` for any other picture or option that cannot work.
        """
        check_framework(return_tensors)
        for name, value in (("data_format", data_format), ("input_data_format", input_data_format)):
            if value is not None and value not in FORMATS:
                raise ValueError(f"{name} must be 'channels_first', 'channels_last' or None, got {value!r}.")
        settings = replace(self, **{name: value for name, value in overrides.items() if value is not None})
        pictures = list(flatten(images))
        if not pictures:
            raise ValueError("images is empty; pass at least one picture.")

        def prepare(named: tuple[str, Any]) -> np.ndarray:
            return settings._prepare(named[1], named[0], input_data_format, data_format)

        if len(pictures) == 1:
            pixels = [prepare(pictures[0])]
        else:  # Pillow decodes and resizes, and NumPy computes, without Python's lock
            with ThreadPoolExecutor(min(len(pictures), os.cpu_count() or 1)) as pool:
                pixels = list(pool.map(prepare, pictures))
        remedy = "pass do_resize=True, or one picture at a time"
        return BlipInputs(pixel_values=stack("pixel_values", pixels, return_tensors, remedy))

    def _prepare(self, image: Any, name: str, layout: str | None, result_layout: str | None) -> np.ndarray:
        picture: Image.Image | np.ndarray
        if isinstance(image, str | Path | Image.Image):
            name = str(image) if isinstance(image, str | Path) else name
            picture = load_image(image, self.apply_exif_orientation, name)
            picture = to_rgb(picture, name) if self.do_convert_rgb else picture
            layout = "channels_last"  # of a PIL image, always, however few pixels it has
            if picture.mode != "RGB" or not self.do_resize:
                picture = to_array(np.asarray(picture), name)
        else:
            picture = to_array(image, name)
            layout = layout or find_format(picture.shape, name)
            picture = picture if layout == "channels_last" else picture.transpose(1, 2, 0)
            if self.do_rescale and picture.dtype != np.uint8:
                self._warn_of_range(picture, name)
        if self.do_resize:
            picture = resize(picture, self.size["height"], self.size["width"], self.resample)
        assert isinstance(picture, np.ndarray)
        # From here on (channels, height, width) in memory, and our own: one pass per plane and no copy at the end.
        planes = picture.transpose(2, 0, 1)
        if picture.dtype == np.uint8 and (self.do_rescale or self.do_normalize):
            every = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (len(planes), 256, 1))
            pixels = look_up(self._scale(every, name)[:, :, 0], planes)
        else:
            pixels = self._scale(np.array(planes, order="C"), name)
        return pixels if (result_layout or layout) == "channels_first" else pixels.transpose(1, 2, 0)

    def _scale(self, pixels: np.ndarray, name: str) -> np.ndarray:
        if self.do_rescale:
            pixels = scale(pixels, self.rescale_factor)
        return self._normalize(pixels, name) if self.do_normalize else pixels

    def _normalize(self, pixels: np.ndarray, name: str) -> np.ndarray:
        pixels = pixels if pixels.dtype.kind == "f" else pixels.astype(np.float32)
        for option in ("image_mean", "image_std"):
            if np.size(getattr(self, option)) not in (1, len(pixels)):
                raise ValueError(
                    f"{name} has {len(pixels)} channel(s), {option} {np.size(getattr(self, option))}; pass RGB "
                    "pictures, or a mean and deviation for these channels."
                )
        mean, std = (np.array(v, pixels.dtype).reshape(-1, 1, 1) for v in (self.image_mean, self.image_std))
        pixels = pixels - mean
        pixels /= std
        return pixels

    def _warn_of_range(self, image: np.ndarray, name: str) -> None:
        low, high = image.min(), image.max()
        if low < 0 or high > 255 or high <= 1:
            warnings.warn(
                f"{name} holds values from {low} to {high}, but do_rescale=True is meant for 0 to 255; "
                "pass do_rescale=False if it is rescaled already.",
                stacklevel=4,
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a dictionary as `preprocessor_config.json` holds it; unknown keys are kept in `extra`."""
        names = {f.name for f in fields(cls) if f.init}
        processor = cls(**{k: copy.deepcopy(v) for k, v in values.items() if k in names and v is not None})
        processor.extra = {k: copy.deepcopy(v) for k, v in values.items() if k not in (*names, *TYPES)}
        return processor

    def to_dict(self) -> dict[str, Any]:
        """Return every setting and kept key, JSON-ready, as transformers' `preprocessor_config.json` names them."""
        own = {f.name: copy.deepcopy(getattr(self, f.name)) for f in fields(self) if f.init}
        return {**copy.deepcopy(self.extra), **own, **TYPES}

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path | None = None, *, revision: str | None = None) -> Self:
        """Read `preprocessor_config.json` of a folder or a Hub repository, or a JSON file given by its path.

        Without such a file (or the `processor_config.json` of newer transformers) the settings are the defaults, with
        the `image_size` of the model's `config.json` if there is one. Without a name they are those of the model in
        the package.
        Raises `OSError` where there is no such folder and `ValueError` for a file that holds no such settings.
        """
        name_or_path = or_shipped(name_or_path)
        path = Path(name_or_path).expanduser()
        single_file = path.suffix == ".json" and path.is_file()
        folder = path.parent if single_file else resolve_folder(name_or_path, revision=revision, patterns=FILES)
        for file in [path] if single_file else [folder / name for name in FILES]:
            values = read_json(file) if file.is_file() else {}
            if file.name == "processor_config.json":
                values = _section(file, values, "image_processor")
            elif file.name == "config.json":
                size = _section(file, values, "vision_config").get("image_size")
                values = {"size": size} if size else {}
            if values:
                try:
                    return cls.from_dict(values)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{file}: {error}") from None
        return cls()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json` into `folder`, atomically."""
        write_json(Path(folder) / "preprocessor_config.json", self.to_dict())


def _section(file: Path, values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name) or {}
    if not isinstance(section, dict):
        raise ValueError(f"{file}: {name} must be an object, got {section!r:.80}.")
    return section


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _per_channel(name: str, value: Any) -> float | list[float]:
    values = list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else [value]
    if not values or not all(_is_number(v) for v in values):
        raise ValueError(f"{name} must be a finite number or a list of one per channel, got {value!r}.")
    return float(value) if _is_number(value) else [float(v) for v in values]


def _size(value: Any) -> dict[str, int]:
    if isinstance(value, Integral):
        value = {"height": value, "width": value}
    elif isinstance(value, Sequence) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    sides = [value.get("height"), value.get("width")] if isinstance(value, dict) and len(value) == 2 else []
    if not sides or not all(
        isinstance(side, Integral) and not isinstance(side, bool) and int(side) > 0 for side in sides
    ):
        raise ValueError(f'size must be {{"height": pixels, "width": pixels}} or one number of pixels, got {value!r}.')
    return {name: int(side) for name, side in value.items()}
