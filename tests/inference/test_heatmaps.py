"""Heat maps as pictures, and `blip explain`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_core.cli import main
from blip_core.inference.attribution import peak
from blip_core.inference.heatmaps import colours, draw_maps, overlay
from tests.helpers.colours import draw_patches, save_colour_model
from tests.helpers.frameworks import FRAMEWORKS


def test_the_colour_scale_is_even():
    """Its lightness as CIE 1976 has it, L*, grows by nearly the same everywhere."""
    srgb = colours() / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    light = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = light[8:] - light[:-8]  # over eight colours, as each is rounded to 8 bits
    assert steps.min() > 0.75 * steps.mean()
    assert steps.max() < 1.25 * steps.mean()
    assert light[0] < 20
    assert light[-1] > 85


def test_a_map_covers_the_whole_picture():
    picture = Image.new("RGB", (90, 40), (128, 128, 128))
    heat = np.zeros((4, 3))
    heat[3, 1] = 1e-5  # the scale is the map's own
    drawn = np.asarray(overlay(picture, heat)).astype(int)
    coloured = np.ptp(drawn, axis=-1)
    row, column = np.unravel_index(coloured.argmax(), coloured.shape)
    assert (30 <= row < 40, 30 <= column < 60) == (True, True)
    assert not coloured[:15].any()
    assert not np.ptp(np.asarray(overlay(picture, np.full((4, 3), 0.3))), axis=-1).any()
    assert np.ptp(np.asarray(overlay(picture, heat, 0.1)), axis=-1).max() < coloured.max() / 2
    assert peak(heat, picture.size) == (45, 35)


@pytest.mark.parametrize("size", [(300, 200), (3, 900), (900, 3), (1, 1)])
def test_a_sheet_of_any_words_and_sizes(size):
    words = ["dog", "犬", "🐕‍🦺", "شمس", "x" * 300, "a\nb\x00", "\u202e"]
    maps = np.random.default_rng(0).random((len(words), 2, 5))
    sheet = draw_maps(Image.new("RGB", size, "red"), " ".join(words) * 5, words, maps)
    assert sheet.mode == "RGB"
    assert max(sheet.size) < 5000


def test_many_words_make_no_giant():
    sheet = draw_maps(Image.new("RGB", (400, 300)), "x", ["x"] * 500, np.ones((500, 2, 2)))
    assert sheet.width * sheet.height < 24e6


# the command --------------------------------------------------------------------------------------------------------

TEXT = "a red house, green grass and a blue car"


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory):
    return save_colour_model(tmp_path_factory.mktemp("colours"))


@pytest.fixture
def blip(colour_model, tmp_path, monkeypatch, capfd):
    """Run `blip explain` where there is a picture of 300 x 120 pixels."""
    monkeypatch.chdir(tmp_path)
    draw_patches(5, 5, {(0, 4): "red", (4, 2): "green", (1, 0): "blue"}, (60, 24)).save("photo.png")

    def run(*arguments):
        try:
            code = main(["explain", *arguments, "--model", str(colour_model)])
        except SystemExit as end:
            code = end.code
        return code, *capfd.readouterr()

    return run


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_explain(blip, framework):
    code, out, err = blip("photo.png", TEXT, "-o", "new/maps.png", "--json", "--engine", framework)
    assert (code, err) == (0, "")
    entry = json.loads(out)
    assert (entry["image"], entry["output"], entry["layer"], entry["method"]) == (
        "photo.png", "new/maps.png", 1, "gradcam",
    )  # fmt: skip
    assert 0 < entry["itm"] < 1
    assert [word["word"] for word in entry["words"]] == TEXT.split()
    peaks = {word["word"]: word["peak"] for word in entry["words"]}
    assert (peaks["red"], peaks["green"], peaks["blue"]) == ([270, 12], [150, 108], [30, 36])
    with Image.open("new/maps.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 360
    assert os.listdir("new") == ["maps.png"]


def test_a_turned_photograph_is_drawn_upright(blip):
    upright = draw_patches(5, 5, {(0, 4): "red"}, (24, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    upright.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    code, out, _ = blip("turned.png", "red", "-o", "maps.png", "--json")
    assert (code, json.loads(out)["words"][0]["peak"]) == (0, [108, 30])


def test_explain_in_plain_words(blip):
    code, out, _ = blip("photo.png", TEXT, "-o", "maps.png", "--method", "attention", "--layer", "2")
    assert code == 0
    assert out.startswith(f"photo.png: {TEXT} (itm 0.")
    assert out.endswith(" -> maps.png\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["photo.png", TEXT], 2, "-o"),
        (["photo.png", TEXT, "-o", "maps.jpg"], 2, "must end in .png, got 'maps.jpg'"),
        (["photo.png", TEXT, "-o", "./photo.png"], 2, "would replace IMAGE"),
        (["photo.png", " ", "-o", "maps.png"], 2, "TEXT is empty"),
        (["photo.png", TEXT, "-o", "maps.png", "--layer", "-1"], 2, "at least 0"),
        (["photo.png", TEXT, "-o", "maps.png", "--method", "lime"], 2, "lime"),
        (["photo.png", TEXT, "-o", "maps.png", "--layer", "2"], 2, "--layer 2 is the last one"),
        (["photo.png", TEXT, "-o", "maps.png", "--layer", "3"], 2, "layers 0 to 2, got --layer 3"),
        (["photo.png", "?!", "-o", "maps.png"], 1, "no words"),
        (["photo.png", "dog " * 511, "-o", "maps.png"], 1, "513 tokens"),
        (["none.png", TEXT, "-o", "maps.png"], 1, "none.png"),
        (["text.png", TEXT, "-o", "maps.png"], 1, "not a picture"),
        (["photo.png", TEXT, "-o", "maps.png", "--font", "text.png"], 1, "text.png is not a font"),
    ],
)
def test_wrong_calls(blip, arguments, code, said):
    Path("text.png").write_text("no picture")
    found, out, err = blip(*arguments)
    assert (found, out) == (code, "")
    assert said in err.splitlines()[-1]
    assert sorted(os.listdir()) == ["photo.png", "text.png"]
