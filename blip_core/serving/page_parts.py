"""Parts of the page as HTML: shaded words, bars, heat maps, found pictures. Every text in them is escaped."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from blip_core.inference.heatmaps import overlay
from blip_core.inference.results import Explanation
from blip_core.processing.pictures import to_rgb

SIDE = 400
"""Pixels of the longer side of pictures in results."""
MOST_WORDS = 40
"""Words that have a heat map on the page."""

_SHOWN = ",".join(f".blip-heat:has(.w{n}:is(:hover, :focus)) .m{n}" for n in range(MOST_WORDS))
STYLE = f"""
.gradio-container {{ width: 100%; max-width: min(72rem, 100vw) !important; min-width: 0; margin: 0 auto; }}
@media (max-width: 480px) {{ .gradio-container .main {{ padding: 0.75rem !important; }} }}
.blip-head h1 {{ font-size: 1.6rem; font-weight: 700; margin: 0.4rem 0 0.1rem; }}
.blip-head p {{ margin: 0; color: var(--body-text-color-subdued); }}
.blip-said {{ font-size: 1.35rem; line-height: 1.9; }}
.blip-said span {{ padding: 0.15rem 0.3rem; margin-right: 0.15rem; border-radius: 0.35rem;
  background: color-mix(in srgb, var(--color-accent) calc(var(--sure) * 45%), transparent); }}
.blip-note {{ color: var(--body-text-color-subdued); font-size: 0.9rem; margin: 0.1rem 0 0.8rem; }}
.blip-bar {{ display: grid; grid-template-columns: minmax(6rem, 2fr) 3fr 3.5rem; gap: 0.7rem; align-items: center;
  padding: 0.25rem 0; overflow-wrap: anywhere; }}
.blip-bar i {{ display: block; height: 0.7rem; border-radius: 0.35rem; width: calc(var(--share) * 100%);
  min-width: 2px; background: var(--color-accent); }}
.blip-bar b {{ text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; }}
.blip-bar .track {{ background: var(--border-color-primary); border-radius: 0.35rem; }}
.blip-heat .stage {{ position: relative; display: inline-block; max-width: 100%; }}
.blip-heat img {{ display: block; max-width: 100%; border-radius: 0.5rem; }}
.blip-heat .stage img + img {{ position: absolute; inset: 0; opacity: 0; transition: opacity 0.15s; }}
.blip-heat button {{ font: inherit; font-size: 1.15rem; padding: 0.2rem 0.6rem; margin: 0 0.3rem 0.6rem 0;
  cursor: pointer; color: var(--body-text-color); border-radius: 0.4rem; border: 1px solid var(--border-color-primary);
  background: color-mix(in srgb, var(--color-accent) calc(var(--sure) * 45%), transparent); }}
.blip-heat button:focus-visible {{ outline: 2px solid var(--color-accent); outline-offset: 2px; }}
{_SHOWN} {{ opacity: 1 !important; }}
.blip-found {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: 0.8rem; }}
.blip-found figure {{ margin: 0; }}
.blip-found img {{ width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 0.5rem;
  background: var(--background-fill-secondary); }}
.blip-found figcaption {{ font-size: 0.8rem; overflow-wrap: anywhere; color: var(--body-text-color-subdued); }}
"""


def head(about: str) -> str:
    """The name of the page, and what its models are and are not."""
    return f'<div class="blip-head"><h1>BLIP</h1><p>{escape(about)}</p></div>'


def note(text: str) -> str:
    """A sentence in a quiet colour."""
    return f'<p class="blip-note">{escape(text)}</p>'


def said(tokens: Sequence[str], log_probs: Sequence[float], confidence: float, before: str = "") -> str:
    """A text whose words are shaded by how sure the model was of each, and how sure it was of all."""
    words: list[tuple[str, float]] = []
    for token, value in zip(tokens, log_probs, strict=True):
        if token.startswith("##") and words:
            word, sum_ = words[-1]
            words[-1] = (word + token[2:], sum_ + value)
        elif not (token.startswith("[") and token.endswith("]")):
            words.append((token, value))
    spans = "".join(
        f'<span style="--sure:{math.exp(value):.3f}" title="{math.exp(value):.0%} sure">{escape(word)}</span> '
        for word, value in words
    )
    prompt = f"{escape(before)} " if before else ""
    return f'<div class="blip-said">{prompt}{spans}</div>{note(f"{confidence:.0%} sure of its words")}'


def bars(rows: Sequence[tuple[str, float]]) -> str:
    """Texts with a share of 1 each, as bars."""
    drawn = []
    for text, share in rows:
        track = f'<span class="track"><i style="--share:{share:.4f}"></i></span>'
        drawn.append(f'<div class="blip-bar"><span>{escape(text)}</span>{track}<b>{share:.0%}</b></div>')
    return "".join(drawn)


def heat(found: Explanation) -> str:
    """A picture with a map for each word, which is shown while the word is pointed at or has the focus."""
    assert found.image is not None
    assert found.maps is not None
    assert found.strengths is not None
    small = shrunk(found.image)
    words = list(zip(found.words, found.maps, found.strengths.tolist(), strict=True))[:MOST_WORDS]
    buttons = "".join(
        f'<button type="button" class="w{n}" style="--sure:{strength:.3f}">{escape(word)}</button>'
        for n, (word, _, strength) in enumerate(words)
    )
    maps = "".join(
        f'<img class="m{n}" alt="where {escape(word, quote=True)} is" src="{data_uri(overlay(small, one, strength))}">'
        for n, (word, one, strength) in enumerate(words)
    )
    return (
        f'<div class="blip-heat">{note(f"Match {found.itm:.0%}. Point at a word, or move to it with Tab.")}'
        f'<div>{buttons}</div><div class="stage"><img alt="the picture" src="{data_uri(small)}">{maps}</div></div>'
    )


def found_pictures(rows: Sequence[tuple[dict[str, Any], Image.Image | None]]) -> str:
    """Pictures that a search has found, best first."""
    figures = []
    for row, image in rows:
        match = "" if row["itm"] is None else f", {row['itm']:.0%} match"
        caption = f"<figcaption>{escape(row['image'])}<br>{row['itc']:.2f} alike{match}</figcaption>"
        figures.append(f"<figure>{picture_tag(image)}{caption}</figure>")
    return f'<div class="blip-found">{"".join(figures)}</div>'


def picture_tag(image: Image.Image | None) -> str:
    """A small picture, or nothing for one that cannot be read any more."""
    return "" if image is None else f'<img alt="" src="{data_uri(image)}">'


def shrunk(image: Image.Image, side: int = SIDE) -> Image.Image:
    """A copy in RGB whose longer side has at most `side` pixels; small ones are enlarged, to show maps on them."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return to_rgb(image, "The picture", (255, 255, 255)).resize(size, Image.Resampling.LANCZOS)


def data_uri(image: Image.Image) -> str:
    """A picture inside a page, so that no file of it is kept."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
