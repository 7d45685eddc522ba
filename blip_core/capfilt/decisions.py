"""The two steps of CapFilt: score captions shard by shard, then decide what is kept once all are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from blip_core.capfilt.calibration import Thresholds
from blip_core.capfilt.cap_filter import SYNTHETIC, CapFilter, PictureRead
from blip_core.capfilt.items import Item, Line
from blip_core.capfilt.output_folder import OutputFolder
from blip_core.datasets import clean_caption
from blip_core.datasets.examples import ChangedError
from blip_core.jobs.read_ahead import in_one_line, read_batches
from blip_core.jobs.sharding import Done, Shard, check_worker

LONGEST = 10_000
"""Web texts with more characters are not taken for captions."""


class Scoring:
    """Writes captions for each picture of a shard, and scores them with the web's captions, into `folder`.

    A shard's result depends only on its pictures, the models and their settings.
    """

    def __init__(self, models: CapFilter, batch_size: int, readers: int, folder: OutputFolder | None = None):
        self.models, self.batch_size, self.readers, self.folder = models, batch_size, readers, folder

    @classmethod
    def start(
        cls,
        load: Callable[[], CapFilter],
        identity: Mapping[str, str],
        batch_size: int,
        readers: int,
        folder: OutputFolder,
    ) -> Scoring:
        """Start in a worker process; its models must equal those of the run."""
        models = load()
        check_worker(models.identity, identity)
        return cls(models, batch_size, readers, folder)

    def __call__(self, shard: Shard[Item]) -> Iterator[Done]:
        """Score a shard unless that is done; yields what was just scored."""
        if self.folder and not self.folder.has(shard.name):
            found: list[Line] = []
            features: list[np.ndarray] = []
            for lines, some in self.score(shard.items):
                found += lines
                features.append(some)
                yield Done(len(lines), sum("reason" in line for line in lines))
            features = features or [np.zeros((0, self.models.width), np.float16)]
            self.folder.write_scored(shard.name, found, np.concatenate(features))
            yield Done(0, shards=1)

    def score(self, items: Iterable[Item]) -> Iterator[tuple[list[Line], np.ndarray]]:
        """Yield, batch by batch, a line for each picture, and their features, float16 (pictures, F).

        A line has `reason` and `detail` where the picture cannot be read, else `hash`. Unless an earlier item has the
        same bytes, it also has `captions` (caption, source and score of each, synthetic ones last) and `long`, the
        web texts that are too long. Pictures that were not captioned have features of zeros.
        """
        seen: set[str] = set()
        for batch in read_batches(items, self.batch_size, lambda item: self.models.read(item.picture), self.readers):
            lines: list[Line] = []
            good: list[tuple[Line, PictureRead, list[str]]] = []
            for item, picture in batch:
                line: Line = {"image": item.picture.name, "key": item.key}
                lines.append(line)
                if isinstance(picture, ChangedError):
                    raise picture  # a changed archive: otherwise all of the shard would count as unreadable
                if isinstance(picture, Exception):
                    line |= {"reason": "unreadable", "detail": in_one_line(picture)}
                    continue
                line["hash"] = picture.digest
                if picture.digest not in seen:
                    seen.add(picture.digest)
                    line |= {"captions": [], "long": [text for text in item.texts if len(text) > LONGEST]}
                    if web := [clean_caption(text) for text in item.texts if len(text) <= LONGEST]:
                        good.append((line, picture, web))
            features = np.zeros((len(lines), self.models.width), np.float16)
            if good:
                scored, found = self.models([picture for _, picture, _ in good], [web for _, _, web in good])
                for (line, _, _), captions in zip(good, scored, strict=True):
                    line["captions"] = [asdict(caption) for caption in captions]
                features[[bool(line.get("captions")) for line in lines]] = found
            yield lines, features


def decide(
    scored: Sequence[Line],
    items: Sequence[Item],
    whole: Sequence[Item],
    firsts: np.ndarray,
    near: Mapping[int, tuple[int, float]],
    thresholds: Thresholds,
) -> tuple[list[Line], list[Line]]:
    """Return the kept and the dropped lines of some `items` of the `whole` input, in their order.

    `firsts`: picture number -> number of the first picture with the same bytes; later ones are duplicates.
    `thresholds`: the least score of each source. Of several synthetic captions the one with the highest score is kept.
    `near`: picture number -> (number of the earlier look-alike, cosine similarity).
    """
    kept: list[Line] = []
    dropped: list[Line] = []
    for line, item in zip(scored, items, strict=True):
        picture: Line = {name: line[name] for name in ("image", "key", "hash") if name in line}
        if "reason" in line:
            dropped.append(line)
        elif (first := int(firsts[item.number])) != item.number:
            dropped.append({**picture, "reason": "duplicate", "detail": f"the same picture as {whole[first].key}"})
        elif item.number in near:
            other, cosine = near[item.number]
            detail = f"looks like {whole[other].key}, cosine {cosine:.4f}"
            dropped.append({**picture, "reason": "near-duplicate", "detail": detail})
        else:
            for text in line["long"]:
                detail = f"a caption of {len(text):,} characters, more than {LONGEST:,}"
                long = {"caption": f"{text[:100]}...", "source": "web", "reason": "too long", "detail": detail}
                dropped.append({**picture, **long})
            good: list[Line] = []
            best = _best(line["captions"])
            for index, found in enumerate(line["captions"]):
                if not found["caption"]:
                    reason = "empty"
                elif any(found["caption"] == other["caption"] for other in line["captions"][:index]):
                    reason = "repeated"
                elif found["source"] == SYNTHETIC and index != best:
                    reason = "not the best"
                elif found["score"] < thresholds[found["source"]]:
                    reason = "no match"
                else:
                    good.append(found)
                    continue
                dropped.append({**picture, **found, "reason": reason})
            if good:
                kept.append(
                    {**picture, **{name: [one[name] for one in good] for name in ("caption", "source", "score")}}
                )
    return kept, dropped


def _best(captions: Sequence[Line]) -> int | None:
    """The index of the synthetic caption with the highest score, the first of several that is not said before."""
    said = [one["caption"] for one in captions]
    new = [
        index
        for index, one in enumerate(captions)
        if one["source"] == SYNTHETIC and one["caption"] and one["caption"] not in said[:index]
    ]
    return max(new, key=lambda index: (captions[index]["score"], -index), default=None)
