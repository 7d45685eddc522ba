"""Make docs/gallery.md with its pictures: what every part of the package gives for drawings in the repository.

    python -m docs.examples.gallery_page

Nothing is chosen by how well it comes out: the drawings are every twelfth of tests/data/emoji, in the order of
their files, and the words are their names there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw

from blip_core import Captioner, Explainer, Matcher, Searcher
from blip_core.capfilt import CapFilter, Captioning, capfilt
from blip_core.datasets import clean_caption, open_dataset
from blip_core.hub import SHIPPED
from blip_core.training import train
from conversion import check_parity
from docs.examples.gallery import EMOJI

DOCS = Path(__file__).parents[1]
FOLDER = DOCS / "site" / "gallery"
STEP, EPOCHS, CHART, MARGIN = 12, 10, (640, 240), 40


def main() -> None:
    """Ask all parts, and write the page."""
    names = {
        file: clean_caption(entry["name"]) for file, entry in json.loads((EMOJI / "names.json").read_text()).items()
    }
    names = {file: names[file] for file in sorted(names)[::STEP]}
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for file in names:
        shutil.copy(EMOJI / file, FOLDER)
    with TemporaryDirectory() as place:
        parts = [
            "# Gallery\n\nWhat the [small model in the package](shipped.md) gives for drawings of a style that it has "
            "never seen. They are every twelfth of those in the repository, so that some of it is wrong. The drawings "
            "are Noto Emoji's (Copyright Google, Apache License 2.0). `python -m docs.examples.gallery_page` makes "
            "the page.",
            captions(names), heat_maps(names), found(names, Path(place)), kept(names, Path(place)),
            parity(names), learned(names, Path(place)),
        ]  # fmt: skip
    (DOCS / "gallery.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"Wrote {DOCS / 'gallery.md'}.")


def table(*rows: tuple[str, ...]) -> str:
    """A table, whose first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + "--- | " * len(rows[0]), *lines[1:]])


def shown(file: str, name: str) -> str:
    return f"![{name}](site/gallery/{file})"


def captions(names: dict[str, str]) -> str:
    """A caption of each drawing, with how sure the model is."""
    said = Captioner.from_pretrained()([EMOJI / file for file in names])
    rows = [
        (shown(file, name), one.text, f"{one.confidence:.0%}", name)
        for (file, name), one in zip(names.items(), said, strict=True)
    ]
    return "## Captions\n\n" + table(("Drawing", "Caption", "Confidence", "Its name"), *rows)


def heat_maps(names: dict[str, str]) -> str:
    """Where the matching model finds each word of a drawing's name."""
    explainer, parts = Explainer.from_pretrained(), ["## Heat maps of words"]
    several = [(file, name) for file, name in names.items() if " " in name]
    for file, name in several[:3]:
        explainer(EMOJI / file, name).draw().quantize(128).save(FOLDER / f"map-{file}", optimize=True)
        parts.append(shown(f"map-{file}", f"Heat maps of {name}"))
    return "\n\n".join(parts)


def found(names: dict[str, str], place: Path) -> str:
    """The best hits of a search among all drawings."""
    rows = []
    with Searcher.from_pretrained(folder=EMOJI, index=place / "index") as searcher:
        for text, hits in zip(names.values(), searcher(list(names.values()), top=3), strict=True):
            for hit in hits:
                shutil.copy(EMOJI / hit.name, FOLDER)
            rows.append((text, *(f"{shown(hit.name, hit.name)} {hit.itm:.0%}" for hit in hits)))
    return "## Search\n\nThe best three of 96 drawings, with the probability of a match.\n\n" + table(
        ("Words", "First", "Second", "Third"), *rows
    )


def kept(names: dict[str, str], place: Path) -> str:
    """What CapFilt keeps and drops where every second caption is that of the next drawing."""
    files, right = list(names), list(names.values())
    web = [right[(number + number % 2) % len(right)] for number in range(len(right))]
    lines = [json.dumps({"image": str(EMOJI / file), "caption": text}) for file, text in zip(files, web, strict=True)]
    (place / "web.jsonl").write_text("\n".join(lines))
    models = CapFilter(Captioner.from_pretrained(), Matcher.from_pretrained(), Captioning(beams=3, prompt=""))
    capfilt(open_dataset(str(place / "web.jsonl"), "caption"), models, place / "boot")
    rows = []
    for part in ("kept", "dropped"):
        for line in (place / "boot" / part / "00000.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            file = Path(entry["image"]).name
            several = part == "kept"
            texts, sources, scores = (
                [entry[key]] if not several else entry[key] for key in ("caption", "source", "score")
            )
            rows += [
                (shown(file, file), text, source, f"{score:.3f}", "kept" if several else f"dropped: {entry['reason']}")
                for text, source, score in zip(texts, sources, scores, strict=True)
            ]
    return "## CapFilt\n\nEvery second caption of the web was made wrong before.\n\n" + table(
        ("Drawing", "Caption", "From", "Match", "Verdict"), *rows
    )


def parity(names: dict[str, str]) -> str:
    """How far PyTorch and TensorFlow are apart, by kind of stage."""
    file, name = next(iter(names.items()))
    report = check_parity(SHIPPED, [EMOJI / file], [name], head="BlipForConditionalGeneration")
    kinds: dict[str, list[float]] = {}
    for row in report.rows:
        kinds.setdefault(row.kind, []).append(row.relative or 0.0)
    rows = [(kind, str(len(values)), f"{max(values):.1e}") for kind, values in kinds.items()]
    verdict = "All stages agree." if report.passed else "Some stages differ."
    return f"## Parity\n\nThe captioner in PyTorch and in TensorFlow, on one drawing. {verdict}\n\n" + table(
        ("Kind of stage", "Stages", "Largest relative difference"), *rows
    )


def learned(names: dict[str, str], place: Path) -> str:
    """The loss of a short fine-tuning on these drawings."""
    own = place / "own"
    own.mkdir()
    for file, name in names.items():
        shutil.copy(EMOJI / file, own)
        (own / file).with_suffix(".txt").write_text(f"our {name}")
    train("caption", own, SHIPPED, place / "mine", engine="pt", epochs=EPOCHS, batch_size=4, learning_rate=3e-4,
          prompt="", workers=0, log_every=1)  # fmt: skip
    log = [json.loads(line) for line in (place / "mine" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [entry["loss"] for entry in log if "learning_rate" in entry]
    draw_curve(losses).save(FOLDER / "training.png", optimize=True)
    return (
        f"## A training curve\n\nThe loss of {len(losses)} steps on {len(names)} drawings whose captions begin with "
        f"“our”.\n\n{shown('training.png', f'The loss falls from {losses[0]:.1f} to {losses[-1]:.1f}')}"
    )


def draw_curve(values: list[float]) -> Image.Image:
    """A line chart of values by their number."""
    sheet = Image.new("RGB", CHART, "white")
    pen = ImageDraw.Draw(sheet)
    width, height = CHART[0] - 2 * MARGIN, CHART[1] - 2 * MARGIN
    top = max(values)
    points = [
        (MARGIN + width * number / max(len(values) - 1, 1), CHART[1] - MARGIN - height * value / top)
        for number, value in enumerate(values)
    ]
    pen.line([(MARGIN, MARGIN), (MARGIN, CHART[1] - MARGIN), (CHART[0] - MARGIN, CHART[1] - MARGIN)], "gray")
    pen.line(points, "teal", 2)
    pen.text((4, MARGIN), f"{top:.1f}", "gray")
    pen.text((4, CHART[1] - MARGIN - 6), "0", "gray")
    pen.text((CHART[0] // 2, CHART[1] - MARGIN + 8), f"{len(values)} steps", "gray")
    return sheet


if __name__ == "__main__":
    main()
