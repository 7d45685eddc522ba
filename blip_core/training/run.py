"""A whole run of training, as `blip train` and as a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from blip_core.datasets import Batches, Dataset, open_dataset
from blip_core.generation.prompts import prompt_tokens
from blip_core.training.engine import MODULES, Engine, make_engine
from blip_core.training.held_out import Validation
from blip_core.training.logs import Log, NoLog
from blip_core.training.loop import Loop
from blip_core.training.run_folder import Position, RunFolder, read_optimizer
from blip_core.training.settings import Settings, read_settings
from blip_core.training.start import Start, find_start

Source = str | Path


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended: after `step` steps, in the folder `output`, which holds the model to use.

    `best_epoch` is the one, from 1 on, whose model that is, and None without validation data. `stopped` is the signal
    that stopped the run before its end, or None; `rank` is the number of this process.
    """

    output: Path
    step: int
    best_epoch: int | None
    stopped: int | None
    rank: int = 0


def train(
    task: str,
    data: Source | Sequence[Source],
    model: Source,
    output: Source,
    *,
    framework: str | None = None,
    revision: str | None = None,
    tokenizer: Source | None = None,
    validation: Source | Sequence[Source] | None = None,
    image_root: Any = None,
    config: Source | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Settings | None = None,
    **options: Any,
) -> TrainingResult:
    """Train a model for a task: caption, vqa, retrieval, nlvr or pretrain.

    `data` and `validation` are what `open_dataset` opens, with pictures in `image_root`. `model` is a folder, a weight
    file or a Hub repository (of which `revision` is a branch, tag or commit) to go on from, or for a new model with
    random weights a configuration (a file of JSON), or "base" or "large"; `tokenizer` is a folder of processor files
    where they are not the model's. `framework` is "pt" or "tf" (PyTorch where it is installed). `options` are settings
    that go over those of `config`, a TOML file, and they over the task's preset; all are listed in docs/training.md.
    `settings` are all of them, in place of those.

    `output` gets checkpoints, logs and the model to use: after each epoch, with `validation` if it is the best so far.
    A folder that holds a run already is refused, unless told to `resume` it (a run that does not exist is begun) or to
    `overwrite` it. SIGTERM and SIGINT save a checkpoint and stop. The framework's global random generator is seeded.

    Raises `ValueError` for a setting, data, a model or a folder that cannot be used and for a loss that is not finite,
    `OSError` for files that are missing or cannot be written.
    """
    framework = framework or next((name for name, (package, _) in MODULES.items() if find_spec(package)), "pt")
    if settings is not None and (options or config is not None):
        raise ValueError("Give all settings, or a config and single ones, not both.")
    chosen = settings or read_settings(task, config, [options])
    folder = RunFolder(output)
    run = {
        "task": task,
        "framework": framework,
        "data": _paths(data),
        "validation": _paths(validation),
        "image_root": None if image_root is None else str(image_root),
        "model": str(model),
        "revision": revision,
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "settings": chosen.to_dict(),
    }
    last = folder.last() if folder.begin(run, resume=resume, overwrite=overwrite) else None
    if folder.path.resolve() in (Path(model).resolve(), *Path(model).resolve().parents):
        raise ValueError(
            f"The model {model} lies in the output folder {output}, which would overwrite it; name another."
        )
    if last is None:
        start = find_start(task, model, tokenizer, chosen, revision)
    else:
        start = find_start(task, last[0], None, chosen)
    dataset = open_dataset(data, task, image_root)
    held_out = None if validation is None else open_dataset(validation, task, image_root)
    position = Position() if last is None else last[1]
    engine = make_engine(framework, start, chosen)
    try:
        # A captioner is to tell which prompt its captions begin with, and a model made of one is to forget it.
        begin = prompt_tokens(chosen.prompt, start.processor) if start.task.takes_prompt else None
        engine.model.generation_config = engine.model.generation_config.updated(prompt_ids=begin)
        if last is not None:
            engine.load_optimizer_state(read_optimizer(last[0]))
        return _run(engine, start, chosen, dataset, held_out, folder, position, run)
    finally:
        engine.close()


def _run(
    engine: Engine,
    start: Start,
    settings: Settings,
    dataset: Dataset,
    held_out: Dataset | None,
    folder: RunFolder,
    position: Position,
    run: Mapping[str, Any],
) -> TrainingResult:
    batch = settings.batch_size * settings.accumulation * engine.processes * engine.replicas
    if position.batch not in (None, batch):
        raise ValueError(
            f"{folder.path} holds a run of {position.batch} examples a step, on all devices together; these are "
            f"{batch}. Resume it on as many devices as before."
        )
    position.batch = batch
    parts: dict[str, Any] = {
        "rank": engine.rank,
        "world_size": engine.processes,
        "workers": settings.workers,
        "cache": settings.cache,
    }
    texts: dict[str, Any] = {
        "prompt": settings.prompt,
        "max_text_length": settings.max_text_length,
        "background": settings.background,
    }
    batches = Batches(
        dataset,
        start.processor,
        start.task.name,
        settings.batch_size * engine.replicas,
        training=True,
        seed=settings.seed,
        augment=settings.augment(start.task.name),
        **parts,
        **texts,
    )
    validate = None
    if held_out is not None:
        validate = Validation(engine, start, settings, held_out, **parts, **texts)
    engine.mean({"ready": 1.0})  # nobody looks into the folder any more
    loop = Loop(engine, start, settings, batches, folder, position, validate)
    log: Log = NoLog()
    if engine.rank == 0:
        if position.step == 0:
            folder.clear(run)
        log = Log(folder.path, position.step, loop.steps, settings.log_every)
    known = [
        _report(log, name, found, 0)
        for name, found in (("data", dataset), ("validation", held_out))
        if found is not None
    ]
    try:
        stopped = loop.run(log)
        _report(log, "data", dataset, known[0])
    finally:
        log.close()
    return TrainingResult(folder.path, position.step, position.best_epoch, stopped, engine.rank)


def _report(log: Log, name: str, dataset: Dataset, known: int) -> int:
    """Say what of a data set cannot be used, but for the first `known`; returns how many problems there are."""
    if told := dataset.tell_problems(name, known):
        log.say(told)
    return len(dataset.problems)


def _paths(paths: Source | Sequence[Source] | None) -> list[str]:
    if paths is None:
        return []
    return [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
