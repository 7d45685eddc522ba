"""What bootstrapping wins back: the shipped model's recipe in small, with wrong captions, without and with CapFilt.

    python -m tests.shipped.bootstrap FOLDER OUTPUT [NAMES EPOCHS SEEDS]

FOLDER is what `tests.shipped.prepare` made; docs/capfilt.md says what is done. After each seed a table of Markdown is
printed. Two processes of one thread work at once. What is done is not done again; trainings go on where they were.
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
from blip_core.datasets.augmentation import on_ground
from blip_core.files import atomic_path, read_json, write_json
from tests.shipped.prepare import write_model

WIDTH, LAYERS, BATCH, NOISY, CLEAN = 128, (4, 2), 64, "noisy", "clean"
DRAWINGS = 6  # of each name, or more; of flags there are fewer
SURE = "twemoji"  # the style whose captions are right and known to be, as the paper's COCO
PASSES, FINE_TUNING = 10, ("--learning-rate", 1e-4, "--set", "min_learning_rate=0", "--set", "warmup_steps=0")
ARMS: dict[
    str, tuple[str, Callable[[str, bool], bool]]
] = {  # a run of CapFilt, and what is taken by source and judgement
    "captioner alone": ("nucleus", lambda source, kept: True),
    "filter alone": ("nucleus", lambda source, kept: kept and source == "web"),
    "both, nucleus": ("nucleus", lambda source, kept: kept),
    "both, beams": ("beams", lambda source, kept: kept),
}
COLUMNS = ("pictures", "right", "image_to_text_recall_1", "text_to_image_recall_1", "cider")
HEADER = ("", "pictures", "right", "picture → name", "name → picture", "CIDEr", "recall won back", "CIDEr won back")


def main(folder: Path, output: Path, names: int = 200, epochs: int = 75, seeds: int = 3) -> None:
    """Do all steps."""
    place = output / f"{names} names, {epochs} epochs"
    truth = prepare(folder, place, names)
    results = []
    for seed in range(seeds):
        results.append(of_seed(place / f"seed {seed}", truth, epochs * len(truth), seed))
        write_json(place / "results.json", {"seeds": results})
        print(f"\n{table(results)}\n", flush=True)


def prepare(folder: Path, place: Path, names: int) -> dict[str, str]:
    """Put drawings on white, and write the new model; returns the right caption of each picture to learn."""
    parts = {part: list(open_dataset(folder / f"{part}.json", "pretrain")) for part in ("pretrain", "held_out")}
    drawings = Counter(str(example.image_id) for example in parts["pretrain"])
    chosen = random.Random(0).sample(sorted(name for name, count in drawings.items() if count >= DRAWINGS), names)
    truths: dict[str, dict[str, str]] = defaultdict(dict)
    for part, examples in parts.items():
        for example in (e for e in examples if e.image_id in chosen):
            target = place.absolute() / "pictures" / Path(*Path(example.images[0].name).parts[-2:])
            truths[part][str(target)] = str(example.image_id)
            with atomic_path(target) as temporary:
                on_ground(example.images[0].load(), (255, 255, 255)).save(temporary, format="PNG")
        write_pairs(place / f"{part}.jsonl", truths[part].items())
    if not (place / "new" / "config.json").exists():
        write_model(place / "new", chosen, WIDTH, LAYERS)
    return truths["pretrain"]


def of_seed(place: Path, truth: Mapping[str, str], pictures: int, seed: int) -> dict[str, dict[str, float]]:
    """Do all steps with one seed; returns the values of all columns for each data set."""
    sure = {image: [name] for image, name in truth.items() if Path(image).parent.name == SURE}
    noisy = with_noise(truth, sure, seed)
    write_json(place / "wrong.json", {image: text for image, text in noisy.items() if text != truth[image]})
    write_pairs(place / "web.jsonl", [(image, text) for image, text in noisy.items() if image not in sure])
    data = {arm: {i: [text] for i, text in one.items()} for arm, one in ((NOISY, noisy), (CLEAN, truth))}

    def train(name: str, task: str, model: Path, captions: dict[str, list[str]], count: int, *options: object) -> None:
        # One epoch is the whole course, of the same length whatever the data.
        if not (place / name / "checkpoints" / f"step-{count // BATCH:08}").exists():
            draw = random.Random(seed).choice
            write_pairs(place / f"{name}.jsonl", ((i, draw(captions[i])) for i in islice(cycle(captions), count)))
            options += ("--config", Path(__file__).with_suffix(".toml"), "--batch-size", BATCH, "--seed", seed)
            options += ("--data", place / f"{name}.jsonl", "--model", model, "--output", place / name, "--resume")
            blip(place / f"{name}.log", "train", task, *options)

    def learn(name: str) -> dict[str, float]:
        train(name, "pretrain", place.parent / "new" / "config.json", data[name], pictures)
        right = [np.mean([text == truth[image] for text in texts]) for image, texts in data[name].items()]
        found = {"pictures": len(right), "right": float(np.mean(right))}
        for task, options in {"retrieval": ("--rerank", 0), "caption": ()}.items():
            if not (output := place / f"{name}, {task}.json").exists():
                options += ("--data", place.parent / "held_out.jsonl", "--batch-size", BATCH, "--output", output)
                blip(place / f"{name}.log", "evaluate", task, "--model", place / name, *options)
            found |= read_json(output)["metrics"]
        return {column: found[column] for column in COLUMNS}

    def fine_tune(name: str, task: str) -> None:
        train(name, task, place / NOISY, sure, PASSES * len(sure), *FINE_TUNING)

    def capfilt(name: str, how: Sequence[object]) -> None:
        if not (place / name / "report.html").exists():
            models = ("--captioner", place / "captioner", "--filter", place / "filter", "--prompt", "", *how)
            options = ("--input", place / "web.jsonl", "--output", place / name, "--batch-size", BATCH, "--seed", seed)
            blip(place / f"{name}.log", "capfilt", *models, *options)

    with ThreadPoolExecutor(2) as pool:
        results = [*pool.map(learn, (NOISY, CLEAN))]
        list(pool.map(fine_tune, ("captioner", "filter"), ("caption", "retrieval")))
        list(pool.map(capfilt, ("nucleus", "beams"), ((), ("--beams", 3))))
        data |= {arm: {**sure, **judged(place / run, wanted)} for arm, (run, wanted) in ARMS.items()}
        return dict(zip(data, [*results, *pool.map(learn, ARMS)], strict=True))


def with_noise(truth: Mapping[str, str], sure: Iterable[str], seed: int) -> dict[str, str]:
    """The captions of all pictures, of which a third, none of the sure ones, are those of other names."""
    noise, names = random.Random(seed), sorted(set(truth.values()))
    wrong = noise.sample([image for image in truth if image not in sure], len(truth) // 3)
    return {**truth, **{image: noise.choice([name for name in names if name != truth[image]]) for image in wrong}}


def judged(folder: Path, wanted: Callable[[str, bool], bool]) -> dict[str, list[str]]:
    """The captions in CapFilt's output that are wanted, by source and by whether they were kept, of each picture."""
    found = defaultdict(list)
    for file in sorted(folder.glob("*/0*.jsonl")):
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            if (kept := file.parent.name == "kept") or line["reason"] == "no match":
                texts, sources = (line[k] if kept else [line[k]] for k in ("caption", "source"))
                found[line["image"]] += [t for t, source in zip(texts, sources, strict=True) if wanted(source, kept)]
    return {image: texts for image, texts in found.items() if texts}


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


def write_pairs(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Write pictures and captions; pictures of the same caption are no negatives of each other."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"image": i, "caption": text, "image_id": text}) + "\n" for i, text in pairs)


def blip(log: Path, *arguments: object) -> None:
    """Run a command of `blip` in PyTorch, with one thread; what it says goes to a log."""
    print(f"{log.parent.name}: {arguments[0]}, {log.stem}", flush=True)
    command = [sys.executable, "-m", "blip_core.cli", *map(str, arguments), "--framework", "pt"]
    with open(log, "a", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    if code:
        raise SystemExit(f"blip {arguments[0]} ended with {code}, {log} says why; the same command goes on.")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]), *map(int, sys.argv[3:]))
