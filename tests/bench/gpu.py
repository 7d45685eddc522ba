"""One run on a GPU, meant to take less than eight minutes: what is right there, what it keeps, and how fast it is.

    python -m tests.bench.gpu [--device cuda] [--size base] [--write]      or: make gpu

Needs PyTorch and what `blip_core` needs, no TensorFlow and no network. First each head's outputs and a training step
beside the CPU's, then memory, then images a second beside transformers (where it is installed) in the same run, with
the share of what the card multiplies and moves at best. `--write` puts the tables into docs/benchmarks.md.
`--device cpu --size tiny` runs every line of it in a minute; the tests do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import blip_pt
from blip_core import BlipConfig, BlipTextConfig, BlipVisionConfig
from tests.helpers.contrastive_models import CONTRASTIVE, pairs, tiny
from tests.helpers.frameworks import PyTorch
from tests.helpers.pytorch_models import make, tensors
from tests.helpers.random_models import CONFIGS_OF, HEADS, difference, inputs

LIMITS = {"float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2}
"""How far outputs may differ from those of a CPU in float32, over the greatest value."""
TASKS = ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForNLVR", *CONTRASTIVE)
LENGTH = 20
Rows = list[tuple[str, ...]]


def floating(output: Any) -> dict[str, torch.Tensor]:
    """The floating-point tensors of an output."""
    return {name: value for name, value in output.items() if torch.is_tensor(value) and value.is_floating_point()}


def correctness(device: str) -> Rows:
    """Every head in every precision against the CPU in float32."""
    rows = []
    for head in HEADS:
        cells = []
        for dtype, limit in LIMITS.items():
            worst = 0.0
            for config in CONFIGS_OF:
                model, values = make(head, config), tensors(head, config)
                with torch.no_grad():
                    expected = floating(model(**values))
                    model = model.to(device, getattr(torch, dtype))
                    found = floating(model(**{name: value.to(device) for name, value in values.items()}))
                worst = max(worst, *(difference(expected[name], found[name].float().cpu()) for name in expected))
            cells.append(f"{worst:.0e}" + ("" if worst < limit else " WRONG"))
        rows.append((head, *cells))
    return rows


def steps(model: Any, batch: dict[str, torch.Tensor], count: int = 3) -> list[float]:
    """The losses of some steps of training."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def objectives(device: str) -> Rows:
    """Three steps of every objective on the device and on the CPU, alone and as the one process of DDP."""
    rows = []
    for head in TASKS:
        values = pairs(head) if head in CONTRASTIVE else inputs(head, CONFIGS_OF["wide"])
        found = {}
        for where in ("cpu", device, "DDP"):
            place = device if where == "DDP" else where
            model = tiny(PyTorch, head).to(place)
            batch = {name: torch.as_tensor(value).to(place) for name, value in values.items()}
            with alone(place) if where == "DDP" else warnings.catch_warnings():
                whole = torch.nn.parallel.DistributedDataParallel(model) if where == "DDP" else model
                found[where] = steps(whole, batch)
        expected = found["cpu"]
        worst = {
            where: max(abs(one - other) / abs(other) for one, other in zip(found[where], expected, strict=True))
            for where in (device, "DDP")
        }
        rows.append((head, *(f"{value:.0e}" + ("" if value < 1e-3 else " WRONG") for value in worst.values())))
    return rows


@contextmanager
def alone(device: str) -> Iterator[None]:
    """A process group of this process alone."""
    kind = "nccl" if device.startswith("cuda") else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        store = torch.distributed.FileStore(f"{folder}/store", 1)
        torch.distributed.init_process_group(kind, store=store, rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


class Clock:
    """Measures on a device."""

    def __init__(self, device: str, seconds: float):
        self.device, self.seconds = device, seconds
        self.cuda = device.startswith("cuda")

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def median(self, run: Callable[[], Any]) -> float:
        """The median of the seconds of runs, of which there are three at least, after one that does not count."""
        taken, begin = [], time.perf_counter()
        while len(taken) < 4 or (time.perf_counter() - begin < self.seconds and len(taken) < 50):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[1:])

    def rates(self) -> dict[str, float]:
        """What the device multiplies in each type (FLOP/s) and moves (bytes/s) at best."""
        size, found = (8192 if self.cuda else 512), {}
        for dtype in LIMITS:
            one = torch.randn(size, size, device=self.device, dtype=getattr(torch, dtype))
            found[dtype] = 2 * size**3 / self.median(lambda one=one: one @ one)  # type: ignore[misc]
        whole = torch.empty(size * size * 4, device=self.device)
        copied = torch.empty_like(whole)
        return found | {"memory": 2 * whole.nbytes / self.median(lambda: copied.copy_(whole))}


def theirs(head: str, ours: Any) -> Any:
    """transformers' model with the weights of ours; None where transformers is not installed or has no such model."""
    try:
        import transformers

        config = transformers.BlipConfig.from_dict(ours.config.to_dict())
        model = getattr(transformers, head)(config)
    except (ImportError, AttributeError):
        return None
    model.load_state_dict(ours.state_dict(), strict=False)
    return model.eval()


def systems(head: str, config: BlipConfig, device: str, dtype: str) -> dict[str, Any]:
    """Models to compare: ours, ours compiled, transformers'."""
    torch.manual_seed(0)
    ours = getattr(blip_pt, head)(config).eval()
    found = {"ours": ours, "compiled": ours, "transformers": theirs(head, ours)}
    return {name: model.to(device, getattr(torch, dtype)) for name, model in found.items() if model is not None}


def speed(clock: Clock, config: BlipConfig, batches: tuple[int, ...], texts: int) -> Rows:
    """Captions, answers, matches and training of every system, and the share of what the device can do at best."""
    rates, rows = clock.rates(), []
    rows.append(("best of the device", *(f"{rates[dtype] / 1e12:.1f} TFLOP/s" for dtype in LIMITS),
                 f"{rates['memory'] / 1e9:.0f} GB/s"))  # fmt: skip
    size, device = config.vision_config.image_size, clock.device
    for dtype in LIMITS:
        models = systems("BlipForConditionalGeneration", config, device, dtype)
        for batch in batches:
            pixels = torch.randn(batch, 3, size, size, device=device, dtype=getattr(torch, dtype))
            for beams in (0, 1, 3):
                name = {0: "vision encoder", 1: "captions", 3: "captions, 3 beams"}[beams]
                cells = {}
                for system, model in models.items():
                    if system == "compiled" and (
                        beams or dtype != "bfloat16" or batch not in (batches[0], batches[-1])
                    ):
                        continue  # a step of the search has another size each time: no graph can be recorded of it
                    run = encode(model, pixels, system) if not beams else caption(model, pixels, beams)
                    cells[system] = attempt(clock, run)
                rows.append((f"{name}, {batch} pictures, {dtype}", *shown(cells, batch), share(
                    models["ours"], pixels, beams, cells["ours"], rates, dtype)))  # fmt: skip
        rows.extend(others(clock, config, dtype, batches[-1], texts))
    return rows


def encode(model: Any, pixels: torch.Tensor, system: str) -> Callable[[], Any]:
    """Encode pictures; compiled, by recorded graphs."""
    vision = torch.compile(model.vision_model, mode="reduce-overhead") if system == "compiled" else model.vision_model
    return torch.no_grad()(lambda: vision(pixels))


def caption(model: Any, pixels: torch.Tensor, beams: int) -> Callable[[], Any]:
    """Caption pictures with the same number of tokens each."""
    options = {"num_beams": beams, "min_new_tokens": LENGTH, "max_new_tokens": LENGTH}
    return lambda: model.generate(pixel_values=pixels, **options)


def attempt(clock: Clock, run: Callable[[], Any]) -> float | str:
    """The seconds, or the name of the error."""
    try:
        return clock.median(run)
    except Exception as error:
        return type(error).__name__


def shown(cells: dict[str, float | str], count: int) -> tuple[str, ...]:
    """How many things a second each system does."""
    columns = ("ours", "compiled", "transformers")
    taken = [cells.get(name, "") for name in columns]
    return tuple(one if isinstance(one, str) else f"{count / one:.1f}/s" for one in taken)


def share(
    model: Any, pixels: torch.Tensor, beams: int, seconds: float | str, rates: dict[str, float], dtype: str
) -> str:
    """The share of the best multiplication (vision), or of the best movement of memory (a step reads all weights)."""
    if isinstance(seconds, str):
        return ""
    if beams:
        bytes_read = sum(weight.nbytes for weight in model.text_decoder.parameters()) * LENGTH
        return f"{bytes_read / seconds / rates['memory']:.0%} of memory"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.vision_model(pixels[:1])
    return f"{counter.get_total_flops() * len(pixels) / seconds / rates[dtype]:.0%} of products"


def others(clock: Clock, config: BlipConfig, dtype: str, batch: int, texts: int) -> Rows:
    """Answers, one picture with many texts, and steps of training of the captioner."""
    size, device, rows = config.vision_config.image_size, clock.device, []
    pixels = torch.randn(batch, 3, size, size, device=device, dtype=getattr(torch, dtype))
    ids = torch.randint(5, config.text_config.vocab_size - 5, (texts, 12), device=device)
    asked = {"pixel_values": pixels, "input_ids": ids[:1].repeat(batch, 1)}
    answers = {
        name: attempt(clock, lambda model=model: model.generate(**asked))
        for name, model in systems("BlipForQuestionAnswering", config, device, dtype).items()
        if name != "compiled"
    }
    rows.append((f"answers, {batch} pictures, {dtype}", *shown(answers, batch), ""))
    matches: dict[str, float | str] = {}
    for name, model in systems("BlipForImageTextRetrieval", config, device, dtype).items():
        if name != "compiled":  # transformers wants the picture once for each text
            seen = pixels[:1] if name == "ours" else pixels[:1].expand(texts, -1, -1, -1)
            matches[name] = attempt(clock, torch.no_grad()(lambda model=model, seen=seen: model(ids, seen)))
    rows.append((f"1 picture with {texts} texts, {dtype}", *shown(matches, texts), ""))
    if dtype != "float16":  # which needs a scaled loss
        count, learned = min(batch, 16), {}
        given = {"pixel_values": pixels[:count], "input_ids": ids[:count], "labels": ids[:count]}
        for name, model in systems("BlipForConditionalGeneration", config, device, dtype).items():
            if name != "compiled":
                learned[name] = attempt(clock, lambda model=model: steps(model.train(), given, 1))
        rows.append((f"training, batch of {count}, {dtype}", *shown(learned, count), ""))
    return rows


def memory(clock: Clock, config: BlipConfig, count: int) -> Rows:
    """What stays allocated after many generations, and what copies to the host cost in one."""
    model = systems("BlipForConditionalGeneration", config, clock.device, "float32")["ours"]
    size = config.vision_config.image_size
    used = []
    for number in range(count):
        pixels = torch.randn(1 + number % 3, 3, size, size, device=clock.device)
        caption(model, pixels, 1 + number % 3)()
        if number in (count // 2, count - 1):
            used.append(torch.cuda.memory_allocated() if clock.cuda else 0)
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if clock.cuda else []
    with torch.profiler.profile(activities=activities) as profile:
        caption(model, pixels, 1)()
    copies = [event for event in profile.key_averages() if "DtoH" in event.key]
    spent = sum(event.device_time_total for event in copies) / 1000
    return [
        (f"bytes more after {count} generations than after {count // 2}", str(used[1] - used[0])),
        (f"copies to the host in {LENGTH} steps", str(sum(event.count for event in copies))),
        ("milliseconds of these copies", f"{spent:.2f}"),
    ]


def tiny_config() -> BlipConfig:
    """A model of which a CPU does everything at once; its parts are as wide as each other, as transformers wants it."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = BlipVisionConfig(**sizes, image_size=32, patch_size=8)
    text = BlipTextConfig(**sizes, vocab_size=90, bos_token_id=88, sep_token_id=5, max_position_embeddings=40)
    return BlipConfig.from_text_vision_configs(text, vision)


def table(heading: tuple[str, ...], rows: Rows) -> str:
    """Rows as a table of Markdown."""
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measure(device: str, size: str) -> str:
    """Run all of it; returns the page's part."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    whole = size == "base"
    config = BlipConfig.base() if whole else tiny_config()
    clock = Clock(device, 1.0 if whole else 0.0)
    name = torch.cuda.get_device_name() if clock.cuda else "a CPU"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [
            f"On {name}, PyTorch {torch.__version__}, {size} size, random weights, without TF32. Differences are the "
            "greatest over the greatest value, against a CPU in float32.",
            table(("head", *LIMITS), correctness(device)),
            table(("three steps of training", "loss", "loss, DDP of one process"), objectives(device)),
            table(("memory and copies", "value"), memory(clock, config, 200 if whole else 6)),
            table(("rate", "ours", "ours, compiled", "transformers", "share of the best"),
                  speed(clock, config, (1, 16, 128) if whole else (1, 2), 1000 if whole else 3)),
        ]  # fmt: skip
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu")
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    page = measure(arguments.device, arguments.size)
    print(page)
    if arguments.write:
        path = Path(__file__).parents[2] / "docs" / "benchmarks.md"
        before, _, rest = path.read_text(encoding="utf-8").partition("<!-- gpu -->")
        after = rest.partition("<!-- end of gpu -->")[2]
        path.write_text(f"{before}<!-- gpu -->\n{page}\n<!-- end of gpu -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
