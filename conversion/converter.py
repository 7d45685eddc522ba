"""Converting a checkpoint of any format into any other, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from blip_core.checkpoints.companions import Beside
from blip_core.checkpoints.formats import open_any
from blip_core.checkpoints.keras_files import write_keras
from blip_core.checkpoints.loading import read_config, with_image_size
from blip_core.checkpoints.plan import DTYPES, ORIGINAL_HEADS, Plan, make_plan
from blip_core.checkpoints.saving import config_dict, write_safetensors, write_weights
from blip_core.checkpoints.staging import check_destination, reaching_the_disk, staged
from blip_core.checkpoints.torch_writer import write_torch
from blip_core.config import BlipConfig
from blip_core.files import FULL_DISK, write_json
from blip_core.parameters.matching import compare
from blip_core.parameters.models import MODELS, AnyConfig
from blip_core.parameters.table import BUFFERS
from conversion.inspection import find_head
from conversion.verification import check_tied, verify

FORMATS = {
    "safetensors": "model.safetensors",
    "pytorch_model.bin": "pytorch_model.bin",
    "pth": "model.pth",
    "tf_model.h5": "tf_model.h5",
    "weights.h5": "model.weights.h5",
}
"""What `to` may be, and the file of each in a folder."""

SHARDED = ("safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` has done, or with `dry_run` would do.

    `initialised` are the parts that the source has nothing of, drawn at random; `left_out` the source's tensors that
    the destination does not take; `problems` what keeps a dry run from being a real one.
    """

    source: str
    destination: str
    source_format: str
    to: str
    head: str
    dtype: str
    tensors: int
    bytes: int
    initialised: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a JSON-ready dictionary."""
        return asdict(self)


def convert(
    source: str | Path,
    destination: str | Path,
    to: str | None = None,
    *,
    config: AnyConfig | Mapping[str, Any] | str | Path | None = None,
    dtype: str | None = None,
    head: str | None = None,
    image_size: int | None = None,
    max_shard_size: int | str | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> ConversionReport:
    """Convert a checkpoint - a folder, a file or a Hub repository - and return what was done.

    A destination that ends in `.pth` is that file; any other is a folder, which gets the weights under their usual
    name and the configuration, processor and tokenizer files beside them. `to` is "safetensors" (the default),
    "pytorch_model.bin", "pth", "tf_model.h5" or "weights.h5".

    `config` gives what the checkpoint lacks, as in `from_pretrained`; `dtype` ("float32", "float16", "bfloat16")
    converts the weights; `head` is the class of the model to write, cut out of a larger one or widened; `image_size`
    in pixels resizes the position embeddings; `max_shard_size` (such as "5GB") splits the first two formats;
    `tokenizer` is a folder or file of the vocabulary. What was written is read again and compared. The destination
    appears in one step; an existing one is replaced only with `overwrite`. `dry_run` writes nothing.

    Raises `OSError` where something cannot be found or written, and `ValueError` for a damaged source, a source that
    does not fit, or options that do not go together.
    """
    target = Path(destination).expanduser()
    to = to or ("pth" if target.suffix == ".pth" else "safetensors")
    _check_options(to, target, dtype, head, max_shard_size)
    checkpoint = open_any(source, revision=revision)
    check_destination(target, checkpoint.path, folder=target.suffix != ".pth", overwrite=overwrite)
    head = head or find_head(checkpoint)
    if head is None:
        some = ", ".join(sorted(checkpoint.shapes)[:3])
        raise ValueError(f"{checkpoint.path} holds no BLIP that is known (it has {some}); name its class with head=.")
    if to == "pth" and head not in ORIGINAL_HEADS:
        raise ValueError(f"The original has no {head}; its format takes {', '.join(ORIGINAL_HEADS)}.")
    settings = read_config(head, checkpoint, config)
    settings = settings if image_size is None else with_image_size(settings, image_size)
    resize = image_size is not None or config is not None
    found = compare(head, settings, checkpoint.shapes, resize=resize, with_state=isinstance(settings, BlipConfig))
    try:
        if not dry_run:
            found.check(head, checkpoint.shapes)
            check_tied(checkpoint, found)
        plan = Plan() if found.problems else make_plan(checkpoint, head, settings, found, to, dtype)
        plan.check(to)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
    taken = {found.sources.get(parameter.name, "") for parameter, _ in plan.tensors}
    used = taken.union(*(found.tied.get(name, ()) for name in taken))
    beside = Beside(checkpoint.path.parent, head, settings, tokenizer, resized=image_size is not None)
    report = ConversionReport(
        source=str(checkpoint.path),
        destination=str(target),
        source_format=checkpoint.format,
        to=to,
        head=head,
        dtype=plan.dtype.name,
        tensors=len(plan.names),
        bytes=sum(stored.nbytes for stored in plan.stored),
        initialised=[*found.new_parts, *plan.new_state],
        left_out=[]
        if found.problems
        else sorted(name for name in checkpoint.keys() - used if not name.endswith(BUFFERS)),
        warnings=[*_warnings(to, settings), *(beside.warnings if target.suffix != ".pth" else [])],
        problems=found.problems,
    )
    if not dry_run:
        with _disk(target, report.bytes), staged(target) as stage, reaching_the_disk(stage):
            _write(stage, target, to, head, settings, plan, beside, max_shard_size or "5GB")
            verify(stage, plan)
    return report


def _check_options(
    to: str, target: Path, dtype: str | None, head: str | None, max_shard_size: int | str | None
) -> None:
    for name, value, choices in (("to", to, FORMATS), ("dtype", dtype, DTYPES), ("head", head, MODELS)):
        if value is not None and value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")
    if target.suffix == ".pth" and to != "pth":
        raise ValueError(f"{target} names an original checkpoint, not {to}; give a folder as destination.")
    if max_shard_size is not None and to not in SHARDED:
        raise ValueError(f"max_shard_size goes with {' and '.join(SHARDED)}; {to} is always one file.")


def _warnings(to: str, settings: AnyConfig) -> list[str]:
    """What the readers of the target will not see."""
    if to != "pth":
        return []
    assert isinstance(settings, BlipConfig)
    text, vision = settings.text_config, settings.vision_config
    width = vision.hidden_size // 64
    usual = {
        "vision_config.layer_norm_eps": (vision.layer_norm_eps, 1e-6),
        "vision_config.num_attention_heads": (vision.num_attention_heads, width),
        "text_config.num_attention_heads": (text.num_attention_heads, 12),
        "text_config.hidden_act": (text.hidden_act, "gelu"),
        "vision_config.hidden_act": (vision.hidden_act, "gelu"),
    }
    return [
        f"{name} is {value}, where the original has {expected}: its code will compute something else."
        for name, (value, expected) in usual.items()
        if value != expected
    ]


def _write(
    stage: Path,
    target: Path,
    to: str,
    head: str,
    settings: AnyConfig,
    plan: Plan,
    beside: Beside,
    max_shard_size: int | str,
) -> None:
    """Write the destination: one file, or a folder of all files."""
    original = partial(write_torch, beside={"config": config_dict(head, settings, plan.dtype)})
    if target.suffix == ".pth":
        original(stage, plan.stored)
        return
    stage.mkdir()
    if to in SHARDED:
        write = write_safetensors if to == "safetensors" else write_torch
        write_weights(stage, FORMATS[to], plan.stored, write, max_shard_size)
    elif to == "pth":
        original(stage / FORMATS[to], plan.stored)
    else:
        write_keras(stage / FORMATS[to], head, plan.tensors)
    write_json(stage / "config.json", config_dict(head, settings, plan.dtype))
    beside.write(stage)


@contextmanager
def _disk(target: Path, size: int) -> Iterator[None]:
    """Say in one sentence that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK or "No space left" in str(error):
            raise OSError(
                f"{target} could not be written: the disk is full or too small for {size:,} bytes. Nothing was left."
            ) from error
        raise
