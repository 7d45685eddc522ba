"""`--recipe auto`: settings that follow from the size of the data and of the model, and what the run will take.

The rule is the table `SIZES` and the function `automatic_settings`; docs/training.md states it in words.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from blip_core.config import BlipConfig
from blip_core.datasets import Dataset
from blip_core.engines import Engine
from blip_core.parameters.heads import HEADS
from blip_core.parameters.models import parameters, training_state
from blip_core.tasks import Task
from blip_core.training.freezing import is_frozen
from blip_core.training.lora import lora_rows
from blip_core.training.settings import Settings
from blip_core.training.start import Start


@dataclass(frozen=True)
class Size:
    """What the recipe takes for up to so many examples."""

    examples: float
    batch: int
    passes: int
    gentle: bool


SIZES = (
    Size(10, batch=4, passes=60, gentle=True),
    Size(50, batch=4, passes=30, gentle=True),
    Size(500, batch=8, passes=10, gentle=True),
    Size(5000, batch=16, passes=5, gentle=False),
    Size(math.inf, batch=32, passes=5, gentle=False),
)
"""The rule for the size of the data."""

GENTLE = {"crop_scale": (0.8, 1.0), "rand_augment": ()}
"""The augmentation of small data: crops of at least 80 % of the picture, no RandAugment."""
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
"""Words of captions that are wrong in a mirror."""
BASE_WIDTH, MOST_RATE = 768, 3e-4
LORA_RATE = 5
"""How many times the learning rate of factors is that of whole weights."""
FEW, REPLAY, REPLAY_BATCH, REPLAY_STEPS = 50, 4, 8, 400
"""Up to how many examples replay holds a captioner to what it said; made pictures for each example, examples of a step,
and steps then: it takes many to learn what is new and to keep what is old."""
CHECKS, PATIENCE = 10, 2
"""How often a run is measured, and how many measures in a row may be worse."""
WARM_UP, MOST_WARM_UP = 0.1, 500
ROOM = 2 * 2**30
"""Bytes for the activations of a batch; what does not fit is accumulated."""
CACHE = 500
TEXT_TOKENS, SOME = 20, 1000
STEP_SECONDS = 0.03
"""What a step takes besides its arithmetic."""
EFFICIENCY = 0.6
"""The share of a matrix product's rate that a whole step reaches."""


@dataclass(frozen=True)
class Work:
    """What training a model takes: `weights` and how many of them are `trained`, and for an example the operations
    of a step, `flops`, and the bytes of its activations."""

    weights: int
    trained: int
    flops: float
    activations: float

    def memory(self, batch: int) -> float:
        """Bytes of weights, gradients, moments and activations."""
        return 4.0 * (self.weights + 3 * self.trained) + batch * self.activations


def work_of(task: Task, config: BlipConfig, settings: Settings) -> Work:
    """Count what training a task's model with this configuration takes."""
    head, vision, text = HEADS[task.head], config.vision_config, config.text_config
    rows = parameters(task.head, config) + (training_state(task.head, config) if head.state else [])
    weights = sum(math.prod(row.shape) for row in rows)
    learned = [row for row in rows if not row.part.state and not is_frozen(row, settings.freeze)]
    factors = lora_rows(rows, settings.lora, settings.freeze)
    trained = sum(math.prod(row.shape) for row in (factors if settings.lora else learned))
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    layer = tokens * (8 * vision.hidden_size**2 + 4 * vision.hidden_size * vision.intermediate_size)
    layer += 4 * tokens**2 * vision.hidden_size
    image = vision.num_hidden_layers * layer
    own = 12 * text.hidden_size**2 + 4 * text.hidden_size * text.intermediate_size
    cross = 4 * tokens * text.hidden_size * vision.hidden_size + 4 * TEXT_TOKENS * tokens * text.hidden_size
    words = text.num_hidden_layers * (TEXT_TOKENS * own + cross) + 2 * TEXT_TOKENS * text.hidden_size * text.vocab_size
    backward = 3 - 2 * (settings.freeze == "vision")
    image *= task.pictures * (backward + settings.gradient_checkpointing) + (task.contrastive or task.distils)
    words *= 3 * head.answers + 3 + 9 * task.contrastive
    kept = tokens * (8 * vision.hidden_size + 2 * vision.intermediate_size)
    kept += 3 * vision.num_attention_heads * tokens**2  # fused attention does without
    again = settings.gradient_checkpointing * vision.num_hidden_layers or settings.vit_ckpt_layer
    kept *= max(vision.num_hidden_layers - again, 1)
    kept *= 0 if settings.freeze == "vision" else task.pictures
    kept += text.num_hidden_layers * (TEXT_TOKENS * 20 + 2 * tokens) * text.hidden_size
    kept += 3 * TEXT_TOKENS * text.vocab_size
    return Work(weights, trained, image + words, 4.0 * kept)


def automatic_settings(
    start: Start, dataset: Dataset, settings: Settings, given: Collection[str] = ()
) -> dict[str, Any]:
    """Return what the recipe adds to the preset of a task.

    Args:
        start: The model to begin with.
        dataset: What is learned.
        settings: Those of the preset, with what users gave.
        given: The names of what they gave.

    Raises:
        ValueError: For a single example.
    """
    task, examples = start.task, len(dataset)
    if examples < 2:
        raise ValueError(
            "The recipe auto needs 2 pictures or more to learn from, and there is 1; add some, or name a preset of the "
            "paper with --recipe and its settings."
        )
    size = next(size for size in SIZES if examples <= size.examples)
    kept = task.takes_prompt and start.config is None and size.gentle
    replay = settings.replay if "replay" in given else REPLAY * (kept and examples <= FEW)
    batch, passes = min(REPLAY_BATCH if replay else size.batch, examples), size.passes
    if "batch_size" in given:
        batch = settings.batch_size
    if replay:
        passes = -(-REPLAY_STEPS // -(-examples // batch))
    if "epochs" in given:
        passes = settings.epochs
    work = work_of(task, start.sized(settings), settings)
    fits = max(int(ROOM / work.activations), 1)
    at_once = batch if task.contrastive else min(batch, 2 ** int(math.log2(max(fits // max(replay, 1), 1))))
    accumulation = -(-batch // at_once)
    steps = passes * -(-examples // (at_once * accumulation))
    augmentation: dict[str, Any] = dict(GENTLE) if size.gentle else {}
    if any(SIDES.search(text) for example in islice(dataset, SOME) for text in example.texts):
        augmentation["flip"] = 0.0
    found = {
        "batch_size": at_once,
        "accumulation": accumulation,
        "drop_last": False,
        "epochs": passes,
        "learning_rate": learning_rate(start, settings.learning_rate) * (LORA_RATE if settings.lora else 1),
        "schedule": "cosine",
        "schedule_every": "step",
        "warmup_steps": min(round(WARM_UP * steps), MOST_WARM_UP),
        "warmup_learning_rate": 0.0,
        "clip_norm": 1.0,
        "weight_decay_on": "matrices",
        "gradient_checkpointing": task.contrastive and batch > fits,
        "augmentation": augmentation or True,
        "cache": CACHE,
        "validate_by": "loss",
        "validate_every": -(-passes // CHECKS),
        "patience": PATIENCE,
        "keep": 1,
        "replay": replay,
    }
    if kept:  # so that little of what the model says otherwise is lost
        found |= {"label_smoothing": 0.0, "dropout": 0.0, "freeze": "none" if settings.lora else "vision"}
    if task.contrastive:
        found["queue_size"] = min(max(examples // batch, 1) * batch, start.found.queue_size)
    if task.takes_prompt and start.prompt is not None:
        found["prompt"] = start.prompt
    return found


def learning_rate(start: Start, rate: float) -> float:
    """Return the learning rate for a model: twice the preset's for one of base size, more for a narrow one."""
    if start.config is not None:
        return max(MOST_RATE, rate)
    width = start.found.text_config.hidden_size
    return min(2 * rate * (BASE_WIDTH / width) ** 2, max(MOST_RATE, rate))


def describe(engine: Engine, start: Start, settings: Settings, dataset: Dataset, held_out: Dataset | None) -> list[str]:
    """Say in two lines what a run will do and what it will take."""
    work = work_of(start.task, start.sized(settings), settings)
    on_cpu = "cpu" in (settings.device or engine.default_device()).lower()
    whole = settings.batch_size * settings.accumulation
    steps = len(dataset) // whole if settings.drop_last else -(-len(dataset) // whole)
    seen = len(dataset) * (1 + settings.replay)
    seconds = settings.epochs * pass_seconds(seen, steps, work) if on_cpu else None
    memory = work.memory(settings.batch_size * max(settings.replay, 1)) + 4.0 * work.weights * bool(settings.replay)
    made = f" and {whole * settings.replay} made pictures" if settings.replay else ""
    kept = f"{len(held_out):,} held out" if held_out else "none held out"
    warm = f" after {settings.warmup_steps} steps of warm-up" if settings.warmup_steps else ""
    return [
        f"{len(dataset):,} examples to learn from, {kept}; {settings.epochs} passes of {steps:,} steps of {whole}"
        f"{made}; learning rate {settings.learning_rate:.2g}{warm}; augmentation {_told(settings.augmentation)}",
        f"{work.weights / 1e6:,.1f} million weights, {work.trained / 1e6:,.1f} of them trained; about "
        f"{memory / 2**30:.1f} GB of memory, "
        + ("the time is told after the first steps" if seconds is None else f"at most about {duration(seconds)}"),
    ]


def _told(augmentation: Any) -> str:
    if isinstance(augmentation, bool):
        return "the original's" if augmentation else "none"
    return ", ".join(f"{name} {value or 'off'}" for name, value in augmentation.items())


def pass_seconds(examples: int, steps: int, work: Work) -> float:
    """Return the seconds that a pass takes on this machine's CPU, by the rate of a matrix product."""
    return examples * work.flops / (EFFICIENCY * matrix_rate()) + steps * STEP_SECONDS


def matrix_rate() -> float:
    """Measure the operations per second of a matrix product in float32; takes half a second at most."""
    side, best = 768, math.inf
    matrix = np.ones((side, side), np.float32)
    for _ in range(20):  # the best of many, as others may compute meanwhile
        begin = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def duration(seconds: float) -> str:
    """Say how long something takes, in words."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
