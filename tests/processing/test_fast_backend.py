"""`backend="fast"`: pictures prepared by PyTorch, of which few values are a level of 255 from the exact way."""

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipImageProcessor
from blip_core.engines import ENGINES, MissingFramework
from blip_core.files import read_json, write_json

LEVEL = 1 / 255 / 0.2686  # one level of 255, in the units of `pixel_values`
NOISE = np.random.default_rng(0)


def pictures():
    yield from (f"tests/data/photos/{name}" for name in ("astronaut.jpg", "cat.png"))
    for height, width in ((1, 1), (7, 400), (300, 20), (384, 384), (999, 640)):
        yield NOISE.integers(0, 256, (height, width, 3), np.uint8)
    yield Image.fromarray(NOISE.integers(0, 256, (50, 60), np.uint8))  # grey, made RGB
    yield Image.fromarray(NOISE.integers(0, 256, (50, 60, 4), np.uint8)).convert("P")


@pytest.mark.needs("pt")
@pytest.mark.parametrize(
    "options", [{}, {"size": 224}, {"resample": 2, "size": (100, 30)}, {"do_center_crop": True, "crop_size": 50}]
)
def test_few_values_differ_and_hardly_any_by_two_levels(options):
    for picture in pictures():
        exact, fast = (
            BlipImageProcessor(backend=backend, **options)(picture, return_tensors="np").pixel_values
            for backend in ("exact", "fast")
        )
        assert exact.shape == fast.shape
        assert exact.dtype == fast.dtype
        levels = np.rint(np.abs(exact - fast) / LEVEL)  # of the third channel; of the others a little more
        assert levels.max() <= 2
        assert (levels > 0).mean() < 0.02
        assert (levels > 1).mean() < 1e-4


@pytest.mark.needs("pt")
@pytest.mark.parametrize(
    "options",
    [{"resample": 1}, {"do_normalize": False}, {"do_rescale": False, "do_normalize": False}, {"do_resize": False}],
)
def test_what_pytorch_does_not_resize_and_other_steps(options):
    picture = NOISE.integers(0, 256, (40, 60, 3), np.uint8)
    exact, fast = (
        BlipImageProcessor(backend=backend, size=32, **options)(picture, return_tensors="np").pixel_values
        for backend in ("exact", "fast")
    )
    assert exact.dtype == fast.dtype
    assert np.abs(exact.astype(float) - fast).max() <= (1 if options.get("do_rescale") is False else LEVEL)
    floats = picture.astype(np.float32) / 255  # fractions go through Pillow in both
    exact, fast = (
        BlipImageProcessor(backend=b, size=32, do_rescale=False)(floats, return_tensors="np").pixel_values
        for b in ("exact", "fast")
    )
    assert np.array_equal(exact, fast)


@pytest.mark.needs("pt")
def test_files_do_not_hold_it(tmp_path):
    processor = BlipImageProcessor(backend="fast")
    (path,) = processor.save_pretrained(tmp_path)
    assert "backend" not in read_json(path)
    write_json(tmp_path / "preprocessor_config.json", {**read_json(path), "backend": "torchvision"})  # another's
    assert BlipImageProcessor.from_pretrained(tmp_path).backend == "exact"
    assert BlipImageProcessor.from_pretrained(tmp_path, backend="fast").backend == "fast"
    picture = Image.new("RGB", (9, 8), "red")
    assert np.allclose(
        BlipImageProcessor()(picture, backend="fast", return_tensors="np").pixel_values,
        processor(picture, return_tensors="np").pixel_values,
    )


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="backend must be one of exact, fast, got 'quick'"):
        BlipImageProcessor(backend="quick")
    monkeypatch.setattr(type(ENGINES["pt"]), "installed", False)
    with pytest.raises(MissingFramework, match=r"backend=.fast. needs torch, which is not installed"):
        BlipImageProcessor(backend="fast")
