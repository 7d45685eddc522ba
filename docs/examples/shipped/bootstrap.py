"""What bootstrapping wins back: the shipped model's recipe in small, with wrong captions, without and with CapFilt.

    python -m docs.examples.shipped.bootstrap FOLDER OUTPUT [NAMES EPOCHS SEEDS]

FOLDER gets the drawings, unless they are there; docs/capfilt.md says what is done. After each seed a table of Markdown
is printed. Two processes of one thread work at once. What is done is not done again; trainings go on where they were.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from blip_core.datasets import open_dataset
from blip_core.files import atomic_path, read_json, write_json
from blip_core.processing.pictures import on_ground
from docs.examples.shipped import run
from docs.examples.shipped.drawings import main as draw
from docs.examples.shipped.prepare import main as prepare_data
from docs.examples.shipped.prepare import write_model

WIDTH, LAYERS, BATCH, NOISY, CLEAN = 128, (4, 2), 64, "noisy", "clean"
DRAWINGS, SURE = 6, "twemoji"  # of each name at least; the style whose captions are known to be right
PROCESSES = {"base": 2}  # that share the work; all else is done two at a time, by one each
PASSES, FINE_TUNING = 10, ("--learning-rate", 1e-4, "--set", "min_learning_rate=0", "--set", "warmup_steps=0")
ARMS: dict[str, tuple[str, Callable[[str, bool], bool]]] = {  # a run of CapFilt; what is taken by source and judgement
    "captioner alone": ("nucleus", lambda source, kept: True),
    "filter alone": ("nucleus", lambda source, kept: kept and source == "web"),
    "both, nucleus": ("nucleus", lambda source, kept: kept),
    "both, beams": ("beams", lambda source, kept: kept),
}
COLUMNS = ("pictures", "right", "image_to_text_recall_1", "text_to_image_recall_1", "cider")
HEADER = ("", "pictures", "right", "picture → name", "name → picture", "CIDEr", "recall won back", "CIDEr won back")
Captions = dict[str, list[str]]  # by the file of a picture


def main(folder: Path, output: Path, names: int = 150, epochs: int = 50, seeds: int = 3) -> None:
    """Do all steps."""
    if not (folder / "new" / "config.json").exists():
        draw(folder)
        prepare_data(folder)
    place = output / f"{names} names, {epochs} epochs"
    truth, others = prepare(folder, place, names)
    train(place / "base", "pretrain", place / "new" / "config.json", others, epochs * len(others), 0)
    results = []
    for seed in range(seeds):
        results.append(of_seed(place / f"seed {seed}", truth, epochs * len(truth), seed))
        write_json(place / "results.json", {"seeds": results})
        print(f"\n{table(results)}\n", flush=True)


def prepare(folder: Path, place: Path, names: int) -> tuple[Captions, Captions]:
    """Put drawings on white, and write the new model; returns the names of pictures to learn, and of all others."""
    parts = {part: list(open_dataset(folder / f"{part}.json", "pretrain")) for part in ("pretrain", "held_out")}
    drawings = Counter(str(example.image_id) for example in parts["pretrain"])
    good = sorted(name for name, count in drawings.items() if count >= DRAWINGS)
    chosen = set(random.Random(0).sample(good, names))
    found: dict[tuple[str, bool], Captions] = defaultdict(dict)
    for part, examples in parts.items():
        for example in (e for e in examples if drawings[str(e.image_id)] >= DRAWINGS):
            target = place.absolute() / "pictures" / Path(*Path(example.images[0].name).parts[-2:])
            found[part, example.image_id in chosen][str(target)] = [str(example.image_id)]
            if not target.exists():
                with atomic_path(target) as temporary:
                    on_ground(example.images[0].load(), (255, 255, 255)).save(temporary, format="PNG")
    write_pairs(place / "held_out.jsonl", found["held_out", True])
    if not (place / "new" / "config.json").exists():
        write_model(place / "new", good, WIDTH, LAYERS)
    return found["pretrain", True], found["pretrain", False]


def of_seed(place: Path, truth: Captions, pictures: int, seed: int) -> dict[str, dict[str, float]]:
    """Do all steps with one seed; returns the values of all columns for each data set."""
    sure = {image: texts for image, texts in truth.items() if Path(image).parent.name == SURE}
    noisy = with_noise(truth, sure, seed)
    write_json(place / "wrong.json", {image: texts for image, texts in noisy.items() if texts != truth[image]})
    write_pairs(place / "web.jsonl", {image: texts for image, texts in noisy.items() if image not in sure})
    data = {NOISY: noisy, CLEAN: truth}

    def learn(name: str) -> dict[str, float]:
        train(place / name, "pretrain", place.parent / "base", data[name], pictures, seed)
        right = [texts.count(*truth[image]) / len(texts) for image, texts in data[name].items()]
        found = {"pictures": len(right), "right": float(np.mean(right))}
        for task, options in {"retrieval": ("--rerank", 0), "caption": ()}.items():
            if not (output := place / f"{name}, {task}.json").exists():
                options += ("--data", place.parent / "held_out.jsonl", "--batch-size", BATCH)
                blip(output, "evaluate", task, "--model", place / name, *options)
            found |= read_json(output)["metrics"]
        return {column: found[column] for column in COLUMNS}

    def fine_tune(task: str) -> None:
        train(place / task, task, place / NOISY, sure, PASSES * len(sure), seed, *FINE_TUNING)

    def capfilt(name: str, how: Sequence[object]) -> None:
        if not (place / name / "report.html").exists():
            models = ("--captioner", place / "caption", "--filter", place / "retrieval", "--prompt", "", *how)
            options = ("--input", place / "web.jsonl", "--batch-size", BATCH, "--seed", seed)
            blip(place / name, "capfilt", *models, *options)

    with ThreadPoolExecutor(2) as pool:
        results = [*pool.map(learn, (NOISY, CLEAN))]
        list(pool.map(fine_tune, ("caption", "retrieval")))
        list(pool.map(capfilt, ("nucleus", "beams"), ((), ("--beams", 3))))
        data |= {arm: {**sure, **judged(place / run, wanted)} for arm, (run, wanted) in ARMS.items()}
        return dict(zip(data, [*results, *pool.map(learn, ARMS)], strict=True))


def with_noise(truth: Captions, sure: Iterable[str], seed: int) -> Captions:
    """The captions of all pictures, of which a third, none of the sure ones, are those of other names."""
    noise = random.Random(seed)
    wrong = noise.sample([image for image in truth if image not in sure], len(truth) // 3)
    return truth | {
        image: noise.choice([texts for texts in truth.values() if texts != truth[image]]) for image in wrong
    }


def judged(folder: Path, wanted: Callable[[str, bool], bool]) -> Captions:
    """The captions in CapFilt's output that are wanted, by source and by whether they were kept, of each picture."""
    found: Captions = defaultdict(list)
    for file in sorted(folder.glob("*/0*.jsonl")):
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            if (kept := file.parent.name == "kept") or line["reason"] == "no match":
                texts, sources = (line[k] if kept else [line[k]] for k in ("caption", "source"))
                found[line["image"]] += [t for t, source in zip(texts, sources, strict=True) if wanted(source, kept)]
    return {image: texts for image, texts in found.items() if texts}


def train(output: Path, task: str, model: Path, data: Captions, pictures: int, seed: int, *options: object) -> None:
    """Train on so many pictures in one epoch, again and again on each: schedules are the same whatever the data."""
    if not (output / "checkpoints" / f"step-{pictures // BATCH // PROCESSES.get(output.name, 1):08}").exists():
        write_pairs(file := output.with_suffix(".jsonl"), data, pictures, seed)
        options += ("--config", Path(__file__).with_suffix(".toml"), "--batch-size", BATCH, "--seed", seed, "--resume")
        blip(output, "train", task, "--recipe", task, "--data", file, "--model", model, *options)


def table(results: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """The means over the seeds and their ranges, and the share of what noise costs that is won back."""
    lines = [[*HEADER], ["---"] * len(HEADER)]
    values = {arm: np.array([[one[arm][column] for column in COLUMNS] for one in results]) for arm in results[0]}
    for arm in (NOISY, *ARMS, CLEAN):
        lines.append([arm])
        for column in values[arm].T:
            mean, low, high = (f"{round(v, 3):g}" for v in (column.mean(), column.min(), column.max()))
            lines[-1].append(mean if low == high else f"{mean} ({low} to {high})")
        for part in (slice(2, 4), slice(4, 5)):
            worst, here, best = (values[one][:, part].mean() for one in (NOISY, arm, CLEAN))
            lines[-1].append(f"{(here - worst) / (best - worst):.0%}" if arm in ARMS and worst < best else "")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_pairs(path: Path, captions: Captions, count: int | None = None, seed: int = 0) -> None:
    """Write each picture with one of its captions; pictures of the same caption are no negatives of each other."""
    choose = random.Random(seed).choice
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for image in islice(cycle(captions), count or len(captions)):
            pair = {"image": image, "caption": (text := choose(captions[image])), "image_id": text}
            file.write(json.dumps(pair) + "\n")


def blip(output: Path, *arguments: object) -> None:
    """Run a command of `blip` in PyTorch, with a thread each; what it says is in a log beside its output."""
    print(f"{output.parent.name}: {arguments[0]}, {output.stem}", flush=True)
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", PROCESSES.get(output.name)]
    command = [*(several if output.name in PROCESSES else ()), "-m", "blip_core.cli", *arguments, "--output", output]
    words = [sys.executable, *map(str, command), "--engine", "pt"]
    with open(output.with_suffix(".log"), "a", encoding="utf-8") as log:
        code = subprocess.run(words, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
    if code:
        raise SystemExit(f"blip {arguments[0]} ended with {code}, {log.name} says why; the same command goes on.")


if __name__ == "__main__":
    run(main)
