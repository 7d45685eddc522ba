"""BLIP's image processor: turns pictures into `pixel_values`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from blip_core.config_mixin import ConfigMixin, json_object, keep_unknown
from blip_core.processing.image_settings import MEAN, STD, colour, per_channel, resizing_backend, sides
from blip_core.processing.inputs import BlipInputs, check_return_tensors, stack
from blip_core.processing.picture_files import ROOM, decode, is_source, open_image
from blip_core.processing.pictures import (
    LAYOUTS,
    crop_centre,
    fast_resize,
    find_layout,
    flatten,
    look_up,
    pad_pictures,
    resize,
    scale,
    to_array,
    to_colour,
    to_rgb,
)
from blip_core.validators import check_names, check_settings, choice, flag, number, setting, whole_number

FAST = 2
"""How many times larger than the result a picture is decoded at least, with `fast_decode`."""


@keep_unknown
@dataclass
class BlipImageProcessor(ConfigMixin):
    """Resize, rescale and normalise pictures of any size.

    RGB pictures of 8 bits become float32 arrays (batch, 3, height, width), equal to those of transformers' (slow)
    `BlipImageProcessor` 4.57.6 to the last bit.

    Args:
        do_resize: Resize, as 8 bits; the ratio of the sides is not kept.
        size: Height and width in pixels, up to 4096: `{"height": ..., "width": ...}`, a pair, or one number for a
            square. None is 384.
        resample: PIL's filter for resizing, 0 to 5; 3 is bicubic.
        do_rescale: Multiply the pixels by `rescale_factor`.
        rescale_factor: 1/255 brings 0 to 255 to 0 to 1.
        do_normalize: Subtract `image_mean`, then divide by `image_std`.
        image_mean: One number, or one for each channel; None stands for BLIP's (OpenAI CLIP's).
        image_std: The same, not zero.
        do_convert_rgb: Convert PIL images and files of any mode to RGB.
        apply_exif_orientation: Rotate pictures by their EXIF orientation. None rotates files but not PIL images, as
            transformers does.
        background: Colour behind transparent pictures: "white", "#ffcc00" or three numbers from 0 to 255. None takes
            the stored colours of the transparent parts, as transformers does.
        do_center_crop: Cut out the middle after resizing, `crop_size` large; black goes around a smaller picture.
        crop_size: Given as `size`.
        do_pad: Bring pictures to one size with zeros at the bottom and on the right, after all else.
        pad_size: That size, given as `size`; None for the largest height and width of a call.
        backend: "exact" resizes with Pillow. "fast" resizes RGB pictures of 8 bits with PyTorch, which must be
            installed, as transformers' fast processor does: of photographs about 0.3 % of the values differ by one
            level of 255, very few by two. It is a setting of this machine: files do not hold it.
        fast_decode: Decode JPEG files at a half, a quarter or an eighth of their size where that has at least twice the
            pixels of `size` on each side. Quicker for large photographs, and slightly different from transformers.

    Raises:
        ValueError: A setting cannot work; the message names it.

    Example:
        >>> processor = BlipImageProcessor(size=32)
        >>> processor(Image.new("RGB", (64, 48)), return_tensors="np").pixel_values.shape
        (1, 3, 32, 32)
    """

    file_names: ClassVar = ("preprocessor_config.json", "processor_config.json", "config.json")
    constants: ClassVar = {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor"}
    null_is_default: ClassVar = True
    do_resize: bool = setting(True, flag)
    size: Any = setting(None, sides)
    resample: int = setting(Image.Resampling.BICUBIC.value, whole_number, most=max(Image.Resampling).value)
    do_rescale: bool = setting(True, flag)
    rescale_factor: float = setting(1 / 255, number)
    do_normalize: bool = setting(True, flag)
    image_mean: float | Sequence[float] | None = setting(None, per_channel, default=MEAN)
    image_std: float | Sequence[float] | None = setting(None, per_channel, default=STD, zero=False)
    do_convert_rgb: bool = setting(True, flag)
    apply_exif_orientation: bool | None = setting(None, flag, optional=True)
    background: str | Sequence[int] | None = setting(None, colour)
    do_center_crop: bool = setting(False, flag)
    crop_size: Any = setting(None, sides, optional=True)
    do_pad: bool = setting(False, flag)
    pad_size: Any = setting(None, sides, optional=True)
    backend: str = setting("exact", resizing_backend)
    fast_decode: bool = setting(False, flag)
    model_input_names: ClassVar = ("pixel_values",)
    is_fast: ClassVar = False
    """As transformers calls image processors that work with Pillow; a fast one resizes with torchvision."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.do_center_crop and self.crop_size is None:
            raise ValueError("do_center_crop=True needs a crop_size, in pixels.")

    @property
    def least(self) -> int | None:
        """How large pictures are at least decoded, in pixels of each side; None for their own size."""
        return FAST * max(self.size.values()) if self.fast_decode and self.do_resize else None

    def __call__(self, images: Any, **options: Any) -> BlipInputs:
        """Prepare one or many pictures; arguments, result and errors as in `preprocess`."""
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
        """Prepare one or many pictures; several are prepared in one thread per CPU core.

        Args:
            images: A picture, a list of pictures (also nested), or an array or tensor of four dimensions. A picture is
                a path, an http(s) URL, a data URI, base64, a file's bytes, a file opened in binary mode, a PIL image,
                or an array or tensor (torch, TensorFlow) of shape (height, width, channels) or (channels, height,
                width) with values from 0 to 255, with `do_rescale=False` also from 0 to 1.
            return_tensors: "np", "pt" or "tf" for one tensor, None for a list of arrays.
            data_format: The layout of the result, "channels_first" or "channels_last"; None for that of the input.
            input_data_format: The layout of arrays; None infers it from a dimension of 3 or 1.
            **overrides: Settings of the constructor for this call only; None changes nothing.

        Returns:
            `pixel_values`, one per picture, float32 unless scaling is off.

        Raises:
            OSError: A file cannot be read, or is not a picture.
            ValueError: Any other picture or option cannot work.
        """
        check_return_tensors(return_tensors)
        choice("data_format", data_format, (None, *LAYOUTS))
        choice("input_data_format", input_data_format, (None, *LAYOUTS))
        if data_format is None and (self.do_pad if overrides.get("do_pad") is None else overrides["do_pad"]):
            raise ValueError("do_pad=True needs a data_format, 'channels_first' or 'channels_last'.")
        check_names(overrides, [row.name for row in fields(self) if row.init], "option of preprocess")
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
        if settings.do_pad:
            pixels = pad_pictures(pixels, settings.pad_size, first=data_format == "channels_first")
        remedy = "pass do_resize=True or do_pad=True, or one picture at a time"
        return BlipInputs(pixel_values=stack("pixel_values", pixels, return_tensors, remedy))

    def _prepare(self, image: Any, name: str, layout: str | None, result_layout: str | None) -> np.ndarray:
        if is_source(image):
            with open_image(image, name) as (opened, name), ROOM.take(opened.width * opened.height):
                is_file = not isinstance(image, Image.Image)
                least = self.least if is_file else None
                picture = decode(opened, self.apply_exif_orientation, name, is_file, least)
                picture = to_rgb(picture, name, to_colour(self.background)) if self.do_convert_rgb else picture
                # A PIL image always has its channels last, even where its size looks like channels.
                pixels = picture if picture.mode == "RGB" and self.do_resize else to_array(np.asarray(picture), name)
                return self._to_planes(pixels, name, result_layout or "channels_last")
        array = to_array(image, name)
        layout = layout or find_layout(array.shape, name)
        array = array if layout == "channels_last" else array.transpose(1, 2, 0)
        if self.do_rescale and array.dtype != np.uint8:
            self._warn_of_range(array, name)
        return self._to_planes(array, name, result_layout or layout)

    def _to_planes(self, picture: Image.Image | np.ndarray, name: str, layout: str) -> np.ndarray:
        """Resize, rescale and normalise a picture (height, width, channels); `layout` is the result's."""
        if self.do_resize:
            way = fast_resize if self.backend == "fast" else resize
            picture = way(picture, self.size["height"], self.size["width"], self.resample)
        assert isinstance(picture, np.ndarray)
        # From here on a copy (channels, height, width): one pass per plane, and no copy at the end.
        planes = picture.transpose(2, 0, 1)
        if self.do_center_crop:
            planes = crop_centre(planes, self.crop_size["height"], self.crop_size["width"])
        if picture.dtype == np.uint8 and self.backend == "fast" and self.do_rescale and self.do_normalize:
            pixels = self._scale_fast(planes, name)
        elif picture.dtype == np.uint8 and (self.do_rescale or self.do_normalize):
            every = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (len(planes), 256, 1))
            pixels = look_up(self._scale(every, name)[:, :, 0], planes)
        else:
            pixels = self._scale(np.array(planes, order="C"), name)
        return pixels if layout == "channels_first" else pixels.transpose(1, 2, 0)

    def _scale(self, pixels: np.ndarray, name: str) -> np.ndarray:
        if self.do_rescale:
            pixels = scale(pixels, self.rescale_factor)
        return self._normalize(pixels, name) if self.do_normalize else pixels

    def _scale_fast(self, planes: np.ndarray, name: str) -> np.ndarray:
        """Scale 8 bits to float32 by one product and one sum, which rounds otherwise than `_scale`."""
        ends = np.broadcast_to(np.array([0, 255], np.uint8)[:, None], (len(planes), 2, 1))
        shift, white = self._scale(ends, name).transpose(1, 0, 2)[..., None]  # (channels, 1, 1)
        factor = (white - shift) / np.float32(255)
        pixels: np.ndarray = np.multiply(planes, factor, dtype=np.float32, order="C")
        pixels += shift
        return pixels

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
    def _section(cls, file: Path, values: dict[str, Any]) -> dict[str, Any] | None:
        if file.name == "processor_config.json":
            values = json_object(file, values, "image_processor")
        elif file.name == "config.json":
            size = json_object(file, values, "vision_config").get("image_size")
            values = {"size": size} if size else {}
        return {name: value for name, value in values.items() if name != "backend"} or None  # another one of theirs

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that is ready for JSON: every setting but `backend`, which is this machine's.

        `fast_decode` is there only where it is on, as no other program knows it.
        """
        values = super().to_dict()
        del values["backend"]
        if not self.fast_decode:
            del values["fast_decode"]
        return values

    @classmethod
    def _without_file(cls, file: Path) -> dict[str, Any]:
        return {}
