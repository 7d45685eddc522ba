"""Captions of pictures: batch by batch, or into a folder of shards that several processes or Ray may fill."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.cli.backend import Backend, for_workers
from blip_core.cli.report import Report, say_missing
from blip_core.cli.targets import Entry
from blip_core.files import read_lines, write_lines
from blip_core.generation.prompts import prompt_tokens
from blip_core.inference.identity import identity
from blip_core.jobs.read_ahead import in_one_line, read_batches
from blip_core.jobs.sharding import (
    SHARD_SIZE,
    OnRay,
    Shard,
    Share,
    Work,
    begin_run,
    check_worker,
    clean,
    cut,
    work_through,
    writing,
)

RUN = "caption.json"
FACTS = (
    "prompt",
    "beams",
    "min_tokens",
    "max_tokens",
    "no_repeat_ngram",
    "sample",
    "top_p",
    "top_k",
    "num_captions",
    "repetition_penalty",
    "length_penalty",
    "bad_words",
    "temperature",
    "seed",
    "prefix",
    "suffix",
    "scores",
)
"""The arguments that captions in a folder follow from, beside the pictures and the model."""


class Captioner:
    """A model that says what pictures show, as the arguments say."""

    def __init__(self, args: argparse.Namespace, options: dict[str, Any]):
        self.args, self.options = args, options
        self.backend = Backend("BlipForConditionalGeneration", args)

    def __call__(self, paths: Sequence[str]) -> Iterator[list[Entry]]:
        """An entry for each picture, batch by batch; it has `error` where the picture cannot be read."""
        for batch in read_batches(paths, self.args.batch_size, self.backend.read_picture):
            texts = self._write([picture for _, picture in batch if not isinstance(picture, Exception)])
            yield [
                {"image": path, **({"error": in_one_line(picture)} if isinstance(picture, Exception) else next(texts))}
                for path, picture in batch
            ]

    def _write(self, pictures: Sequence[np.ndarray]) -> Iterator[Entry]:
        if pictures:
            args, backend = self.args, self.backend
            given = args.prompt is not None
            prompt = {"prompt_ids": prompt_tokens(args.prompt, backend.processor)} if given else {}
            pixels = backend.tensor(np.stack(pictures))
            tokenizer, options = backend.processor.tokenizer, self.options
            if args.bad_words:
                options = options | {"bad_words_ids": [tokenizer(word).input_ids[1:-1] for word in args.bad_words]}
            output = backend.model.generate(pixel_values=pixels, **prompt, **options, seed=args.seed)
            found, count = backend.texts(output, whole=given), self.options["num_return_sequences"]
            for i in range(0, len(found), count):
                captions = [args.prefix + text + args.suffix for text, _ in found[i : i + count]]
                several = {"captions": captions} if count > 1 else {}
                yield {"caption": captions[0], **several, **(found[i][1] if args.scores else {})}


def tell(entry: Entry, report: Report) -> None:
    """Report what became of a picture."""
    if "error" in entry:
        report.problem(entry["image"], entry["error"])
    else:
        confidence = f" ({entry['confidence']:.3f})" if "confidence" in entry else ""
        captions = entry.get("captions", [entry["caption"]])
        report.result(entry, *(f"{entry['image']}: {caption}{confidence}" for caption in captions))
        report.finished()


def fill_folder(
    pictures: list[str], args: argparse.Namespace, options: dict[str, Any], how: OnRay | None, report: Report
) -> None:
    """Caption this process's share of the shards into the folder `args.output`, and report all of that share."""
    paths, folder = [os.path.abspath(path) for path in pictures], Path(args.output).absolute()
    args = for_workers(args)
    captioner = Captioner(args, options)
    model = identity(captioner.backend.model, captioner.backend.processor)
    size = args.shard_size or SHARD_SIZE
    facts = {name: getattr(args, name) for name in FACTS} | {"model": model, "shard_size": size, "pictures": len(paths)}
    digest = hashlib.blake2b(os.fsencode("\0".join(paths)), digest_size=16)
    begin_run(folder, RUN, {**facts, "input": digest.hexdigest()})
    shards = cut(paths, size)
    mine = (args.shards or Share()).take(shards)
    todo = [shard for shard in mine if not shard_file(folder, shard).exists()]
    start: Callable[[], Work[Shard[str]]] = partial(partial, write_shard, captioner, folder)
    if how:
        start = partial(start_elsewhere, args, options, folder, model)
        del captioner  # the workers need the memory
    with report.progress(sum(len(shard.items) for shard in todo)):
        for count in work_through(todo, start, how):
            report.step(count)
    new = {shard.name for shard in todo}
    for shard in mine:
        for entry in read_lines(shard_file(folder, shard)):
            if shard.name in new or "error" in entry:
                tell(entry, report)
            else:
                report.skipped += 1
    say_missing(missing := sum(not shard_file(folder, shard).exists() for shard in shards))
    if not missing:
        clean(folder)


def start_elsewhere(args: argparse.Namespace, options: dict[str, Any], folder: Path, model: str) -> Work[Shard[str]]:
    """Begin in a process of its own, with a model that must be that of the run."""
    captioner = Captioner(args, options)
    check_worker(identity(captioner.backend.model, captioner.backend.processor), model)
    return partial(write_shard, captioner, folder)


def write_shard(captioner: Captioner, folder: Path, shard: Shard[str]) -> Iterator[int]:
    """Caption a shard that is not there; yields how many more pictures are done."""
    path = shard_file(folder, shard)
    if not path.exists():
        found: list[Entry] = []
        for entries in captioner(shard.items):
            found += entries
            yield len(entries)
        with writing(folder):
            write_lines(path, found)


def shard_file(folder: Path, shard: Shard[str]) -> Path:
    """The file of a shard's captions, which is whole or absent."""
    return folder / f"{shard.name}.jsonl"
