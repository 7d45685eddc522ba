"""A whole run of training, as `blip train` and as a call."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blip_core.datasets import Batches, Dataset, open_dataset
from blip_core.engines import Engine, get_engine
from blip_core.generation.prompts import prompt_tokens
from blip_core.jobs.writer_lock import one_writer
from blip_core.parameters.heads import HEADS
from blip_core.stores import StoreCache
from blip_core.tasks import TASKS, get_task
from blip_core.training.before_after import BeforeAfter, tell
from blip_core.training.chunks import InTurn, joined
from blip_core.training.held_out import FEW, Validation, hold_out, together
from blip_core.training.logs import Log, NoLog
from blip_core.training.loop import Loop
from blip_core.training.protocol import Trainer, make_trainer
from blip_core.training.recipe import automatic_settings, describe
from blip_core.training.replay import make_replay, replayed
from blip_core.training.result_page import write_page
from blip_core.training.run_folder import RUN, Position, RunFolder, read_optimizer
from blip_core.training.settings import AUTO, Settings, given_settings, merged_settings, preset_values
from blip_core.training.start import Start, find_start
from blip_core.training.trackers import Trackers, check_trackers

Source = str | Path
SHARE = {"held_out": 0.1}
"""What the recipe auto holds out unless told otherwise."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        output: The folder with the model to use.
        step: How many steps are done.
        best_epoch: The epoch, from 1 on, whose model that is; None without validation data.
        stopped: The signal that stopped the run before its end, or None.
        rank: The number of this process among those that train together.
    """

    output: Path
    step: int
    best_epoch: int | None
    stopped: int | None
    rank: int = 0


def train(
    task: str,
    data: Source | Sequence[Source],
    model: Source | None,
    output: Source,
    *,
    engine: str | None = None,
    revision: str | None = None,
    vision: Source | None = None,
    text: Source | None = None,
    tokenizer: Source | None = None,
    chunks: Source | Sequence[Source] | None = None,
    validation: Source | Sequence[Source] | None = None,
    image_root: Any = None,
    split: str | None = None,
    validation_split: str | None = None,
    recipe: str = AUTO,
    config: Source | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Settings | None = None,
    events: bool = False,
    store_cache: StoreCache | None = None,
    **options: Any,
) -> TrainingResult:
    """Train a model for a task.

    After each epoch the output folder gets a checkpoint and, if it is the best so far on the validation data, the model
    to use. SIGTERM and SIGINT save a checkpoint and stop. The framework's global random generator is seeded.

    By default settings follow from the size of the data and of the model, and a tenth of the pictures is held out to
    find the best epoch (docs/training.md has the rule).

    Args:
        task: A name in `blip_core.tasks.TASKS`: "caption", "vqa", "retrieval", "nlvr" or "pretrain".
        data: What `open_dataset` opens.
        model: A folder, a weight file or a Hub repository to start from. For a new model with random weights a
            configuration (a JSON file), "base" or "large". None for the model in the package or, with `vision` or
            `text`, for a new one of their sizes.
        output: The folder for checkpoints, logs and the model to use.
        engine: "pt" or "tf"; unless given, the first that is installed.
        revision: A branch, tag or commit of the Hub repository.
        vision: An ImageNet ViT that a new model begins with: a file, folder or Hub repository of timm or Hugging Face.
        text: A BERT of any language that it begins with, and its vocabulary: a folder or Hub repository.
        tokenizer: A folder of processor files, where they are not beside the model or the BERT.
        chunks: Further data, of which one is learned with `data` in each epoch, in turn.
        validation: Data to measure on after each epoch.
        image_root: Where the pictures lie that files name, as for `open_dataset`.
        split: The split of the data to train on, as for `open_dataset`.
        validation_split: The split of the validation data.
        recipe: "auto", or the name of a preset with the paper's values, such as "caption".
        config: A TOML file of settings, which go over those of the recipe.
        resume: Continue the run in the output folder, or begin one if there is none.
        overwrite: Replace the run in the output folder.
        settings: All settings, in place of `recipe`, `config` and `options`.
        events: Write progress to standard error as JSON lines.
        store_cache: Where shards of stores are copied to, as for `open_dataset`.
        **options: Single settings, over those of `config`; docs/training.md lists all.

    Returns:
        How the run ended.

    Raises:
        ValueError: For settings, data, a model or a folder that cannot be used, and for a loss that is not finite.
        OSError: For files that are missing or cannot be written, and where another process trains in the folder.

    Example:
        >>> from blip_core.hub import SHIPPED
        >>> entry = '{"image": "tests/data/emoji/1f98a.png", "caption": "a fox"}'
        >>> _ = Path("captions.jsonl").write_text(entry)
        >>> train("caption", "captions.jsonl", SHIPPED, "my-captioner", recipe="caption", epochs=1, batch_size=1).step
        1
    """
    if not get_task(task).trains:
        able = ", ".join(row.name for row in TASKS.values() if row.trains)
        raise ValueError(f"{task} is evaluated alone (blip evaluate {task}); what can be trained is {able}.")
    if settings is not None and (options or config is not None):
        raise ValueError("Give all settings, or a config and single ones, not both.")
    chosen_engine = get_engine(engine)
    given = given_settings(config, [options])
    folder = RunFolder(output)
    stored = folder.stored(resume=resume, overwrite=overwrite)
    automatic = settings is None and recipe == AUTO
    if settings is None and (names := merged_settings(given).get("report_to")):
        check_trackers(str(names))
    rules = [preset_values(task, recipe), SHARE] if automatic else [preset_values(task, recipe)]
    if automatic and stored is not None:
        rules = [stored]  # so that the run goes on as it began
    chosen = settings or Settings(**merged_settings([*rules, *given]))
    dataset = open_dataset(data, task, image_root, split, store_cache)
    held_out = None
    if validation is not None:
        held_out = open_dataset(validation, task, image_root, validation_split, store_cache)
    if held_out is None and chosen.held_out:
        dataset, held_out = hold_out(dataset, chosen.held_out, chosen.seed)
    turns = [dataset]
    if chunks is not None:
        listed = chunks if isinstance(chunks, list | tuple) else [chunks]
        turns = [joined(dataset, open_dataset(chunk, task, image_root, split, store_cache)) for chunk in listed]
        dataset = turns[0]
    if automatic and stored is None:
        start = find_start(task, model, tokenizer, chosen, revision, vision, text)
        rules.append(automatic_settings(start, dataset, chosen, merged_settings(given)))
        chosen = Settings(**merged_settings([*rules, *given]))
    run = {
        "task": task,
        "engine": chosen_engine.name,
        "data": _paths(data),
        **({} if chunks is None else {"chunks": _paths(chunks)}),
        "validation": _paths(validation),
        "image_root": None if image_root is None else str(image_root),
        "split": split,
        "validation_split": validation_split,
        "model": None if model is None else str(model),
        "revision": revision,
        **{name: str(value) for name, value in {"vision": vision, "text": text}.items() if value is not None},
        "tokenizer": None if tokenizer is None else str(tokenizer),
        **chosen.to_dict(),
    }
    last = folder.last() if folder.begin(run, resume=resume, overwrite=overwrite) else None
    if model is not None and folder.path.resolve() in (Path(model).resolve(), *Path(model).resolve().parents):
        raise ValueError(
            f"The model {model} lies in the output folder {output}, which would overwrite it; name another."
        )
    if last is None:
        start, position = find_start(task, model, tokenizer, chosen, revision, vision, text), Position()
    elif chosen.lora:
        start = replace(find_start(task, model, tokenizer, chosen, revision), adapter=last[0])
        position = last[1]
    else:
        start, position = find_start(task, last[0], None, chosen), last[1]
        if chosen.replay:
            start = replace(start, old=find_start(task, model, tokenizer, chosen, revision))
    if HEADS[start.head].classes:
        highest = max(
            (e.label for part in (*turns, *([held_out] if held_out else ())) for e in part if e.label), default=0
        )
        if highest >= start.classes(chosen):
            raise ValueError(
                f"The data have a label {highest}, and the model {start.classes(chosen)} classes, from 0 on; set "
                f"num_labels to {highest + 1} or more (--set num_labels={highest + 1})."
            )
    if os.environ.get("RANK", "0") == "0":  # the first of torchrun's processes speaks for all
        for line in describe(chosen_engine, start, chosen, dataset, held_out):
            print(f"blip: {line}", file=sys.stderr)
    trainer = make_trainer(chosen_engine, start, chosen)
    try:
        # A captioner stores the prompt its captions begin with; a model made from one for another task must not.
        begin = prompt_tokens(chosen.prompt, start.processor) if start.task.takes_prompt else None
        trainer.model.generation_config = trainer.model.generation_config.updated(prompt_ids=begin)
        if last is not None:
            trainer.load_optimizer_state(read_optimizer(last[0]))
        return _run(chosen_engine, trainer, start, chosen, turns, held_out, folder, position, run, events)
    finally:
        trainer.close()


def _run(
    engine: Engine,
    trainer: Trainer,
    start: Start,
    settings: Settings,
    turns: Sequence[Dataset],
    held_out: Dataset | None,
    folder: RunFolder,
    position: Position,
    run: Mapping[str, Any],
    events: bool,
) -> TrainingResult:
    dataset = turns[0]
    batch = settings.batch_size * settings.accumulation * trainer.processes * trainer.replicas
    if position.batch not in (None, batch):
        raise ValueError(
            f"{folder.path} holds a run of {position.batch} examples a step, on all devices together; these are "
            f"{batch}. Resume it on as many devices as before."
        )
    position.batch = batch
    shared = ("workers", "cache", "prompt", "max_text_length", "background", "fast_decode")
    options: dict[str, Any] = {name: getattr(settings, name) for name in shared}
    options |= {"rank": trainer.rank, "world_size": trainer.processes}

    def batches_of(turns: Sequence[Dataset], times: int = 1) -> Batches | InTurn:
        found = [
            Batches(
                examples,
                start.processor,
                start.task.name,
                settings.batch_size * times * trainer.replicas,
                training=True,
                seed=settings.seed,
                augment=settings.augment(start.task.name),
                drop_last=settings.drop_last,
                synthetic_share=settings.synthetic_share,
                **options,
            )
            for examples in turns
        ]
        return InTurn(found) if len(found) > 1 else found[0]

    devices = trainer.processes * trainer.replicas
    measured = held_out
    if settings.patience and (held_out is None or len(held_out) < max(FEW, devices)):
        measured = together(dataset, held_out, settings.seed)
    validate = Validation(trainer, start, settings, measured, **options) if measured else None
    loop = Loop(trainer, start, settings, batches_of(turns), folder, position, validate)
    with ExitStack() as stack:
        if trainer.rank == 0:
            stack.enter_context(one_writer(folder.path / RUN))
        trainer.mean({"ready": 1.0})  # barrier: all ranks have inspected the folder
        log: Log = NoLog()
        if trainer.rank == 0 and position.step == 0:
            folder.clear(run)
        if settings.replay:
            model = trainer.inference_model() if position.step == 0 else None
            if model is not None and trainer.rank == 0:
                print("blip: asking the model about pictures that it makes, so that it forgets less", file=sys.stderr)
                wanted = settings.epochs * loop.steps_per_epoch * batch * settings.replay
                make_replay(model, start, settings, dataset, folder.path, wanted)
            trainer.mean({"ready": 1.0})  # all read what the first wrote
            loop.replayed = batches_of([replayed(start.task.name, folder.path)], settings.replay)
        if trainer.rank == 0:
            trackers = Trackers(settings.report_to, folder.path, run, position.step)
            parts = [data for data in (dataset, held_out) if data is not None]

            def problems() -> int:
                return sum(len(data.problems) for data in parts)

            log = Log(folder.path, position.step, loop.steps, settings.log_every, trackers, problems, events)
        stack.enter_context(log)
        asked = BeforeAfter(start, settings, measured or dataset, folder.path)
        if measured and position.step == 0 and (model := trainer.inference_model()) and trainer.rank == 0:
            asked.ask_before(model)
        known = _report(log, "data", dataset, 0)
        if held_out is not None:
            _report(log, "validation", held_out, 0)
        stopped = loop.run(log)
        _report(log, "data", dataset, known)
        if measured and stopped is None and trainer.rank == 0:
            model_class = engine.model_class(start.head)  # the best model, as it was saved
            model = model_class.from_pretrained(folder.path, device=settings.device or engine.default_device())
            best = position.best if validate is not None and validate.by == "loss" else None
            said = asked.ask_after(model)
            lines = tell(said, position.first, best)
            page = write_page(folder.path, f"{start.task.name}: {folder.path.name}", lines, said)
            for line in (*lines, f"the pictures and the curves: {page}"):
                log.say(line)
            log.say(f"to use it: {start.task.use.format(model=folder.path)}")
    return TrainingResult(folder.path, position.step, position.best_epoch, stopped, trainer.rank)


def _report(log: Log, name: str, dataset: Dataset, known: int) -> int:
    """Log what of a data set cannot be used, except for the first `known` problems; return how many there are."""
    if told := dataset.tell_problems(name, known):
        log.say(told)
    return len(dataset.problems)


def _paths(paths: Source | Sequence[Source] | None) -> list[str]:
    if paths is None:
        return []
    listed = paths if isinstance(paths, list | tuple) else [paths]
    return [str(path) if isinstance(path, str | Path) else type(path).__name__ for path in listed]
