"""The image processor: pixel values to the last bit, inputs of every kind, files, and what it refuses."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipImageProcessor
from tests.helpers.drawn_pictures import CASES, PHOTOS, SIZE, cat, deep, digest, grey, photo


@pytest.mark.filterwarnings("ignore:A picture has transparent parts")
@pytest.mark.parametrize("name", CASES)
def test_pixels_to_the_last_bit(name):
    images, options, expected = CASES[name]
    assert digest(BlipImageProcessor().preprocess(images(), **options)["pixel_values"]) == expected
    if "data_format" not in options and "input_data_format" not in options:
        assert digest(BlipImageProcessor(**options)(images()).pixel_values) == expected


@pytest.mark.parametrize("name", ["astronaut.jpg", "camera_grey.png"])
def test_pixels_are_what_the_words_say(name):
    pixels = BlipImageProcessor(size=(37, 50)).preprocess(photo(name), return_tensors="np").pixel_values
    assert (pixels.shape, pixels.dtype) == ((1, 3, 37, 50), np.float32)
    resized = np.asarray(photo(name).convert("RGB").resize((50, 37), Image.Resampling.BICUBIC)) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    np.testing.assert_allclose(pixels[0].transpose(1, 2, 0), (resized - mean) / std, atol=1e-6)


def test_tensors_of_both_frameworks_go_in_and_out():
    import tensorflow as tf
    import torch

    processor = BlipImageProcessor(size=SIZE)
    expected = processor(cat(), return_tensors="np").pixel_values
    for tensor in (torch.from_numpy(cat().copy()), torch.from_numpy(cat(np.float32)).bfloat16(), tf.constant(cat())):
        np.testing.assert_array_equal(processor(tensor, return_tensors="np").pixel_values, expected)
    for images in (torch.from_numpy(np.stack([cat()] * 2)), tf.constant(np.stack([cat()] * 2))):
        assert processor(images, return_tensors="np").pixel_values.shape == (2, 3, 20, 31)
    with_grad = torch.from_numpy(cat(np.float32) / 255).requires_grad_()
    pt = processor(with_grad, do_rescale=False, return_tensors="pt").pixel_values
    assert isinstance(pt, torch.Tensor)
    assert pt.dtype == torch.float32
    found = processor(photo(), return_tensors="tf").pixel_values
    assert isinstance(found, tf.Tensor)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_data_format_none_keeps_the_layout():
    processor = BlipImageProcessor(size=SIZE)
    for image, shape in ((cat(), (20, 31, 3)), (cat().transpose(2, 0, 1), (3, 20, 31)), (photo(), (20, 31, 3))):
        assert processor(image, data_format=None).pixel_values[0].shape == shape


def test_input_is_not_changed_and_not_shared():
    off = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    for options in (off, {"do_resize": False, "do_rescale": False}, {}):
        image = cat(np.float32).transpose(2, 0, 1).copy()
        BlipImageProcessor()(image, return_tensors="np", **options).pixel_values[:] = -1
        np.testing.assert_array_equal(image, cat().transpose(2, 0, 1))


def test_very_small_pictures():
    """Neither a picture of 1 x 1 pixels nor rows that look like channels are misread."""
    rows = np.random.default_rng(0).integers(0, 256, (3, 9, 3), dtype=np.uint8)
    one = BlipImageProcessor()(Image.fromarray(rows[:1, :1]), do_normalize=False).pixel_values[0]
    assert one.shape == (3, 384, 384)
    np.testing.assert_allclose(one[:, 200, 7], rows[0, 0] / 255, rtol=1e-6)
    options = {"do_resize": False, "do_rescale": False, "do_normalize": False, "data_format": "channels_last"}
    np.testing.assert_array_equal(BlipImageProcessor()(Image.fromarray(rows), **options).pixel_values[0], rows)
    with pytest.warns(UserWarning, match="could have its channels first or last; pass input_data_format"):
        np.testing.assert_array_equal(BlipImageProcessor()(rows[:1], **options).pixel_values[0], rows[:1])


def test_orientation_of_files_and_images():
    """Files are turned upright and PIL images are left, as in transformers; the option decides otherwise."""
    path = PHOTOS / "coffee_turned.jpg"
    lying = BlipImageProcessor(size=SIZE)(photo("coffee_turned.jpg").convert("RGB")).pixel_values[0]
    upright = Image.open(path).transpose(Image.Transpose.ROTATE_270)
    upright = BlipImageProcessor(size=SIZE)(upright).pixel_values[0]
    assert np.abs(lying - upright).max() > 1
    for option, image, expected in (
        (None, path, upright), (None, str(path), upright), (None, Image.open(path), lying), (True, path, upright),
        (True, Image.open(path), upright), (False, path, lying), (False, Image.open(path), lying),
    ):  # fmt: skip
        processor = BlipImageProcessor(size=SIZE, apply_exif_orientation=option)
        np.testing.assert_array_equal(processor(image).pixel_values[0], expected)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "frames.gif", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "frames.gif").n_frames == 3
    pixels = BlipImageProcessor()(tmp_path / "frames.gif", do_normalize=False).pixel_values[0]
    np.testing.assert_array_equal(pixels[:, 0, 0], [1, 0, 0])


def test_warnings_for_what_looks_wrong():
    with pytest.warns(UserWarning, match="images holds values from 0.0 to 1.0, but do_rescale=True"):
        BlipImageProcessor()(np.linspace(0, 1, 60).reshape(4, 5, 3))
    with pytest.warns(UserWarning, match=r"images\[1\] has values up to 510: 0 to 65535 become 0 to 255"):
        BlipImageProcessor()([photo(), deep()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BlipImageProcessor()([photo(), cat(), str(PHOTOS / "astronaut.jpg")], return_tensors="np")
        BlipImageProcessor()(cat()[..., :1], do_resize=False, do_rescale=False, do_normalize=False, return_tensors="np")


def png(width: int, height: int) -> bytes:
    """A file of a few bytes that claims to be of this size."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    chunks = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


BAD_FILES = {
    "cut.jpg": ((PHOTOS / "astronaut.jpg").read_bytes()[:15_000], OSError, "is not a picture that can be read whole"),
    "cut.png": ((PHOTOS / "cat.png").read_bytes()[:15_000], OSError, "is not a picture that can be read whole"),
    "header.png": ((PHOTOS / "cat.png").read_bytes()[:20], OSError, "is not a picture that can be read whole"),
    "empty.png": (b"", OSError, "is not a picture that can be read whole"),
    "text.jpg": (b"hello", OSError, "is not a picture that can be read whole"),
    "bomb.png": (png(60_000, 60_000), ValueError, "is too large: .* raise PIL.Image.MAX_IMAGE_PIXELS"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named(name, tmp_path):
    content, kind, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=f"{name} {message}"):
        BlipImageProcessor()([PHOTOS / "cat.png", tmp_path / name])
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        BlipImageProcessor()(str(tmp_path / "missing.png"))


def test_a_bad_image_without_a_file_is_named():
    image = Image.open(io.BytesIO(BAD_FILES["cut.jpg"][0]))
    with pytest.raises(OSError, match=r"images\[1\] is not a picture"):
        BlipImageProcessor()([photo(), image])


BAD_IMAGES = {
    "nothing": (None, "images must be a path, a PIL image, a NumPy array or a tensor, got NoneType"),
    "none of them": ([], "images is empty"),
    "a number": ([np.zeros((4, 4, 3), np.uint8), 5], r"images\[1\] must be a path"),
    "two dimensions": (np.zeros((4, 5)), r"images must have 3 dimensions, .* got shape \(4, 5\)"),
    "two channels": (np.zeros((4, 5, 2)), r"shape \(4, 5, 2\) has neither 1 nor 3 channels"),
    "grey": (np.zeros((4, 5, 1), np.uint8), "has 1 channel.*image_mean 3"),
    "no pixels": (np.zeros((0, 5, 3)), "has no pixels"),
    "nan": (np.full((4, 5, 3), np.nan), "holds NaN or infinite values"),
    "complex": (np.zeros((4, 5, 3), complex), "must hold real numbers, got dtype complex128"),
    "negative": (np.full((4, 5, 3), -7), "do_resize needs whole numbers from 0 to 255 .* from -7 to -7"),
    "great": (np.full((4, 5, 3), 256), "do_resize needs whole numbers from 0 to 255"),
    "great fractions": (np.full((4, 5, 3), 1.5), "fractions from 0 to 1"),
}
BAD_OPTIONS = [
    ({"size": 0}, "size must be"), ({"size": {"shortest_edge": 5}}, "size must be .*shortest_edge"),
    ({"size": (3.5, 2)}, "size must be"), ({"size": True}, "size must be"), ({"size": (1, 2, 3)}, "size must be"),
    ({"resample": 9}, "resample must be a whole number from 0 to ., got 9"), ({"resample": True}, "resample"),
    ({"do_resize": 1}, "do_resize must be True or False, got 1"), ({"do_convert_rgb": "no"}, "do_convert_rgb must be"),
    ({"apply_exif_orientation": "up"}, "apply_exif_orientation must be"), ({"rescale_factor": "a"}, "rescale_factor"),
    ({"rescale_factor": float("nan")}, "rescale_factor must be a finite number"), ({"image_mean": "a"}, "image_mean"),
    ({"image_mean": []}, "image_mean must be"), ({"image_mean": [1, 2]}, "has 3 channel.*image_mean 2"),
    ({"image_std": [1, 0, 1]}, "image_std must not be zero"), ({"data_format": "first"}, "data_format must be"),
    ({"input_data_format": "last"}, "input_data_format must be"), ({"return_tensors": "jax"}, "return_tensors must be"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:images holds values")
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused(name):
    images, message = BAD_IMAGES[name]
    with pytest.raises(ValueError, match=message):
        BlipImageProcessor()(images)


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=str)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BlipImageProcessor()(photo(), **options)


def test_other_mistakes_are_refused():
    with pytest.raises(TypeError, match="centre_crop"):
        BlipImageProcessor()(photo(), centre_crop=True)
    with pytest.raises(ValueError, match=r"camera_grey.png must have 3 dimensions, .* got shape \(333, 201\)"):
        BlipImageProcessor()(PHOTOS / "camera_grey.png", do_convert_rgb=False)
    with pytest.raises(ValueError, match="do not make one tensor; pass do_resize=True"):
        BlipImageProcessor()([photo(), grey()], do_resize=False, return_tensors="np")
    with pytest.raises(ValueError, match="do_resize works on 1 to 4 channels, got 213; check input_data_format"):
        BlipImageProcessor()(cat().transpose(2, 0, 1), input_data_format="channels_last")
    with pytest.raises(ValueError, match=r"images cannot be made RGB: .*convert it first"):
        BlipImageProcessor()(Image.new("La", (4, 4)))


def test_settings_of_a_file_come_back(tmp_path):
    processor = BlipImageProcessor(size=(40, 56), resample=2, image_mean=np.float32([0.5, 0.25, 0.125]), image_std=0.5)
    processor.extra = {"mine": [1, {"a": None}]}
    processor.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert values["size"] == {"height": 40, "width": 56}
    assert (values["mine"], values["image_processor_type"]) == ([1, {"a": None}], "BlipImageProcessor")
    for path in (tmp_path, tmp_path / "preprocessor_config.json", str(tmp_path)):
        assert BlipImageProcessor.from_pretrained(path) == processor
    assert BlipImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
    for other in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert other == processor
        other.extra["mine"].append(2)
    assert processor.extra == {"mine": [1, {"a": None}]}


def test_settings_from_other_files(tmp_path):
    assert BlipImageProcessor.from_pretrained(tmp_path) == BlipImageProcessor()
    (tmp_path / "config.json").write_text('{"vision_config": {"image_size": 48}}')
    assert BlipImageProcessor.from_pretrained(tmp_path) == BlipImageProcessor(size=48)
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"size": {"height": 8, "width": 9}}}')
    assert BlipImageProcessor.from_pretrained(tmp_path) == BlipImageProcessor(size=(8, 9))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("preprocessor_config.json", "{", "is not valid JSON"),
        ("preprocessor_config.json", "[1]", "must hold a JSON object"),
        ("preprocessor_config.json", '{"size": {"shortest_edge": 3}}', "size must be"),
        ("preprocessor_config.json", '{"image_mean": "a"}', "image_mean must be"),
        ("processor_config.json", '{"image_processor": "a"}', "image_processor must be an object"),
        ("config.json", '{"vision_config": "a"}', "vision_config must be an object"),
        ("config.json", '{"vision_config": {"image_size": "a"}}', "size must be"),
    ],
)
def test_bad_settings_files_are_named(file, content, message, tmp_path):
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        BlipImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        BlipImageProcessor.from_pretrained(tmp_path / "no such folder")


def test_pictures_are_cropped_and_padded():
    picture = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    plain = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    processor = BlipImageProcessor(do_center_crop=True, crop_size=(2, 6), **plain)
    (found,) = processor(picture).pixel_values
    np.testing.assert_array_equal(found[:, :, 1:5], picture.transpose(2, 0, 1)[:, 1:3])
    assert (found.shape, found[:, :, [0, 5]].any()) == ((3, 2, 6), False)
    options = {"do_pad": True, "return_tensors": "np", **plain}
    padded = BlipImageProcessor()([picture, picture[:4]], **options).pixel_values
    np.testing.assert_array_equal(padded[0], picture.transpose(2, 0, 1))
    np.testing.assert_array_equal(padded[1, :, :4], padded[0, :, :4])
    assert (padded.shape, padded[1, :, 4:].any()) == ((2, 3, 5, 4), False)
    last = BlipImageProcessor()([picture], pad_size=7, data_format="channels_last", **options).pixel_values
    assert last.shape == (1, 7, 7, 3)
    for more, message in (
        ({"pad_size": 4}, r"images\[0\] of 5 x 4 is larger than the pad_size, 4 x 4"),
        ({"data_format": None}, "do_pad=True needs a data_format"),
        ({"do_center_crop": True}, "do_center_crop=True needs a crop_size"),
    ):
        with pytest.raises(ValueError, match=message):
            BlipImageProcessor()([picture], **options, **more)
