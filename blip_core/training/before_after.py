"""What a model said of some pictures before it was trained, and what it says after, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from blip_core.datasets import Dataset, Example, clean_caption
from blip_core.files import read_json, write_json
from blip_core.training.settings import Settings
from blip_core.training.start import Start

BEFORE = "before.json"
SHOWN, TOLD = 20, 8
"""How many examples are asked about and on the page, and how many of them on the terminal."""
LEARNED = 0.98
"""The share of the first loss below which something was learned."""


@dataclass(frozen=True)
class Said:
    """What a model said of an example before and after; None where it could not be asked."""

    example: Example
    truths: tuple[str, ...]
    before: str | None
    after: str | None

    def right(self, said: str | None) -> bool:
        """Tell whether that is what the data say, but for capitals and punctuation."""
        return said is not None and clean_caption(said) in map(clean_caption, self.truths)


class BeforeAfter:
    """Asks a model about the first pictures of a data set before training, and again after it.

    What it said before is kept in the output folder, so that a run that goes on still knows it.
    """

    def __init__(self, start: Start, settings: Settings, dataset: Dataset, folder: Path):
        self.start, self.settings, self.folder = start, settings, folder
        self.examples = Dataset(dataset.task, list(islice(dataset, SHOWN)))

    def ask_before(self, model: Any) -> None:
        """Ask the model that the run begins with."""
        write_json(self.folder / BEFORE, self._ask(model))

    def ask_after(self, model: Any) -> list[Said]:
        """Ask the model that was trained, and return both answers of each example."""
        path, after, found = self.folder / BEFORE, self._ask(model), []
        before = read_json(path) if path.exists() else {}
        for example in self.examples if after else ():
            truth = getattr(example, self.start.task.target[0])
            truths = truth if isinstance(truth, tuple) else (str(truth),)
            found.append(Said(example, truths, before.get(example.key), after.get(example.key)))
        return found

    def _ask(self, model: Any) -> dict[str, str]:
        """What the model says of each example, by its key."""
        task, settings = self.start.task, self.settings
        if task.evaluate is None or not task.said or not len(self.examples):
            return {}
        common = {"batch_size": settings.batch_size, "background": settings.background}
        found = task.evaluate(model, self.start.processor, self.examples, **common)
        return {entry["example"]: _first(entry[task.said]) for entry in found.entries if "example" in entry}


def tell(said: Sequence[Said], first: float | None, best: float | None) -> list[str]:
    """Say what changed, in lines.

    Args:
        said: What the model said before and says now.
        first: The loss of the measured examples before the first step, None where it was not measured.
        best: The loss of the model that stays.
    """
    lines = []
    for one in said[:TOLD]:
        end = "right" if one.right(one.after) else f"the truth is {_quoted(one.truths[:3])}"
        lines.append(f"{one.example.images[0].name}: before {one.before!r}, now {one.after!r}; {end}")
    if said:
        before, now = (sum(one.right(text) for one, text in zip(said, texts, strict=True)) for texts in _columns(said))
        lines.append(f"of {len(said)} examples it said {before} rightly before, and says {now} rightly now")
    if first is not None and best is not None:
        if best > LEARNED * first:
            lines.append(
                f"NOTHING WAS LEARNED: the loss was {first:.4g} before, and {best:.4g} is the best since; look whether "
                "the texts belong to the pictures (blip data check), then try another --learning-rate"
            )
        else:
            lines.append(f"the loss fell from {first:.4g} to {best:.4g}")
    return lines


def _columns(said: Sequence[Said]) -> tuple[list[str | None], list[str | None]]:
    return [one.before for one in said], [one.after for one in said]


def _quoted(texts: Sequence[str]) -> str:
    return " or ".join(map(repr, texts))


def _first(said: Any) -> str:
    return str((said or [""])[0] if isinstance(said, list) else said)
