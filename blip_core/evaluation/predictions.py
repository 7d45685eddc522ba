"""Evaluation of captions, of answers, of NLVR and of pairs that match or not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from blip_core.datasets import Dataset, Example
from blip_core.evaluation.common import Evaluation, Run, as_items
from blip_core.generation.scores import softmax
from blip_core.inference import Answerer, Captioner, Matcher
from blip_core.inference.loaded_model import LoadedModel, split
from blip_core.inference.pair_judge import ClassJudge, PairJudge
from blip_core.metrics import answer_accuracy, caption_scores
from blip_core.processing.processor import BlipProcessor
from blip_core.tasks import get_task

ONE_EACH = {"num_return_sequences": 1}
"""What `generate` is to return, whatever the model's own generation config says."""
PEOPLE = 10
"""How many people answer a question of VQA v2."""
COCO_NAME = re.compile(r"(?:^|_)(\d{12})\.\w+$")
"""A file of COCO, whose name ends in the number of the picture."""


def evaluate_captions(
    model: Any,
    processor: BlipProcessor,
    dataset: Dataset,
    *,
    prompt: str | None = None,
    frames: int = 1,
    matcher: Matcher | None = None,
    **options: Any,
) -> Evaluation:
    """Caption every picture and compare with its captions: `bleu_1` to `bleu_4`, `rouge_l` and `cider`.

    Examples of the same picture count as one, with all their captions. Where the data tell groups (the domains of
    NoCaps), each has its metrics, too, as if it were all.

    Args:
        model: A captioner of any engine.
        processor: Its processor.
        dataset: Opened for "caption".
        prompt: What captions begin with, which is not compared; None for the prompt that the model was trained with.
        frames: How many frames of a video are captioned together; 1 takes the one in the middle.
        matcher: Adds `itc`, the mean cosine similarity of this model's features of the pictures and of the captions
            written, as CLIPScore is of CLIP's; it needs no references.
        **options: Keywords of `Run`, and options of `generate`.

    Returns:
        The metrics, and each caption beside its references.

    Raises:
        ValueError: For a model of another head, and where nothing can be compared.
    """
    captioner, run = Captioner(model, processor), Run.split("caption", processor, dataset, options)
    options = captioner.options(prompt, keep_prompt=False, **options | ONE_EACH)
    groups = run.groups()
    keys, captions = [], []
    for batch in run.batches([group[0] for group in groups.values()], frames):
        inputs = _seen(captioner, batch.inputs["pixel_values"], run.batch_size)
        captions += [caption.text or "" for some in inputs for caption in captioner.write(some, **options)]
        keys += [example.key for example in batch.examples]
    keys, captions = run.processes.join(keys), run.processes.join(captions)
    entries: list[dict[str, Any]] = []
    for key, caption in zip(keys, captions, strict=True):
        first, texts = groups[key][0], [text for example in groups[key] for text in example.texts]
        named = {"example": key, "image": first.images[0].name, "image_id": picture_number(first)}
        entries.append(named | {"caption": caption} | ({"references": texts} if texts else {}))
    compared = [entry for entry in entries if "references" in entry]
    metrics: dict[str, float] = {}
    for group, rows in _grouped(compared, lambda entry: groups[entry["example"]][0].group):
        scores = caption_scores([row["caption"] for row in rows], [row["references"] for row in rows])
        metrics |= {f"bleu_{order}{group}": value for order, value in enumerate(scores.bleu, 1)}
        metrics |= {f"rouge_l{group}": scores.rouge_l, f"cider{group}": scores.cider}
        if not group:
            for row, cider in zip(rows, scores.ciders, strict=True):
                row["cider"] = cider
    if matcher is not None:
        similarities = _itc(run, matcher, [groups[key][0] for key in keys], captions, frames)
        for entry, itc in zip(entries, similarities, strict=True):
            entry["itc"] = itc
        metrics["itc"] = float(np.mean(similarities))
    return run.result(metrics, _counted("pictures", compared, entries), entries)


def picture_number(example: Example) -> str | int:
    """Return by what the official forms of results name a picture: its id, else COCO's number, else its file."""
    if example.image_id is not None:
        return example.image_id
    name = example.images[0].name.rpartition("/")[2]
    found = COCO_NAME.search(name)
    return int(found[1]) if found else name


def _seen(model: LoadedModel, pixels: Any, batch_size: int) -> list[dict[str, np.ndarray]]:
    """What a captioner is given at once: a batch of pictures, or one video after the other."""
    if isinstance(pixels, np.ndarray):
        return [{"pixel_values": pixels}]
    return [{"image_embeds": states} for states in model.item_states(pixels, batch_size)]


def _grouped(
    entries: list[dict[str, Any]], group_of: Callable[[dict[str, Any]], str | None]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """All entries under "", then those of each group under "_" and its name; nothing where there are no entries."""
    names = sorted({name for entry in entries if (name := group_of(entry)) is not None})
    parts = [(f"_{name}", [entry for entry in entries if group_of(entry) == name]) for name in names]
    return [("", entries), *parts] if entries else []


def _counted(name: str, compared: Sequence[Any], entries: Sequence[Any]) -> dict[str, int]:
    """How many are in the metrics, and how many are predicted only."""
    rest = len(entries) - len(compared)
    return {name: len(compared)} | ({f"{name} without labels": rest} if rest else {})


def _itc(run: Run, matcher: Matcher, firsts: list[Example], captions: list[str], frames: int) -> list[float]:
    """The cosine similarity of each picture, read again as the matcher wants it, and its caption."""
    said, task = dict(zip((first.key for first in firsts), captions, strict=True)), get_task("retrieval")
    found: list[tuple[str, float]] = []
    for batch in run.batches(firsts, frames, matcher.processor):
        keys = [example.key for example in batch.examples]
        tokens = matcher.tokens([task.clean(said[key]) for key in keys], task.max_length)
        pictures = matcher.item_features(as_items(batch.inputs["pixel_values"]), run.batch_size)
        found += zip(keys, (pictures * matcher.text_features(tokens)).sum(axis=1).tolist(), strict=True)
    values = dict(run.processes.join(found))
    return [values[first.key] for first in firsts]


def evaluate_answers(
    model: Any,
    processor: BlipProcessor,
    dataset: Dataset,
    *,
    choices: Sequence[str] | None = None,
    candidates: int = 128,
    frames: int = 1,
    **options: Any,
) -> Evaluation:
    """Answer every question and compare with the answers that people gave: `accuracy`, as in the VQA challenge.

    An answer's weight in the data is the share of ten people who gave it. Where the data tell the types of answers,
    each has its accuracy, too.

    Args:
        model: A question answerer of any engine.
        processor: Its processor.
        dataset: Opened for "vqa".
        choices: Answers of which the best is chosen (`rank_answers`); None generates the answer.
        candidates: How many choices, those with the likeliest first token, are ranked.
        frames: How many frames of a video a question is about; 1 takes the one in the middle.
        **options: Keywords of `Run`, and without choices options of `generate`.

    Returns:
        The accuracy, and each answer beside those of people.

    Raises:
        ValueError: For a model of another head, an empty list of choices, and where nothing can be compared.
    """
    answerer, task = Answerer(model, processor), get_task("vqa")
    run = Run.split("vqa", processor, dataset, options)
    if choices is not None:
        if not choices:
            raise ValueError("The list of choices is empty; give the answers to choose from, or generate them.")
        if options:
            raise ValueError(f"{', '.join(options)}: of no use where answers are chosen from a list.")
        listed = answerer.tokens(choices)

    def answer(states: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        questions = [task.clean(example.texts[0]) for example in examples]
        tokens = answerer.tokens(questions, task.max_length)
        if choices is not None:
            answers = [choices[index].strip() for index in answerer.rank(states, tokens, listed, candidates)]
        else:
            written = answerer.write(states, questions, tokens, **options | ONE_EACH)
            answers = [answer.text or "" for answer in written]
        return [_answer_entry(example, answer) for example, answer in zip(examples, answers, strict=True)]

    groups = run.groups()
    entries: list[dict[str, Any]] = []
    for batch in run.batches([group[0] for group in groups.values()], frames):
        pixels = batch.inputs["pixel_values"]
        if isinstance(pixels, np.ndarray):
            states = answerer.encode(pixels)
            asked = [(row, example) for row, first in enumerate(batch.examples) for example in groups[first.key]]
            for part in split(asked, run.batch_size):
                rows, examples = zip(*part, strict=True)
                entries += answer(states[list(rows)], examples)
        else:  # videos may differ in length, so that each is asked about by itself
            for first, video in zip(batch.examples, answerer.item_states(pixels, run.batch_size), strict=True):
                for part in split(groups[first.key], run.batch_size):
                    entries += answer(video, part)
    entries = run.processes.join(entries)
    kinds = {example.key: example.group for group in groups.values() for example in group}
    compared = [entry for entry in entries if "accuracy" in entry]
    metrics = {
        f"accuracy{kind}": float(np.mean([entry["accuracy"] for entry in rows]))
        for kind, rows in _grouped(compared, lambda entry: kinds[entry["example"]])
    }
    return run.result(metrics, _counted("questions", compared, entries), entries)


def _answer_entry(example: Example, answer: str) -> dict[str, Any]:
    counts = [PEOPLE * weight / sum(example.weights) for weight in example.weights]
    entry = {
        "example": example.key,
        "question_id": example.question_id,
        "image": example.images[0].name,
        "question": example.texts[0],
        "answer": answer,
    }
    if not counts:
        return entry
    accuracy = answer_accuracy(answer, example.answers, counts)
    return entry | {"accuracy": accuracy, "answers": dict(zip(example.answers, counts, strict=True))}


def evaluate_nlvr(model: Any, processor: BlipProcessor, dataset: Dataset, **common: Any) -> Evaluation:
    """Judge every sentence about two pictures and compare with its label: `accuracy`.

    Args:
        model: An NLVR model of any engine.
        processor: Its processor.
        dataset: Opened for "nlvr".
        **common: Keywords of `Run`.

    Returns:
        The accuracy, and each sentence with its label and the judgement.

    Raises:
        ValueError: For a model of another head, and where nothing can be compared.
    """
    judge = PairJudge(model, processor)
    return _judged(Run("nlvr", processor, dataset, **common), "sentence", judge)


def evaluate_matches(model: Any, processor: BlipProcessor, dataset: Dataset, **common: Any) -> Evaluation:
    """Say of every pair whether picture and caption match (ITM), and compare with its label: `accuracy`.

    Args:
        model: A matching model of any engine.
        processor: Its processor.
        dataset: Opened for "match".
        **common: Keywords of `Run`.

    Returns:
        The accuracy, and each pair with its label and the judgement.

    Raises:
        ValueError: For a model of another head, and where nothing can be compared.
    """
    matcher = Matcher(model, processor)

    def judge(pixels: np.ndarray, tokens: dict[str, np.ndarray]) -> np.ndarray:
        return softmax(matcher.match(matcher.encode(pixels), tokens))[:, 1]

    return _judged(Run("match", processor, dataset, **common), "caption", judge)


def evaluate_classes(model: Any, processor: BlipProcessor, dataset: Dataset, **common: Any) -> Evaluation:
    """Sort every sentence with its picture into a class and compare with its label: `accuracy`.

    Args:
        model: A classification model of any engine.
        processor: Its processor.
        dataset: Opened for "classification".
        **common: Keywords of `Run`.

    Returns:
        The accuracy, and each sentence with its label and the class that the model says.

    Raises:
        ValueError: For a model of another head, and where nothing can be compared.
    """
    judge = ClassJudge(model, processor)
    return _judged(Run("classification", processor, dataset, **common), "sentence", judge)


def _judged(run: Run, word: str, judge: Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]) -> Evaluation:
    """Evaluate what gives the probability that each text, an entry's `word`, is true of its pictures, or of classes."""
    entries: list[dict[str, Any]] = []
    for batch in run.batches(run.examples):
        tokens = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        for example, probability in zip(
            batch.examples, judge(batch.inputs["pixel_values"], tokens).tolist(), strict=True
        ):
            names = [picture.name for picture in example.images]
            entry: dict[str, Any] = {"example": example.key}
            entry |= {"images": names} if len(names) > 1 else {"image": names[0]}
            said = int(np.argmax(probability)) if isinstance(probability, list) else int(probability > 0.5)
            entry |= {word: example.texts[0], "label": example.label, "judged": said}
            entries.append(entry | {"probability": probability})  # that it is true, or of each class
    entries = run.processes.join(entries)
    compared = [entry for entry in entries if entry["label"] is not None]
    right = [entry["judged"] == entry["label"] for entry in compared]
    metrics = {"accuracy": float(np.mean(right))} if right else {}
    return run.result(metrics, _counted(f"{word}s", compared, entries), entries)
