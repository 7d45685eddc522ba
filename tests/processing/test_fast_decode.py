"""Large JPEG files decoded at a part of their size: what it changes, and what it leaves as it is."""

import io

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipImageProcessor, BlipProcessor
from blip_core.datasets import Batches, Dataset, Example, Picture
from blip_core.processing.picture_files import load_image
from blip_core.processing.video import read_frames
from tests.helpers.drawn_pictures import photo

SIZE = {"height": 64, "width": 80}


def large(kind="JPEG", scale=6, **options):
    """The astronaut many times as large, as a file."""
    image = photo("astronaut.jpg").convert("RGB")
    file = io.BytesIO()
    image.resize((image.width * scale, image.height * scale)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("turned", [False, True])
def test_a_large_photograph_is_nearly_the_same(turned):
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    data = large(exif=exif)
    pixels = [BlipImageProcessor(size=SIZE, fast_decode=fast)(data).pixel_values[0] for fast in (False, True)]
    differences = np.abs(pixels[0] - pixels[1])
    assert 0 < differences.mean() < 0.01  # of values of deviation 1
    assert differences.max() < 0.2
    whole, part = (load_image(data, least=least) for least in (None, 160))
    assert 160 <= min(part.size) < min(whole.size)
    assert (part.width > part.height) == (whole.width > whole.height)


@pytest.mark.parametrize("picture", [large("PNG"), large(scale=1)[:], large("JPEG", 6)])
def test_what_it_leaves_as_it_is(picture):
    with Image.open(io.BytesIO(picture)) as image:
        small, jpeg = min(image.size) < 4 * 80, image.format == "JPEG"
    exact = BlipImageProcessor(size=80)(picture).pixel_values[0]
    fast = BlipImageProcessor(size=80, fast_decode=True)(picture).pixel_values[0]
    assert np.array_equal(exact, fast) == (small or not jpeg)
    opened = Image.open(io.BytesIO(picture))  # a picture that somebody else has opened
    assert np.array_equal(BlipImageProcessor(size=80, fast_decode=True)(opened).pixel_values[0], exact)


def test_it_is_off_unless_asked_for_and_then_saved(tmp_path):
    assert "fast_decode" not in BlipImageProcessor().to_dict()
    BlipImageProcessor(fast_decode=True).save_pretrained(tmp_path)
    assert BlipImageProcessor.from_pretrained(tmp_path).fast_decode is True
    assert BlipImageProcessor(fast_decode=True, do_resize=False).least is None
    with pytest.raises(ValueError, match="fast_decode must be"):
        BlipImageProcessor(fast_decode="yes")


@pytest.mark.parametrize("training", [False, True])
def test_data_sets_and_frames(tmp_path, training):
    path = tmp_path / "a.jpg"
    path.write_bytes(large())
    dataset = Dataset("caption", [Example("1", (Picture(str(path)),), ("an astronaut",))])

    def pixels(processor, **options):
        batches = Batches(dataset, processor, "caption", 1, training=training, **options)
        return next(batches.epoch(0)).inputs["pixel_values"][0]

    exact, fast = (BlipProcessor(BlipImageProcessor(size=SIZE, fast_decode=fast)) for fast in (False, True))
    assert not np.array_equal(pixels(exact), pixels(fast))
    assert np.array_equal(pixels(exact, fast_decode=True), pixels(fast))
    assert np.abs(pixels(exact) - pixels(fast)).mean() < 0.01
    assert np.array_equal(read_frames(fast, path)[0], fast(images=path, return_tensors="np").pixel_values[0])
    assert np.array_equal(pixels(fast), read_frames(fast, path)[0])
