"""Captions of pictures: batch by batch, or into a folder of shards that several processes or Ray may fill."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from blip_core.cli.find_pictures import absolute
from blip_core.cli.load_model import for_workers, load
from blip_core.cli.report import Report, say_missing
from blip_core.cli.targets import Entry
from blip_core.files import read_lines, write_lines
from blip_core.inference import Caption, Captioner
from blip_core.jobs.sharding import (
    SHARD_SIZE,
    Done,
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
from blip_core.stores import on_disk

RUN = "caption.json"
TEXT_OPTIONS = (
    "prompt", "frames", "beams", "min_tokens", "max_tokens", "no_repeat_ngram", "repetition_penalty", "length_penalty",
    "num_captions", "bad_words", "forced_words", "sample", "top_p", "top_k", "temperature", "seed", "prefix", "suffix",
    "scores",
)  # fmt: skip
"""The arguments that captions in a folder follow from, beside the pictures and the model."""


class Writer:
    """A captioner, called as the arguments say."""

    def __init__(self, args: argparse.Namespace, options: dict[str, Any]):
        self.args, self.captioner = args, load(Captioner, args)
        self.options = options
        for name, texts in (("bad_words_ids", args.bad_words), ("force_words_ids", args.forced_words)):
            if texts:
                ids = self.captioner.processor.tokenizer(texts)["input_ids"]
                self.options = self.options | {name: [word[1:-1] for word in ids]}

    def __call__(self, paths: Sequence[str]) -> Iterator[list[Entry]]:
        """An entry for each picture, batch by batch; it has `error` where the picture cannot be read."""
        args = self.args
        found = self.captioner(
            paths, prompt=args.prompt, batch_size=args.batch_size, seed=args.seed, frames=args.frames, **self.options
        )
        while batch := list(islice(found, args.batch_size)):
            yield [{"image": caption.picture, **self._entry(caption)} for caption in batch]

    def _entry(self, caption: Caption) -> Entry:
        found = caption.to_dict()
        if "error" in found:
            return {"error": found["error"]}
        texts = [self.args.prefix + str(one.text) + self.args.suffix for one in (caption, *caption.others)]
        several = {"captions": texts} if caption.others else {}
        return {"caption": texts[0], **several, **(caption.scores() if self.args.scores else {})}


def tell(entry: Entry, report: Report) -> None:
    """Report what became of a picture."""
    if "error" in entry:
        report.problem(entry["image"], entry["error"])
        return
    confidence = f" ({entry['confidence']:.3f})" if "confidence" in entry else ""
    captions = entry.get("captions", [entry["caption"]])
    report.result(entry, *(f"{entry['image']}: {caption}{confidence}" for caption in captions))
    report.finished()


def fill_folder(
    pictures: list[str], args: argparse.Namespace, options: dict[str, Any], how: OnRay | None, report: Report
) -> None:
    """Caption this process's share of the shards into the folder `args.output`, and report all of that share."""
    paths, folder = [absolute(path) for path in pictures], on_disk(args.output).expanduser().absolute()
    args = for_workers(args)
    writer = Writer(args, options)
    model, size = writer.captioner.identity, args.shard_size or SHARD_SIZE
    facts = {name: getattr(args, name) for name in TEXT_OPTIONS}
    digest = hashlib.blake2b(os.fsencode("\0".join(paths)), digest_size=16)
    run = {"model": model, "shard_size": size, "pictures": len(paths), "input": digest.hexdigest()}
    begin_run(folder, RUN, facts | run)
    shards = cut(paths, size)
    mine = (args.shards or Share()).take(shards)
    todo = [shard for shard in mine if not shard_file(folder, shard).exists()]
    start: Callable[[], Work[Shard[str]]] = partial(partial, write_shard, writer, folder)
    if how:
        start = partial(start_elsewhere, args, options, folder, model)
        del writer  # the workers need the memory
    total, left = (sum(len(shard.items) for shard in some) for some in (mine, todo))
    with report.progress(total, "caption", folder, done=total - left, name=str(args.shards or Share())):
        for done in work_through(todo, start, how):
            report.worked(done)
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
    writer = Writer(args, options)
    check_worker(writer.captioner.identity, model)
    return partial(write_shard, writer, folder)


def write_shard(writer: Writer, folder: Path, shard: Shard[str]) -> Iterator[Done]:
    """Caption a shard that is not there; yields what was just done."""
    path = shard_file(folder, shard)
    if not path.exists():
        found: list[Entry] = []
        for entries in writer(shard.items):
            found += entries
            yield Done(len(entries), sum("error" in entry for entry in entries))
        with writing(folder):
            write_lines(path, found)


def shard_file(folder: Path, shard: Shard[str]) -> Path:
    """The file of a shard's captions, which is whole or absent."""
    return folder / f"{shard.name}.jsonl"
