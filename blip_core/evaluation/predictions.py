"""Evaluation of captions, of answers and of NLVR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_core.datasets import Dataset, Example
from blip_core.engines import engine_of
from blip_core.evaluation.common import (
    ALONE,
    Evaluation,
    Processes,
    Progress,
    by_picture,
    check_model,
    complete,
    read_pictures,
)
from blip_core.generation.prompts import prompt_tokens
from blip_core.metrics import answer_accuracy, caption_scores
from blip_core.processing.processor import BlipProcessor
from blip_core.tasks import get_task

ONE_EACH = {"num_return_sequences": 1, "return_dict_in_generate": False}
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
    check_model(model, "caption")
    problems = list(dataset.problems)
    groups = {group[0].key: group for group in by_picture(complete(dataset, "caption", problems))}
    firsts = [group[0] for group in groups.values()]
    config = (options.pop("generation_config", None) or model.generation_config).updated(**(options | ONE_EACH))
    begin = (config.prompt_ids or []) if prompt is None else prompt_tokens(prompt, processor)
    config = config.updated(prompt_ids=begin)
    keys, captions = [], []
    for batch in read_pictures(firsts, processor, "caption", batch_size, background, problems, progress, processes):
        with engine_of(model).no_gradients(model):
            tokens = model.generate(
                engine_of(model).to_tensor(batch.inputs["pixel_values"], model), generation_config=config
            )
        texts = processor.batch_decode(
            engine_of(model).to_numpy(tokens)[:, 1 + len(begin) :], skip_special_tokens=True
        )  # after [DEC]
        keys += [example.key for example in batch.examples]
        captions += [text.strip() for text in texts]
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
    check_model(model, "vqa")
    ranked: dict[str, Any] = {}
    if choices is not None:
        if not choices:
            raise ValueError("The list of choices is empty; give the answers to choose from, or generate them.")
        if options:  # of `generate`
            raise ValueError(f"{', '.join(options)}: of no use where answers are chosen from a list.")
        answers = processor(text=list(choices), return_tensors="np")
        ranked = {"answer_ids": answers["input_ids"], "answer_attention_mask": answers["attention_mask"]}
    problems = list(dataset.problems)
    groups = {group[0].key: group for group in by_picture(complete(dataset, "vqa", problems))}
    firsts = [group[0] for group in groups.values()]
    entries: list[dict[str, Any]] = []
    for batch in read_pictures(firsts, processor, "vqa", batch_size, background, problems, progress, processes):
        with engine_of(model).no_gradients(model):
            states = engine_of(model).to_numpy(
                model.vision_model(engine_of(model).to_tensor(batch.inputs["pixel_values"], model)).last_hidden_state
            )
        asked = [(row, example) for row, first in enumerate(batch.examples) for example in groups[first.key]]
        for at in range(0, len(asked), batch_size):
            rows, examples = zip(*asked[at : at + batch_size], strict=True)
            inputs = {"image_embeds": states[list(rows)], **_questions(examples, processor)}
            with engine_of(model).no_gradients(model):
                if choices is not None:
                    output = model.rank_answers(**_tensors(inputs | ranked, model), k=candidates)
                    found = [choices[number] for number in engine_of(model).to_numpy(output.best)]
                else:
                    tokens = model.generate(**_tensors(inputs, model), **options | ONE_EACH)
                    found = processor.batch_decode(tokens, skip_special_tokens=True)
            entries += [_answered(example, answer.strip()) for example, answer in zip(examples, found, strict=True)]
    entries = processes.join(entries)
    accuracy = float(np.mean([entry["accuracy"] for entry in entries]))
    return Evaluation("vqa", {"accuracy": accuracy}, {"questions": len(entries)}, entries, problems)


def _questions(examples: Sequence[Example], processor: BlipProcessor) -> dict[str, np.ndarray]:
    task = get_task("vqa")
    texts = [task.clean(example.texts[0]) for example in examples]
    return dict(processor(text=texts, truncation=True, max_length=task.max_length, padding=True, return_tensors="np"))


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
    check_model(model, "nlvr")
    problems = list(dataset.problems)
    examples = complete(dataset, "nlvr", problems)
    entries: list[dict[str, Any]] = []
    for batch in read_pictures(examples, processor, "nlvr", batch_size, background, problems, progress, processes):
        names = ("pixel_values", "input_ids", "attention_mask")
        with engine_of(model).no_gradients(model):
            logits = engine_of(model).to_numpy(
                model(**_tensors({name: batch.inputs[name] for name in names}, model)).logits
            )
        for example, (false, true) in zip(batch.examples, logits.astype(np.float64).tolist(), strict=True):
            entries.append(
                {
                    "example": example.key,
                    "images": [picture.name for picture in example.images],
                    "sentence": example.texts[0],
                    "label": example.label,
                    "judged": int(true > false),
                    "probability": float(1 / (1 + np.exp(false - true))),  # that it is true
                }
            )
    entries = processes.join(entries)
    accuracy = float(np.mean([entry["judged"] == entry["label"] for entry in entries]))
    return Evaluation("nlvr", {"accuracy": accuracy}, {"sentences": len(entries)}, entries, problems)


def _tensors(inputs: dict[str, np.ndarray], model: Any) -> dict[str, Any]:
    return {name: engine_of(model).to_tensor(array, model) for name, array in inputs.items()}
