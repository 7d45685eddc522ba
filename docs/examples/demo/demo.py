"""`make demo`: the model in the package describes real pictures in PyTorch and in TensorFlow, and the two agree.

The pictures are 96 emoji of Noto (tests/data/emoji), a style of drawing that the model has never seen: it learned the
names from other styles, see docs/shipped.md. All are captioned; ten, evenly spaced in the order of their names, are
asked about, matched and shown. .demo keeps the pictures, to try the commands that are printed, a page (demo.html) and
a heat map.
"""

from __future__ import annotations

import html
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from blip_core import Answerer, Captioner, Explainer, Matcher
from blip_core.cli.load_model import quiet
from blip_core.datasets import clean_caption
from blip_core.inference.results import Answer, Caption, Match
from blip_core.processing.web_pages import image_tag, web_page

EMOJI = Path(__file__).parents[3] / "tests" / "data" / "emoji"
FOLDER = Path(".demo")
QUESTIONS = ("what color is it mostly?", "what group is it of?", "what is it?")
SHOWN, NAMES = 10, 5
HEAT_MAP = FOLDER / "heat_map.png"


class Described(NamedTuple):
    """What one framework says: a caption of each picture; of those shown, an answer to each question and a match."""

    captions: list[Caption]
    answers: list[list[Answer]]
    matches: list[Match]


def main() -> None:
    """Describe the pictures in both frameworks, print and write what is said, and exit with 1 if they differ."""
    names = {
        file: clean_caption(entry["name"]) for file, entry in json.loads((EMOJI / "names.json").read_text()).items()
    }
    pictures = put_on_white(sorted(names, key=lambda file: names[file]))
    truths = [names[path.name] for path in pictures]
    shown = np.linspace(0, len(pictures) - 1, SHOWN).astype(int).tolist()
    found = {}
    for engine, title in (("pt", "PyTorch"), ("tf", "TensorFlow")):
        begin = time.monotonic()
        found[engine] = describe(engine, pictures, truths, shown)
        print(f"{title}: {time.monotonic() - begin:.0f} s", flush=True)
    captions, answers, matches = found["pt"]
    for number, said, match in zip(shown, answers, matches, strict=True):
        show(pictures[number], words_of(captions[number], truths[number], said, match))
    right = sum(caption.text == truth for caption, truth in zip(captions, truths, strict=True))
    count = f"{right} of {len(pictures)} captions are exactly the name."
    agreement, same = compare(found["pt"], found["tf"])
    Explainer.from_pretrained()(pictures[shown[-1]], truths[shown[-1]]).draw().save(HEAT_MAP)
    cards = [
        card(pictures[number], captions[number], truths[number], said, match)
        for number, said, match in zip(shown, answers, matches, strict=True)
    ]
    summary = "".join(f"<p>{html.escape(line)}</p>" for line in (count, agreement))
    body = f"{summary}<div class='cards'>{''.join(cards)}</div><img src='{HEAT_MAP.name}' alt='A heat map'>"
    (FOLDER / "demo.html").write_text(web_page(TITLE, body, STYLE), encoding="utf-8")
    print(f"{count}\n{agreement}\nPictures: {FOLDER}/demo.html. Where it sees {truths[shown[-1]]!r}: {HEAT_MAP}")
    print(f"\nTry:  blip caption {FOLDER}/pictures/1f98a.png\n      blip search fox {FOLDER}/pictures")
    sys.exit(0 if same else 1)


def describe(engine: str, pictures: list[Path], truths: list[str], shown: list[int]) -> Described:
    """Caption all pictures; ask about those shown and match them with their own name and those of the next ones."""
    with quiet():  # TensorFlow remarks on the machine
        captioner, answerer, matcher = (kind.from_pretrained(engine=engine) for kind in (Captioner, Answerer, Matcher))
    some = [pictures[number] for number in shown]
    texts = [[truths[shown[(at + step) % SHOWN]] for step in range(NAMES)] for at in range(SHOWN)]
    return Described(
        list(captioner(pictures, batch_size=32)),
        list(answerer(some, QUESTIONS, batch_size=32)),
        [matcher(picture, names) for picture, names in zip(some, texts, strict=True)],
    )


def compare(first: Described, second: Described) -> tuple[str, bool]:
    """A sentence on how far two frameworks agree, and whether they do."""
    words = [
        [one.text for one in found.captions] + [one.text for row in found.answers for one in row]
        for found in (first, second)
    ]
    difference = max(np.abs(a.itm - b.itm).max() for a, b in zip(first.matches, second.matches, strict=True))
    same = words[0] == words[1]
    verdict = "yes" if same else "NO"
    sentence = f"The same words in both frameworks: {verdict}. Probabilities differ by {difference:.1e} at most."
    return sentence, bool(same and difference < 1e-4)


def words_of(caption: Caption, truth: str, answers: list[Answer], match: Match) -> list[str]:
    """What is said of one picture, in lines for a terminal."""
    verdict = "right" if caption.text == truth else f"its name: {truth}"
    lines = [f"{caption.text}   {caption.confidence:.0%} sure; {verdict}"]
    lines.append(", ".join(f"{one.question} {one.text}" for one in answers[:2]))
    lines.append(f"{answers[2].question} {answers[2].text}")
    return lines + [f"{bar(row['itm'])} {row['itm']:4.0%}  {row['text']}" for row in match.rows()]


def bar(probability: float, width: int = 10) -> str:
    """A probability as a bar of characters."""
    return ("█" * round(probability * width)).ljust(width, "·")


def card(path: Path, caption: Caption, truth: str, answers: list[Answer], match: Match) -> str:
    """What is said of one picture, for the page."""
    right = "right" if caption.text == truth else f"its name: {html.escape(truth)}"
    asked = "".join(f"<p>{html.escape(one.question)} <b>{html.escape(one.text or '')}</b></p>" for one in answers)
    bars = "".join(
        f"<tr><td>{html.escape(row['text'])}<td><meter value='{row['itm']:.4f}'></meter><td>{row['itm']:.0%}"
        for row in match.rows()
    )
    said = html.escape(caption.text or "")
    return (
        f"<figure>{image_tag(lambda: Image.open(path), path.name)}<figcaption><h2>{said}</h2>"
        f"<p class='pale'>{caption.confidence:.0%} sure; {right}</p>{asked}<table>{bars}</table></figcaption></figure>"
    )


def put_on_white(files: list[str]) -> list[Path]:
    """Copy the emoji without their transparency, and return the paths."""
    (FOLDER / "pictures").mkdir(parents=True, exist_ok=True)
    for file in files:
        picture = Image.open(EMOJI / file).convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        Image.alpha_composite(ground, picture).convert("RGB").save(FOLDER / "pictures" / file)
    return [FOLDER / "pictures" / file for file in files]


def show(path: Path, lines: list[str]) -> None:
    """Print what was found of a picture; on terminals of many colors with the picture."""
    if not (sys.stdout.isatty() and os.environ.get("COLORTERM") in ("truecolor", "24bit")):
        print("\n  ".join([str(path), *lines]))
        return
    pixels = Image.open(path).convert("RGB").resize((18, 18), Image.Resampling.BOX).load()
    for row in range(9):  # a half block shows two pixels: one as its own color, one as what is behind it
        cells = ((*pixels[x, 2 * row], *pixels[x, 2 * row + 1]) for x in range(18))
        picture = "".join("\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*cell) for cell in cells)
        print(f"{picture}\x1b[0m  {[str(path), *lines][row]}")
    print()


TITLE = "What the model in the package says of drawings that it has never seen"
STYLE = """
.cards { grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)) } figure { display: flex; gap: 12px }
figure > img { width: 88px; height: 88px } figcaption { min-width: 0 } h2, figcaption p { margin: 2px 0 }
td { padding: 0 8px 0 0; font-size: 13px } meter { width: 80px } body > img { max-width: 100% }
"""


if __name__ == "__main__":
    main()
