"""A new task is one row and one file, as this one: it is read, trained, validated and evaluated like the others."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from blip_core import BlipProcessor
from blip_core.cli import main
from blip_core.datasets import Batches, Example, open_dataset
from blip_core.engines import get_engine
from blip_core.evaluation import Run
from blip_core.generation.prompts import prompt_tokens
from blip_core.tasks import TASKS, Task, count_tokens, get_task, register
from blip_core.training import train
from tests.helpers.training_runs import QUICK, losses, make_world, validations

NUMBERS = ("no square", "one square", "two squares", "three squares")


def parse(key, images, entry):
    """An entry with `count`, from 0 to 3."""
    count = entry.get("count")
    if count not in range(len(NUMBERS)):
        raise ValueError(f"count must be a whole number from 0 to 3, got {count!r}")
    return Example(key, images, (NUMBERS[count],), label=count)


def inputs(examples, texts, tokenize, prompt, with_targets):
    return dict(tokenize(text=texts, prompt=prompt or None, return_labels=True))


def evaluate(model, processor, dataset, **common):
    """How often the caption that the model writes is the right number."""
    run, entries = Run("count", processor, dataset, **common), []
    tensors = get_engine("pt")
    for batch in run.batches(run.examples):
        with tensors.no_gradients(model):
            tokens = model.generate(tensors.to_tensor(batch.inputs["pixel_values"], model), max_new_tokens=4)
        said = processor.batch_decode(tensors.to_numpy(tokens), skip_special_tokens=True)
        entries += [
            {"example": e.key, "right": e.texts[0] == text} for e, text in zip(batch.examples, said, strict=True)
        ]
    accuracy = float(np.mean([entry["right"] for entry in entries]))
    return run.result({"exact": accuracy}, {"pictures": len(entries)}, entries)


COUNT = Task(
    name="count",
    head="BlipForConditionalGeneration",
    description="how many squares there are: exact answers",
    parse=parse,
    inputs=inputs,
    target=("label", "count"),
    max_length=8,
    loss_count=count_tokens,
    evaluate=evaluate,
    metric="exact",
)


@pytest.fixture
def world(tmp_path):
    """Pictures of squares, and the task in the registry while a test runs."""
    register(COUNT)
    make_world(tmp_path)
    entries = []
    for number in range(8):
        picture = Image.new("RGB", (32, 32))
        for square in range(number % 4):
            picture.paste((255, 255, 255), (10 * square, 10, 10 * square + 8, 18))
        picture.save(tmp_path / f"count{number}.png")
        entries.append({"image": f"count{number}.png", "count": number % 4})
    entries.append({"image": "count0.png", "count": "many"})
    (tmp_path / "counts.json").write_text(json.dumps(entries))
    yield tmp_path
    del TASKS["count"]


@pytest.mark.parametrize("engine", ["pt", "tf"])
def test_a_new_task_is_trained_and_evaluated(world, engine, capsys):
    run = {"data": world / "counts.json", "model": world / "new" / "config.json", "engine": engine}
    quick = {**QUICK, "max_steps": 2, "validate_by": "metric" if engine == "pt" else "loss"}
    result = train("count", output=world / engine, validation=world / "counts.json", **run, **quick)
    assert result.step == 2
    assert np.isfinite(losses(result.output)).all()
    assert validations(result.output)[-1].keys() == ({"exact"} if engine == "pt" else set())
    assert "1 entries of data cannot be used; the first, counts.json:8: count must be" in capsys.readouterr().err
    if engine == "pt":
        words = ["evaluate", "count", "--data", str(world / "counts.json"), "--model", str(result.output), "--json"]
        assert main([*words, "--engine", "pt"]) == 1  # for the example that cannot be used
        found = json.loads(capsys.readouterr().out)
        assert (found["task"], found["counted"], found["left_out"]) == ("count", {"pictures": 8}, 1)
        assert 0 <= found["metrics"]["exact"] <= 1


def test_its_batches_are_the_rows(world):
    processor = BlipProcessor.from_pretrained(world / "new")
    dataset = open_dataset(world / "counts.json", "count")
    assert [example.label for example in dataset] == [0, 1, 2, 3] * 2
    (batch, _) = Batches(dataset, processor, "count", 4, training=False, workers=0).epoch(0)
    assert {"pixel_values", "input_ids", "attention_mask", "labels"} == batch.inputs.keys()
    assert len(prompt_tokens("", processor) or []) == 0
    with pytest.raises(ValueError, match="was opened for count, and cannot be used for 'caption'"):
        Batches(dataset, processor, "caption", 4, training=False)
    with pytest.raises(ValueError, match="There is a task 'count' already; choose another name"):
        register(Task("count", "BlipForNLVR", "", parse, inputs))


def test_an_unknown_task_names_those_there_are():
    with pytest.raises(
        ValueError,
        match=r"one of caption, retrieval, vqa, nlvr, match, classification, grounding, pretrain, got 'dance'\.",
    ):
        get_task("dance")


def test_every_task_has_what_it_names():
    for task in TASKS.values():
        for function in (task.parse, task.inputs, task.clean, task.swap, task.evaluate):
            assert function is None or callable(function.resolve()), task.name
        assert task.preset.exists() if task.preset else not task.trains


@pytest.mark.parametrize("engine", ["pt", "tf"])
def test_texts_that_begin_wrongly_are_told_in_training(world, engine, monkeypatch):
    def without_dec(*given):
        made = inputs(*given)
        made["input_ids"][:, 0] = 2  # [CLS]
        return made

    monkeypatch.setitem(TASKS, "count", replace(COUNT, inputs=without_dec))
    run = {"data": world / "counts.json", "model": world / "new" / "config.json", "engine": engine}
    with pytest.warns(UserWarning, match=r"texts that do not begin with \[DEC\]"):
        train("count", output=world / f"cls-{engine}", **run, **{**QUICK, "max_steps": 1})
