"""Pictures a second that CapFilt does, beside a plain loop over transformers' models, at base size.

    python -m tests.bench.bootstrapping [--pictures 16] [--rounds 3] [--systems ours shared processes loop]

`ours` is `capfilt` with a captioner and a filter; `shared` the same where both have one vision encoder; `processes` as
many processes as there are threads, with one each and a share of the shards. `loop` is what one writes with
transformers 4.57.6: picture by picture a caption drawn from the same prompt, with the same options and lengths, then
the matching model once with the web's caption and once with this one. Weights are random and the same, pictures JPEGs
of 640 x 480, prepared as 384 x 384. Systems take turns, and medians are compared. `busy` is the share of the time in
which the models compute; loading, which is once, does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.speed_data import CACHE, PHOTOS, ROOT, write_checkpoint

SYSTEMS = ("ours", "shared", "processes", "loop")
BATCH = 8


def prepare(folder: Path, pictures: int) -> None:
    """Checkpoints with their processors, unless they are there, and pictures with a caption each."""
    from PIL import Image

    from blip_core import BlipProcessor

    for name in ("captioner", "matcher"):
        if not (CACHE / name / "done").exists():
            write_checkpoint(name)
        BlipProcessor.from_pretrained().save_pretrained(CACHE / name)
    photo = Image.open(PHOTOS[0]).convert("RGB").resize((640, 480))
    entries = []
    for number in range(pictures):
        photo.rotate(number).save(folder / f"{number}.jpg")
        entries.append({"image": f"{number}.jpg", "caption": f"photo {number} of an astronaut in front of a flag"})
    (folder / "data.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def ours(system: str, folder: Path, number: int, of: int) -> None:
    """Answer each line of standard input with the seconds of a run, and the seconds that models took in it."""
    from blip_core import BlipProcessor
    from blip_core.capfilt import CapFilter, Captioning, capfilt
    from blip_core.datasets import open_dataset
    from blip_core.inference import Captioner, Matcher
    from blip_core.jobs.sharding import Share
    from blip_pt import BlipForConditionalGeneration, BlipForImageTextRetrieval

    class Timed(CapFilter):
        seconds = 0.0

        def __call__(self, *arguments: Any) -> Any:
            begin = time.perf_counter()
            found = super().__call__(*arguments)
            self.seconds += time.perf_counter() - begin
            return found

    processor = BlipProcessor.from_pretrained(CACHE / "captioner")
    captioner = BlipForConditionalGeneration.from_pretrained(CACHE / "captioner").eval()
    matcher = BlipForImageTextRetrieval.from_pretrained(CACHE / "matcher").eval()
    models = Timed(Captioner(captioner, processor), Matcher(matcher, processor), Captioning())
    models.shared = system == "shared"  # random weights are drawn alike
    models.identity  # noqa: B018  # a property that is computed once
    answer("ready")
    for line in sys.stdin:
        dataset = open_dataset(folder / "data.jsonl", "caption")
        dataset.examples = dataset.examples[: int(line)]
        models.seconds, begin = 0.0, time.perf_counter()
        output = Path(tempfile.gettempdir()) / f"{folder.name}-{system}"
        capfilt(dataset, models, output, shard_size=-(-len(dataset) // of), batch_size=BATCH, share=Share(number, of))
        answer({"seconds": time.perf_counter() - begin, "models": models.seconds})


def loop(folder: Path) -> None:
    """The same with transformers, a picture after the other."""
    from PIL import Image
    from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipProcessor

    processor = BlipProcessor.from_pretrained(CACHE / "captioner")
    captioner = BlipForConditionalGeneration.from_pretrained(CACHE / "captioner").eval()
    matcher = BlipForImageTextRetrieval.from_pretrained(CACHE / "matcher").eval()
    entries = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    answer("ready")
    for line in sys.stdin:
        begin = time.perf_counter()
        for entry in entries[: int(line)]:
            image = Image.open(folder / entry["image"])
            inputs = processor(images=image, text="a picture of", return_tensors="pt")
            options = {"do_sample": True, "top_p": 0.9, "repetition_penalty": 1.1}
            tokens = captioner.generate(**inputs, **options, min_new_tokens=1, max_new_tokens=16)
            caption = processor.decode(tokens[0], skip_special_tokens=True).removeprefix("a picture of").strip()
            for text in (entry["caption"], caption):
                inputs = processor(images=image, text=text, truncation=True, max_length=35, return_tensors="pt")
                matcher(**inputs)[0].softmax(-1)[0, 1].item()
        answer({"seconds": time.perf_counter() - begin, "models": float("nan")})


def answer(what: Any) -> None:
    print(json.dumps(what), flush=True)


class Worker:
    """A system in processes of its own."""

    def __init__(self, system: str, folder: Path, args: argparse.Namespace):
        of = args.threads if system == "processes" else 1
        self.output = Path(tempfile.gettempdir()) / f"{folder.name}-{system}"
        python = str(args.oracle) if system == "loop" else sys.executable
        more = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(args.threads // of)}
        command = [python, "-m", "tests.bench.bootstrapping", "--worker", system, str(folder)]
        self.processes = [
            subprocess.Popen(
                [*command, str(number + 1), str(of)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                cwd=ROOT, env=os.environ | more,
            )
            for number in range(of)
        ]  # fmt: skip
        for process in self.processes:
            self.read(process)

    @staticmethod
    def read(process: subprocess.Popen[str]) -> Any:
        assert process.stdout
        for line in process.stdout:
            if line[0] in '{"':
                return json.loads(line)
        raise RuntimeError("a worker ended")

    def run(self, pictures: int) -> tuple[float, float]:
        """Seconds of a run, and the share of them in which the models compute."""
        shutil.rmtree(self.output, ignore_errors=True)
        begin = time.perf_counter()
        for process in self.processes:
            assert process.stdin
            print(pictures, file=process.stdin, flush=True)
        found = [self.read(process) for process in self.processes]
        seconds = time.perf_counter() - begin
        shutil.rmtree(self.output, ignore_errors=True)
        return seconds, statistics.mean(one["models"] for one in found) / seconds

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def main() -> None:
    if "--worker" in sys.argv[1:]:
        system, folder, number, of = sys.argv[2:]
        return loop(Path(folder)) if system == "loop" else ours(system, Path(folder), int(number), int(of))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--oracle", default=ROOT / ".venv-oracle/bin/python", help="Python with transformers 4.57.6")
    parser.add_argument("--prepare", action="store_true", help="only write the checkpoints")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capfilt-") as name:
        prepare(Path(name), args.pictures)
        if args.prepare:
            return
        workers = {system: Worker(system, Path(name), args) for system in args.systems}
        runs: dict[str, list[tuple[float, float]]] = {system: [] for system in workers}
        for worker in workers.values():
            worker.run(2)  # to warm up
        for _ in range(args.rounds):
            for system, worker in workers.items():
                runs[system].append(worker.run(args.pictures))
        for worker in workers.values():
            worker.end()
    seconds = {system: statistics.median(one for one, _ in found) for system, found in runs.items()}
    for system, found in runs.items():
        busy = statistics.median(share for _, share in found)
        rate = f"{args.pictures / seconds[system]:.2f} pictures/s, {seconds[system] / args.pictures:.2f} s a picture"
        ratio = f", {seconds['loop'] / seconds[system]:.2f}x the loop's rate" if "loop" in seconds else ""
        print(f"{system:<10} {rate}{ratio}{'' if busy != busy else f', busy {busy:.1%}'}")


if __name__ == "__main__":
    main()
