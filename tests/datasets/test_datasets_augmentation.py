"""Augmentation: RandAugment operation by operation against formulas in NumPy, boxes, and the changes of our own."""

import math

import numpy as np
import pytest
from PIL import Image

from blip_core.datasets.augmentation import Augmentation, crop_box
from blip_core.datasets.rand_augment import GREY, OPERATIONS, rand_augment, rotate, shear, translate
from blip_core.processing.pictures import on_ground
from tests.helpers.drawn_pictures import photo

STILL = {"crop_scale": None, "flip": 0, "rand_augment": None}
RED = (255, 0, 0)


def noise(*seed):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def pictures():
    values = noise(1).integers(0, 256, (21, 34, 3), np.uint8)
    dark = values // 3 + 40
    return [Image.fromarray(values), Image.fromarray(dark), photo().convert("RGB").resize((50, 40))]


def warp(image, matrix):
    """Move each pixel by a matrix (2, 3), forwards, as OpenCV does: bilinear between whole coordinates, grey around."""
    values = np.asarray(image).astype(np.float64)
    height, width = values.shape[:2]
    padded = np.full((height + 60, width + 60, 3), 128.0)
    padded[30:-30, 30:-30] = values
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    ys, xs = np.mgrid[:height, :width]
    x, y, _ = np.einsum("ij,jhw->ihw", inverse, np.stack([xs, ys, np.ones_like(xs)]).astype(np.float64))
    x, y = np.clip(x + 30, 0, width + 58), np.clip(y + 30, 0, height + 58)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, low = (x - left)[..., None], (y - top)[..., None]
    above = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    below = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return above * (1 - low) + below * low


def rotation(image, degrees):
    """OpenCV's matrix for a turn around (width / 2, height / 2)."""
    x, y = image.width / 2, image.height / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[cos, sin, (1 - cos) * x - sin * y], [-sin, cos, sin * x + (1 - cos) * y]]


@pytest.mark.parametrize(
    ("change", "matrix"),
    [
        (lambda image: shear(image, 0.15, 0), lambda image: [[1, 0.15, 0], [0, 1, 0]]),
        (lambda image: shear(image, 0, -0.15), lambda image: [[1, 0, 0], [-0.15, 1, 0]]),
        (lambda image: translate(image, 5, 0), lambda image: [[1, 0, 5], [0, 1, 0]]),
        (lambda image: translate(image, 0, -2.5), lambda image: [[1, 0, 0], [0, 1, -2.5]]),
        (lambda image: rotate(image, 15), lambda image: rotation(image, 15)),
        (lambda image: rotate(image, -30), lambda image: rotation(image, -30)),
    ],
)
def test_geometry_is_that_of_the_original(pictures, change, matrix):
    for image in pictures:
        assert np.abs(np.asarray(change(image)) - warp(image, matrix(image))).max() <= 1.01  # Pillow rounds down


def per_channel(image, table_of):
    values = np.asarray(image)
    return np.stack([table_of(values[..., c])[values[..., c]] for c in range(3)], axis=-1)


def stretched(channel):
    low, high = int(channel.min()), int(channel.max())
    return np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def equalized(channel):
    counts = np.bincount(channel.reshape(-1), minlength=256)
    step = (counts.sum() - counts[counts > 0][-1]) // 255
    if step == 0:
        return np.arange(256)
    return np.clip((np.cumsum(counts) - counts + step // 2) // step, 0, 255)


def test_contrast_and_histogram_are_those_of_the_original(pictures):
    for image in pictures:
        found = np.asarray(OPERATIONS["AutoContrast"](image, 0.5, 1)).astype(int)
        assert np.abs(found - per_channel(image, stretched)).max() <= 1  # where the product is a whole number
        np.testing.assert_array_equal(np.asarray(OPERATIONS["Equalize"](image, 0.5, 1)), per_channel(image, equalized))


@pytest.mark.parametrize("strength", [0.0, 0.2, 0.5, 1.0])
def test_brightness_and_sharpness_are_those_of_the_original(pictures, strength):
    factor = strength * 1.8 + 0.1
    for image in pictures:
        values = np.asarray(image).astype(np.float64)
        bright = np.minimum(np.floor(values * factor), 255)
        np.testing.assert_array_equal(np.asarray(OPERATIONS["Brightness"](image, strength, 1)), bright)
        around = sum(np.roll(values, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)) + 4 * values
        sharp = values.copy()
        smooth = np.rint(around / 13)[1:-1, 1:-1]
        sharp[1:-1, 1:-1] = np.clip(smooth + factor * (values[1:-1, 1:-1] - smooth), 0, 255)
        found = np.asarray(OPERATIONS["Sharpness"](image, strength, 1))
        assert np.abs(found - sharp).max() <= 1
        if strength == 0.5:  # the original's magnitude, at which both change nothing
            np.testing.assert_array_equal(found, values)
            np.testing.assert_array_equal(bright, values)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("ShearX", lambda image, sign: shear(image, sign * 0.15, 0)),
        ("ShearY", lambda image, sign: shear(image, 0, sign * 0.15)),
        ("TranslateX", lambda image, sign: translate(image, sign * 5, 0)),
        ("TranslateY", lambda image, sign: translate(image, 0, sign * 5)),
        ("Rotate", lambda image, sign: rotate(image, sign * 15)),
        ("Identity", lambda image, sign: image),
    ],
)
def test_magnitudes_are_those_of_the_original(pictures, name, by_hand):
    for sign in (1, -1):
        assert OPERATIONS[name](pictures[2], 0.5, sign).tobytes() == by_hand(pictures[2], sign).tobytes()


def test_operations_are_drawn_evenly_and_applied_half_of_the_time(monkeypatch):
    applied = []
    spies = {
        name: lambda image, strength, sign, name=name: (applied.append((name, strength, sign)), image)[1]
        for name in OPERATIONS
    }
    monkeypatch.setattr("blip_core.datasets.rand_augment.OPERATIONS", spies)
    image, draw = Image.new("RGB", (2, 2)), noise(0)
    for _ in range(10_000):
        rand_augment(image, draw, 2, 5)
    counts = {name: sum(one[0] == name for one in applied) for name in OPERATIONS}
    assert len(counts) == 10
    assert all(abs(count - 1000) < 130 for count in counts.values())  # four standard deviations
    assert {strength for _, strength, _ in applied} == {0.5}
    assert abs(sum(sign for *_, sign in applied)) < 400


def test_boxes_are_distributed_as_in_the_original():
    boxes = np.array(
        [crop_box(400, 300, (0.5, 1.0), (3 / 4, 4 / 3), draw) for draw in [noise(4)] for _ in range(20_000)]
    )
    left, top, right, low = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= 400).all() and (low <= 300).all()  # noqa: PT018
    width, height = right - left, low - top
    share, ratio = width * height / 120_000, width / height
    assert share.min() > 0.495
    assert ratio.min() > 0.74
    assert ratio.max() < 1.345
    # Drawn again where it does not fit, as in torchvision: the same by drawing many at once.
    draw = noise(5)
    areas, ratios = (
        120_000 * draw.uniform(0.5, 1, 200_000),
        np.exp(draw.uniform(-math.log(4 / 3), math.log(4 / 3), 200_000)),
    )
    w, h = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (w <= 400) & (h <= 300)
    for found, expected in ((width, w[fits]), (height, h[fits])):
        np.testing.assert_allclose(np.quantile(found, [0.1, 0.5, 0.9]), np.quantile(expected, [0.1, 0.5, 0.9]), atol=3)
    np.testing.assert_allclose((left / np.maximum(400 - width, 1)).mean(), 0.5, atol=0.02)


@pytest.mark.parametrize(
    ("size", "box"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((1, 1), (0, 0, 1, 1))]
)
def test_what_no_box_fits_is_cut_in_the_middle(size, box):
    assert crop_box(*size, (0.9, 1.0), (3 / 4, 4 / 3), noise(0)) == box


def test_the_original_crops_resizes_flips_and_augments(pictures):
    image = pictures[2]
    plain = Augmentation(rand_augment=None, flip=0)(image, (16, 20), noise(3))
    box = crop_box(*image.size, (0.5, 1.0), (3 / 4, 4 / 3), noise(3))
    assert plain.tobytes() == image.crop(box).resize((16, 20), Image.Resampling.BICUBIC).tobytes()
    flipped = Augmentation(rand_augment=None, flip=1)(image, (16, 20), noise(3))
    assert flipped.tobytes() == plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    assert Augmentation.original("caption").crop_scale == (0.5, 1.0)
    assert Augmentation.original("pretrain").crop_scale == (0.2, 1.0)
    original = Augmentation()
    assert (original.flip, original.rand_augment, original.crop_ratio) == (0.5, (2, 5), (3 / 4, 4 / 3))
    assert len({original(image, (16, 20), noise(seed)).tobytes() for seed in range(20)}) == 20


def marked():
    """A red dot of 4 x 4 above and left of the middle of 40 x 40, on white."""
    image = Image.new("RGB", (40, 40), "white")
    image.paste(RED, (10, 6, 14, 10))
    return image


def centre(image):
    """The middle (x, y) of what is red."""
    values = np.asarray(image).astype(int)
    weight = np.clip(values[..., 0] - values[..., 1], 0, 255)
    ys, xs = np.mgrid[: image.height, : image.width] + 0.5
    return (weight * xs).sum() / weight.sum(), (weight * ys).sum() / weight.sum()


@pytest.mark.parametrize("seed", range(5))
def test_a_picture_is_turned_scaled_and_moved(seed):
    image = marked()
    x, y = centre(image)
    found = centre(Augmentation(**STILL, rotate=90)(image, image.size, noise(seed), (255, 255, 255)))
    assert math.hypot(found[0] - 20, found[1] - 20) == pytest.approx(math.hypot(x - 20, y - 20), abs=0.2)
    draw = noise(seed)
    assert draw.random() < 1  # for the flip
    angle = math.radians(draw.uniform(-90, 90))
    turned = 20 + (x - 20) * math.cos(angle) + (y - 20) * math.sin(angle)  # counter-clockwise, y downwards
    assert found[0] == pytest.approx(turned, abs=0.2)
    found = centre(Augmentation(**STILL, scale=(0.5, 0.5))(image, image.size, noise(seed), (255, 255, 255)))
    assert found == pytest.approx(((x + 20) / 2, (y + 20) / 2), abs=0.2)
    found = centre(Augmentation(**STILL, translate=0.1)(image, image.size, noise(seed), (255, 255, 255)))
    assert (np.abs(np.subtract(found, (x, y))) <= 4.1).all()
    assert (np.abs(np.subtract(found, (x, y))) > 0).all()


def test_an_elastic_picture_is_bent_by_so_much():
    columns = np.repeat(np.arange(0, 252, 2, dtype=np.uint8)[None], 126, 0)  # grey tells the column
    image = Image.fromarray(np.stack([columns] * 3, -1))
    bent = [
        np.asarray(Augmentation(**STILL, elastic=0.02)(image, image.size, noise(s), (0, 0, 0)))[..., 0]
        for s in range(30)
    ]
    moved = np.stack(bent)[:, 31:95:31, 31:95:31].astype(float) - columns[31:95:31, 31:95:31]  # at points of the grid
    assert moved.std() / 2 == pytest.approx(0.02 * 126, rel=0.25)
    assert moved.mean() == pytest.approx(0, abs=1.5)


def test_a_picture_that_is_not_moved_keeps_its_pixels():
    still = Augmentation(**STILL)
    moving = Augmentation(**STILL, scale=(1.0, 1.0 + 1e-12))
    image = photo().convert("RGB").resize((32, 24))
    assert still(image, (32, 24), noise(0)).tobytes() == image.tobytes()
    assert np.abs(np.asarray(moving(image, (32, 24), noise(0))).astype(int) - np.asarray(image)).max() <= 1


def test_what_is_uncovered_and_transparent_shows_the_ground():
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((0, 200, 0, 255), (5, 5, 15, 15))
    away = Augmentation(**STILL, scale=(0.5, 0.5))
    for source in (image, Image.new("RGB", (20, 20), (0, 200, 0))):
        changed = np.asarray(away(source, (20, 20), noise(0), RED))
        assert changed[0, 0].tolist() == [255, 0, 0]
        assert changed[10, 10].tolist() == [0, 200, 0]
    assert np.asarray(away(image, (20, 20), noise(0)))[0, 0].tolist() == [0, 0, 0]
    grounds = Augmentation(**STILL, random_background=0.5)
    corners = [tuple(np.asarray(grounds(image, (20, 20), noise(s), RED))[0, 0].tolist()) for s in range(200)]
    assert 60 < corners.count(RED) < 140
    assert len(set(corners)) > 55
    assert Augmentation(**STILL)(Image.new("RGBA", (4, 4), (9, 8, 7, 0)), (4, 4), noise(0)).getpixel((0, 0)) == (
        9,
        8,
        7,
    )
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert on_ground(half, (255, 255, 255)).getpixel((0, 0)) == (127, 127, 127)


def test_colours_change_within_their_limits():
    image = Image.new("RGB", (4, 4), (200, 100, 100))  # hue 0, saturation 1/2
    hues, saturations, values = [], [], []
    for seed in range(100):
        for found, fields in ((hues, {"hue": 0.1}), (saturations, {"saturation": 0.4}), (values, {"brightness": 0.2})):
            changed = Augmentation(**STILL, **fields)(image, (4, 4), noise(seed)).convert("HSV").getpixel((0, 0))
            found.append(changed)
    turns = (np.array(hues)[:, 0] + 128) % 256 - 128
    assert -27 <= turns.min() < -15
    assert 15 < turns.max() <= 27
    share = np.array(saturations)[:, 1] / 127.5
    assert 0.58 <= share.min() < 0.75
    assert 1.25 < share.max() <= 1.42
    share = np.array(values)[:, 2] / 200
    assert 0.79 <= share.min() < 0.85
    assert 1.15 < share.max() <= 1.21


def test_a_rectangle_is_erased_and_the_picture_itself_stays():
    image = Image.new("RGB", (50, 50), (1, 2, 3))
    shares = []
    for seed in range(200):
        changed = np.asarray(Augmentation(**STILL, erase=0.5)(image, (50, 50), noise(seed)))
        shares.append((changed != (1, 2, 3)).any(-1).mean())
    erased = [share for share in shares if share]
    assert 60 < len(erased) < 140
    assert min(erased) > 0.015
    assert max(erased) < 0.21
    assert image.getcolors() == [(2500, (1, 2, 3))]


def test_tables_of_a_settings_file_make_one():
    made = Augmentation(**{"crop_scale": [], "scale": [0.5, 1], "rand_augment": [], "rotate": 30})
    assert made == Augmentation(crop_scale=None, scale=(0.5, 1), rand_augment=None, rotate=30)
    assert Augmentation(rand_augment=[2, 7]).rand_augment == (2, 7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_scale": (0.5, 1.5)}, "crop_scale must be two numbers above 0"),
        ({"crop_scale": 0.5}, "crop_scale must be two numbers"),
        ({"crop_ratio": (2, 1)}, "crop_ratio must be two numbers above 0, the lesser first"),
        ({"scale": (0, 1)}, "scale must be two numbers above 0"),
        ({"scale": ("a", 1)}, "scale must be two numbers above 0"),
        ({"flip": 1.5}, "flip must be a number from 0 to 1, got 1.5"),
        ({"rotate": -1}, "rotate must be a number from 0 to 180"),
        ({"hue": 0.6}, "hue must be a number from 0 to 0.5"),
        ({"erase": True}, "erase must be a number"),
        ({"rand_augment": (2, 11)}, "rand_augment must be"),
        ({"rand_augment": (2.0, 5)}, "rand_augment must be"),
        ({"rand_augment": 2}, "rand_augment must be"),
    ],
)
def test_what_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)


def test_the_grey_of_the_original_fills_what_is_uncovered():
    image = Image.new("RGB", (20, 20), RED)
    assert translate(image, 5, 0).getpixel((0, 0)) == GREY
    assert rotate(image, 15).getpixel((0, 0)) == GREY
