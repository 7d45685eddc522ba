"""Pictures of 16 and 32 bits, and transparent ones: scaled, put on a background, or refused; never just clipped."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipImageProcessor, BlipProcessor
from blip_core.processing.pictures import to_rgb

RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))


@pytest.mark.parametrize(
    ("values", "top"),
    [
        (RAMP.astype(np.float32), 1),
        ((RAMP * 65535).astype(np.float32), 65535),
        ((RAMP * 65535).astype(np.uint16), 65535),
        ((RAMP * 65535).astype(np.int32), 65535),
    ],
)
def test_other_numbers_are_scaled_and_told(tmp_path, values, top):
    expected = BlipImageProcessor(size=64, do_normalize=False)(Image.fromarray((RAMP * 255).astype(np.uint8)))
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.warns(UserWarning, match=rf"x\.tif has values up to {top}: 0 to {top} become 0 to 255"):
        found = BlipImageProcessor(size=64, do_normalize=False)(tmp_path / "x.tif")
    np.testing.assert_allclose(found.pixel_values[0], expected.pixel_values[0], atol=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int32])
def test_values_of_8_bits_stay(dtype):
    values = (RAMP * 255).astype(np.uint8)
    found = to_rgb(Image.fromarray(values.astype(dtype)), "x")
    np.testing.assert_array_equal(np.asarray(found)[..., 0], values)


@pytest.mark.parametrize("value", [-1.0, 70_000.0, float("nan"), float("inf")])
def test_other_ranges_are_refused(value):
    with pytest.raises(ValueError, match=r"x has values from .*; scale them to 0 to 255"):
        to_rgb(Image.fromarray(np.full((4, 4), value, np.float32)), "x")


def cut_out(mode: str) -> Image.Image:
    """A red square on transparency with noise beneath."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    noise[..., [0, 3]] = 0
    noise[8:24, 8:24] = [255, 0, 0, 255]
    image = Image.fromarray(noise)
    if mode == "P":
        image = image.convert("RGB").quantize(16, dither=Image.Dither.NONE)
        image.info["transparency"] = bytes(0 if i != image.getpixel((16, 16)) else 255 for i in range(16))
    return image.convert(mode) if mode == "LA" else image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("background", ["white", "#ffffff", [255, 255, 255]])
def test_transparent_pictures_are_put_on_the_background(mode, background):
    processor = BlipImageProcessor(size=32, background=background, do_normalize=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = processor(cut_out(mode)).pixel_values[0]
    outside = np.ones((32, 32), bool)
    outside[8:24, 8:24] = False
    assert (found[:, outside] == 1).all()
    assert found[:, 16, 16].max() < 1 or mode != "LA"
    np.testing.assert_array_equal(processor(Image.new("RGB", (9, 9), "red")).pixel_values[0][:, 4, 4], [1, 0, 0])


def test_a_background_is_saved_and_unset_by_default(tmp_path):
    assert BlipImageProcessor().background is None
    BlipImageProcessor(background=(1, 2, 3)).save_pretrained(tmp_path)
    assert BlipImageProcessor.from_pretrained(tmp_path).background == [1, 2, 3]
    assert BlipImageProcessor.from_pretrained().background == "white"  # of the model in the package
    with pytest.raises(ValueError, match=r"background must be a colour, 'white', .*got 'whit'"):
        BlipImageProcessor(background="whit")


def test_transparency_that_is_dropped_is_told_once():
    image = cut_out("RGBA")
    opaque = Image.new("RGBA", (9, 9), (1, 2, 3, 255))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        BlipImageProcessor(size=32)([image, image, opaque])
    assert [str(warning.message)[:33] for warning in said] == ["A picture has transparent parts, "]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BlipImageProcessor(size=32)(opaque)


def test_sizes_that_take_the_machine_are_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"size": 30000}')
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: size must be .*from 1 to 4096, got 30000"):
        BlipImageProcessor.from_pretrained(tmp_path)


def test_one_text_goes_with_many_pictures():
    pictures = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "lime")]
    processor = BlipProcessor(BlipImageProcessor(size=32))
    inputs = processor(pictures, "how many?", return_tensors="np")
    assert inputs.input_ids.shape[0] == inputs.pixel_values.shape[0] == 3
    assert (inputs.input_ids == inputs.input_ids[0]).all()
    assert len(processor(pictures, "how many?")["input_ids"]) == 3
    assert processor(pictures[0], "how many?")["input_ids"] == processor.tokenizer("how many?")["input_ids"]
