"""Evaluation of captions, of answers and of NLVR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_core.datasets import Dataset, Example
from blip_core.evaluation.common import (
    ALONE,
    Evaluation,
    Processes,
    Progress,
    by_picture,
    complete,
    read_pictures,
)
from blip_core.inference import Answerer, Captioner
from blip_core.inference.pair_judge import PairJudge
from blip_core.metrics import answer_accuracy, caption_scores
from blip_core.processing.processor import BlipProcessor
from blip_core.tasks import get_task

ONE_EACH = {"num_return_sequences": 1}
"""What `generate` is to return, whatever the model's own generation config says."""
PEOPLE = 10
"""How many people answer a question of VQA v2."""


def evaluate_captions(
    model: Any,
    processor: BlipProcessor,
    dataset: Dataset,
    *,
    prompt: str | None = None,
    batch_size: int = 8,
    background: str | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
    **options: Any,
) -> Evaluation:
    """Caption every picture and compare with its captions: `bleu_1` to `bleu_4` and `cider`.

    Examples of the same picture are one, with all their captions. `prompt` is what captions begin with, unless given
    the prompt that the model was trained with; it is no part of what is compared. `options` are those of `generate`,
    `background` is that of `Batches`; `processes` are those that evaluate together, each of which gets the whole
    result.
    Raises `ValueError` for a model of another head, and where nothing can be compared.
    """
    captioner = Captioner(model, processor)
    how = captioner.options(prompt, keep_prompt=False, **options | ONE_EACH)
    problems = list(dataset.problems)
    groups = {group[0].key: group for group in by_picture(complete(dataset, "caption", problems))}
    firsts = [group[0] for group in groups.values()]
    keys, captions = [], []
    for batch in read_pictures(firsts, processor, "caption", batch_size, background, problems, progress, processes):
        written = captioner.write({"pixel_values": batch.inputs["pixel_values"]}, **how)
        keys += [example.key for example in batch.examples]
        captions += [caption.text or "" for caption in written]
    keys, captions = processes.join(keys), processes.join(captions)
    references = [[text for example in groups[key] for text in example.texts] for key in keys]
    scores = caption_scores(captions, references)
    metrics = {f"bleu_{order}": value for order, value in enumerate(scores.bleu, 1)} | {"cider": scores.cider}
    entries = [
        {
            "example": key,
            "image": groups[key][0].images[0].name,
            "caption": caption,
            "cider": cider,
            "references": texts,
        }
        for key, caption, cider, texts in zip(keys, captions, scores.ciders, references, strict=True)
    ]
    return Evaluation("caption", metrics, {"pictures": len(entries)}, entries, problems)


def evaluate_answers(
    model: Any,
    processor: BlipProcessor,
    dataset: Dataset,
    *,
    choices: Sequence[str] | None = None,
    candidates: int = 128,
    batch_size: int = 8,
    background: str | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
    **options: Any,
) -> Evaluation:
    """Answer every question and compare with the answers that people gave: `accuracy`, as in the VQA challenge.

    With `choices` the best of them is the answer, found among the `candidates` with the likeliest first token
    (`rank_answers`); otherwise it is generated, for which `options` are those of `generate`. An answer's weight in the
    data is the share of ten people who gave it. `processes` are those that evaluate together, each of which gets the
    whole result.
    Raises `ValueError` for a model of another head, for choices without any, and where nothing can be compared.
    """
    answerer, task = Answerer(model, processor), get_task("vqa")
    if choices is not None:
        if not choices:
            raise ValueError("The list of choices is empty; give the answers to choose from, or generate them.")
        if options:  # of `generate`
            raise ValueError(f"{', '.join(options)}: of no use where answers are chosen from a list.")
        listed = answerer.tokens(choices)
    problems = list(dataset.problems)
    groups = {group[0].key: group for group in by_picture(complete(dataset, "vqa", problems))}
    firsts = [group[0] for group in groups.values()]
    entries: list[dict[str, Any]] = []
    for batch in read_pictures(firsts, processor, "vqa", batch_size, background, problems, progress, processes):
        states = answerer.encode(batch.inputs["pixel_values"])
        asked = [(row, example) for row, first in enumerate(batch.examples) for example in groups[first.key]]
        for at in range(0, len(asked), batch_size):
            rows, examples = zip(*asked[at : at + batch_size], strict=True)
            questions = [task.clean(example.texts[0]) for example in examples]
            tokens, embeds = answerer.tokens(questions, task.max_length), states[list(rows)]
            if choices is not None:
                found = [choices[number].strip() for number in answerer.rank(embeds, tokens, listed, candidates)]
            else:
                written = answerer.write(embeds, questions, tokens, **options | ONE_EACH)
                found = [answer.text or "" for answer in written]
            entries += [_answered(example, answer) for example, answer in zip(examples, found, strict=True)]
    entries = processes.join(entries)
    accuracy = float(np.mean([entry["accuracy"] for entry in entries]))
    return Evaluation("vqa", {"accuracy": accuracy}, {"questions": len(entries)}, entries, problems)


def _answered(example: Example, answer: str) -> dict[str, Any]:
    counts = [PEOPLE * weight / sum(example.weights) for weight in example.weights]
    return {
        "example": example.key,
        "question_id": example.question_id,
        "image": example.images[0].name,
        "question": example.texts[0],
        "answer": answer,
        "accuracy": answer_accuracy(answer, example.answers, counts),
        "answers": dict(zip(example.answers, counts, strict=True)),
    }


def evaluate_nlvr(
    model: Any,
    processor: BlipProcessor,
    dataset: Dataset,
    *,
    batch_size: int = 8,
    background: str | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Judge every sentence about two pictures and compare with its label: `accuracy`.

    `processes` are those that evaluate together, each of which gets the whole result.
    Raises `ValueError` for a model of another head, and where nothing can be compared.
    """
    judge = PairJudge(model, processor)
    problems = list(dataset.problems)
    examples = complete(dataset, "nlvr", problems)
    entries: list[dict[str, Any]] = []
    for batch in read_pictures(examples, processor, "nlvr", batch_size, background, problems, progress, processes):
        tokens = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        found = judge(batch.inputs["pixel_values"], tokens)
        entries += [
            {
                "example": example.key,
                "images": [picture.name for picture in example.images],
                "sentence": example.texts[0],
                "label": example.label,
                "judged": int(probability > 0.5),
                "probability": probability,  # that it is true
            }
            for example, probability in zip(batch.examples, found.tolist(), strict=True)
        ]
    entries = processes.join(entries)
    accuracy = float(np.mean([entry["judged"] == entry["label"] for entry in entries]))
    return Evaluation("nlvr", {"accuracy": accuracy}, {"sentences": len(entries)}, entries, problems)
