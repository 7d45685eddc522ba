"""Heat maps drawn over a picture, one panel for each word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blip_core.inference.attribution import strengths

PANEL = 360  # pixels of a panel's longer side
PIXELS = 12e6  # of all panels together: with many, each is smaller
MARGIN, TEXT = 12, 16  # between panels; the size of letters
WHITE, INK, PALE = (255, 255, 255), (20, 20, 20), (120, 120, 120)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def colours() -> np.ndarray:
    """The colour scale, uint8 (256, 3): from dark violet by red and orange to light yellow.

    Lightness grows evenly, as the eye sees it, so that equal steps of a map look equal, in grey print as well. The
    colours are made in Oklab (B. Ottosson, "A perceptual color space for image processing", 2020).
    """
    step = np.linspace(0, 1, 256)
    lightness, chroma, hue = 0.25 + 0.68 * step, 0.17 * np.sin(np.pi * (0.15 + 0.7 * step)), 290 + 170 * step
    lab = np.stack([lightness, *(chroma * turn(np.radians(hue)) for turn in (np.cos, np.sin))])
    cones = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    )
    linear = np.array([
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.707614701],
    ]) @ (cones @ lab) ** 3  # fmt: skip
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    result: np.ndarray = (srgb.T * 255).round().astype(np.uint8)
    return result


def contrast(heat: np.ndarray) -> np.ndarray:
    """A map brought to 0, where it is least, to 1, where it is most; 0 where all of it is the same."""
    low, high = float(heat.min()), float(heat.max())
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def overlay(picture: Image.Image, heat: np.ndarray, strength: float = 1.0) -> Image.Image:
    """Lay a map (rows, columns) over a whole RGB picture, which is left grey where the map is low.

    The colour says how high the map is between its own ends; a `strength` below 1 lets all of it pale.
    """
    heat = contrast(heat)
    large = Image.fromarray(heat.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    values = np.asarray(large).clip(0, 1)  # bicubic interpolation overshoots
    grey = 0.75 * np.asarray(picture.convert("L"), np.float32)[..., None]
    share = 0.85 * strength**0.5 * values[..., None] ** 0.8
    mixed = (1 - share) * grey + share * colours()[(values * 255).round().astype(int)]
    return Image.fromarray(mixed.round().astype(np.uint8))


def draw_maps(
    picture: Image.Image,
    title: str,
    words: Sequence[str],
    maps: np.ndarray,
    font: str | None = None,
    boxes: Sequence[Sequence[float] | None] = (),
) -> Image.Image:
    """Draw the picture, the mean of all maps and each word's map over the picture, with captions.

    `picture` is RGB of any size, `maps` (words, rows, columns) cover the whole of it. A panel's colours go from the
    least to the most of its own map; the percentage beside a word, by which they pale, compares it with the strongest
    one. `font` is a TrueType file for scripts that Pillow's own letters lack. `boxes` (x, y, width, height), in pixels
    of the picture, are drawn on the words' panels. Raises `OSError` for a font that cannot be read.
    """
    side = min(PANEL, math.isqrt(int(PIXELS / (len(words) + 2))))
    shrink = side / max(picture.size)
    small = picture.resize(
        (max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))), Image.Resampling.LANCZOS
    )
    panels = [("the picture", "", small), ("all words", "", overlay(small, maps.mean(axis=0)))]
    for word, heat, strength, box in zip(words, maps, strengths(maps), boxes or [None] * len(words), strict=True):
        panel = overlay(small, heat, strength)
        if box is not None:
            x, y, width, height = (side * shrink for side in box)
            ImageDraw.Draw(panel).rectangle((x, y, x + width - 1, y + height - 1), outline=WHITE, width=2)
        panels.append((word, f"{strength:.0%}", panel))

    letters = load_font(font)
    line = round(TEXT * 1.4)
    cell = max(small.width, side // 2)  # a caption needs room even where the picture is a narrow one
    columns = min(len(panels), max(1, round(math.sqrt(len(panels) * 1.5 * small.height / cell))))
    rows = math.ceil(len(panels) / columns)
    width = MARGIN + columns * (cell + MARGIN)
    heading = wrap(title, letters, width - 2 * MARGIN)
    top = MARGIN + len(heading) * line + MARGIN // 2
    sheet = Image.new("RGB", (width, top + rows * (line + small.height + MARGIN) + line + MARGIN), WHITE)
    draw = ImageDraw.Draw(sheet)
    for number, part in enumerate(heading):
        draw.text((MARGIN, MARGIN + number * line), part, INK, letters)
    for number, (caption, note, panel) in enumerate(panels):
        x = MARGIN + number % columns * (cell + MARGIN)
        y = top + number // columns * (line + small.height + MARGIN)
        room = cell - letters.getlength(note) - MARGIN
        draw.text((x, y), shorten(caption, letters, room), INK, letters)
        draw.text((x + cell - letters.getlength(note), y), note, PALE, letters)
        sheet.paste(panel, (x, y + line))
    legend(sheet, draw, letters, sheet.height - line - MARGIN // 2)
    return sheet


def legend(sheet: Image.Image, draw: ImageDraw.ImageDraw, letters: Font, y: int) -> None:
    """Draw the colour scale at the bottom of a sheet."""
    x = MARGIN
    for text in ("least", None, "most; % of the strongest word"):
        if text is None:
            sheet.paste(Image.fromarray(np.repeat(colours()[None, ::2], TEXT, axis=0)), (x, y + 2))
            x += 128 + MARGIN // 2
        else:
            draw.text((x, y), shorten(text, letters, sheet.width - x), PALE, letters)
            x += round(letters.getlength(text)) + MARGIN // 2


def load_font(path: str | None) -> Font:
    """Letters of a TrueType file, or Pillow's own. Raises `OSError` for a file that is none."""
    if path is None:
        return ImageFont.load_default(TEXT)
    try:
        return ImageFont.truetype(path, TEXT)
    except OSError as error:
        raise OSError(f"{path} is not a font that can be read ({error}); give a TrueType or OpenType file.") from None


def shorten(text: str, letters: Font, width: float) -> str:
    """One line of text that is not wider than `width` pixels, cut with "..." where it must be."""
    text = "".join(character if character.isprintable() else " " for character in text)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def wrap(text: str, letters: Font, width: float, most: int = 3) -> list[str]:
    """Text in lines of at most `width` pixels, the last of at most `most` cut where there is more."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and len(lines) < most and letters.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shorten(line, letters, width) for line in lines]
