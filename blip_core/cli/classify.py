"""`blip classify`: pictures -> which of some labels they show."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from blip_core.cli.arguments import add_model_arguments, add_result_arguments, whole
from blip_core.cli.backend import Backend
from blip_core.cli.find_pictures import find_pictures
from blip_core.cli.lists import read_list, told_apart
from blip_core.cli.parser import CommandParser
from blip_core.cli.report import Report
from blip_core.inference.answer_tries import probabilities
from blip_core.inference.labels import TEMPLATE, label_texts
from blip_core.jobs.read_ahead import read_batches


def add_arguments(parser: CommandParser) -> None:
    """Describe the command and add its arguments."""
    parser.describe(
        "IMAGE... --labels FILE [options]",
        "Say which of some labels pictures show, with the probability of each label among all of them.",
        'blip classify photos/ --labels animals.txt --template "a photo of a {}"',
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, 'patterns*.jpg', or - for a list on stdin"
    )
    parser.add_argument("--labels", required=True, metavar="FILE", help="one label per line (- for standard input)")
    parser.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help=f'what a label is put into, such as "a photo of a {{}}"; several are averaged ("{TEMPLATE}")',
    )
    parser.add_argument("--top", type=whole(1), default=5, metavar="K", help="the K best labels of each picture (5)")
    parser.add_argument("--itm", action="store_true", help="order these K by the matching head; better, but slower")
    add_result_arguments(parser, batch="pictures (and labels)")
    add_model_arguments(parser)


def run(args: argparse.Namespace, parser: CommandParser) -> int:
    """Classify pictures; returns the exit code."""
    if args.labels == "-" and "-" in args.images:
        parser.error("argument --labels: standard input cannot be the pictures' list, too")
    templates = args.template or [TEMPLATE]
    try:
        label_texts(["a"], templates)
    except ValueError as error:
        parser.error(f"argument --template: {error}")
    labels = read_list("--labels", args.labels)
    report = Report(args.json)
    pictures, problems = find_pictures(args.images, args.recursive)
    with report.progress(len(pictures)):
        for argument, problem in problems.items():
            report.problem(argument, problem)
        if not pictures:
            return report.exit_code()
        classifier = Classifier(Backend("BlipForImageTextRetrieval", args), labels, templates, args.batch_size)
        for batch in read_batches(pictures, args.batch_size, classifier.backend.read_picture):
            good = {path: picture for path, picture in batch if not isinstance(picture, Exception)}
            found = dict(zip(good, classifier(list(good.values()), args.top, args.itm), strict=True)) if good else {}
            for path, picture in batch:
                if isinstance(picture, Exception):
                    report.problem(path, picture)
                    continue
                entries = found[path]
                lines = (f"{path}: {entry['label']} ({shown(entry)})" for entry in entries)
                report.result({"image": path, "label": entries[0]["label"], "labels": entries}, *lines)
                report.finished()
    return report.exit_code()


def shown(entry: dict[str, Any]) -> str:
    """The numbers of a label, for a line of text."""
    return f"itm {entry['itm']:.3f}, {entry['probability']:.3f}" if "itm" in entry else f"{entry['probability']:.3f}"


class Classifier:
    """Labels in templates, of which a model's text features are computed once, `size` labels at a time."""

    def __init__(self, backend: Backend, labels: list[str], templates: list[str], size: int):
        self.backend, self.templates, self.size = backend, templates, size
        self.labels = told_apart(labels, backend.processor)
        features = [
            self.backend.engine.to_numpy(
                backend.model.get_label_features(**self.tokens(part), templates=len(templates))
            )
            for part in self.parts(self.labels)
        ]
        self.features = backend.tensor(np.concatenate(features))

    def parts(self, labels: list[str]) -> list[list[str]]:
        """The labels in parts of `size`."""
        return [labels[i : i + self.size] for i in range(0, len(labels), self.size)]

    def tokens(self, labels: list[str]) -> dict[str, Any]:
        """The tokens of these labels in all templates."""
        return self.backend.tokens(label_texts(labels, self.templates))

    def __call__(self, pictures: list[np.ndarray], top: int, itm: bool) -> Iterator[list[dict[str, Any]]]:
        """Give for each picture its `top` likeliest labels, best first, with their numbers."""
        model = self.backend.model
        embeds = model.vision_model(self.backend.tensor(np.stack(pictures))).last_hidden_state  # (B, T, width)
        found = self.backend.engine.to_numpy(model.classify(image_embeds=embeds, label_features=self.features))
        for i, row in enumerate(found):
            best = np.argsort(-row, kind="stable")[:top]
            entries = [{"label": self.labels[label], "probability": float(row[label])} for label in best]
            if itm:
                matching = self.matching(embeds[i : i + 1], [self.labels[label] for label in best])
                entries = [entry | {"itm": score} for entry, score in zip(entries, matching, strict=True)]
                entries.sort(key=lambda entry: -entry["itm"])
            yield entries

    def matching(self, embeds: Any, labels: list[str]) -> list[float]:
        """The probability that a picture and each of these labels match, the mean over the templates."""
        scores: list[float] = []
        for part in self.parts(labels):
            logits = self.backend.engine.to_numpy(
                self.backend.model(image_embeds=embeds, **self.tokens(part)).itm_score
            )
            scores += probabilities(logits)[:, 1].reshape(len(part), -1).mean(axis=1).tolist()
        return scores
