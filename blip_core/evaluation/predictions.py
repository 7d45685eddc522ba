"""Evaluation of captions, of answers and of NLVR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_core.datasets import Dataset, Example
from blip_core.evaluation.common import Evaluation, Run
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
    model: Any, processor: BlipProcessor, dataset: Dataset, *, prompt: str | None = None, **options: Any
) -> Evaluation:
    """Caption every picture and compare with its captions: `bleu_1` to `bleu_4` and `cider`.

    Examples of the same picture count as one, with all their captions.

    Args:
        model: A captioner of any engine.
        processor: Its processor.
        dataset: Opened for "caption".
        prompt: What captions begin with, which is not compared; None for the prompt that the model was trained with.
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
    for batch in run.batches([group[0] for group in groups.values()]):
        written = captioner.write({"pixel_values": batch.inputs["pixel_values"]}, **options)
        keys += [example.key for example in batch.examples]
        captions += [caption.text or "" for caption in written]
    keys, captions = run.processes.join(keys), run.processes.join(captions)
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
    return run.result(metrics, {"pictures": len(entries)}, entries)


def evaluate_answers(
    model: Any,
    processor: BlipProcessor,
    dataset: Dataset,
    *,
    choices: Sequence[str] | None = None,
    candidates: int = 128,
    **options: Any,
) -> Evaluation:
    """Answer every question and compare with the answers that people gave: `accuracy`, as in the VQA challenge.

    An answer's weight in the data is the share of ten people who gave it.

    Args:
        model: A question answerer of any engine.
        processor: Its processor.
        dataset: Opened for "vqa".
        choices: Answers of which the best is chosen (`rank_answers`); None generates the answer.
        candidates: How many choices, those with the likeliest first token, are ranked.
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
    groups = run.groups()
    entries: list[dict[str, Any]] = []
    for batch in run.batches([group[0] for group in groups.values()]):
        states = answerer.encode(batch.inputs["pixel_values"])
        asked = [(row, example) for row, first in enumerate(batch.examples) for example in groups[first.key]]
        for start in range(0, len(asked), run.batch_size):
            rows, examples = zip(*asked[start : start + run.batch_size], strict=True)
            questions = [task.clean(example.texts[0]) for example in examples]
            tokens, embeds = answerer.tokens(questions, task.max_length), states[list(rows)]
            if choices is not None:
                answers = [choices[index].strip() for index in answerer.rank(embeds, tokens, listed, candidates)]
            else:
                written = answerer.write(embeds, questions, tokens, **options | ONE_EACH)
                answers = [answer.text or "" for answer in written]
            entries += [_answer_entry(example, answer) for example, answer in zip(examples, answers, strict=True)]
    entries = run.processes.join(entries)
    accuracy = float(np.mean([entry["accuracy"] for entry in entries]))
    return run.result({"accuracy": accuracy}, {"questions": len(entries)}, entries)


def _answer_entry(example: Example, answer: str) -> dict[str, Any]:
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
    judge, run = PairJudge(model, processor), Run("nlvr", processor, dataset, **common)
    entries: list[dict[str, Any]] = []
    for batch in run.batches(run.examples):
        tokens = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        entries += [
            {
                "example": example.key,
                "images": [picture.name for picture in example.images],
                "sentence": example.texts[0],
                "label": example.label,
                "judged": int(probability > 0.5),
                "probability": probability,  # that it is true
            }
            for example, probability in zip(
                batch.examples, judge(batch.inputs["pixel_values"], tokens).tolist(), strict=True
            )
        ]
    entries = run.processes.join(entries)
    accuracy = float(np.mean([entry["judged"] == entry["label"] for entry in entries]))
    return run.result({"accuracy": accuracy}, {"sentences": len(entries)}, entries)
