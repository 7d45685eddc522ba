"""Converting a checkpoint of any format into any other, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from blip_core.checkpoints import FORMATS, Format, open_checkpoint
from blip_core.checkpoints.exported import require_packages, write_export
from blip_core.checkpoints.loading import config_path, find_head, read_config, with_image_size
from blip_core.checkpoints.plan import DTYPES, cast, new_state, plan_tensors, wanted_parameters
from blip_core.checkpoints.processor_files import ProcessorFiles
from blip_core.checkpoints.saving import config_dict, write_model
from blip_core.checkpoints.writing import About, LazyTensor
from blip_core.config import BlipConfig
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.matching import compare
from blip_core.parameters.table import BUFFERS
from blip_core.stores import on_disk
from blip_core.validators import whole_number
from conversion.destination import check_destination, full_disk_named, staged, synced
from conversion.verification import check_tied, verify


def writable() -> list[str]:
    """Return the names of the formats that `convert` can write."""
    return [row.name for row in FORMATS.values() if row.write]


def precisions() -> list[str]:
    """Return the lower precisions of weights that some export offers."""
    return list(dict.fromkeys(name for row in FORMATS.values() for name in row.weights))


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` has done, or with `dry_run` would do.

    Attributes:
        source: The weight file that was read, or the index of its shards.
        destination: The folder or file that was written.
        source_format: The format of the source, a name of `FORMATS`.
        to: The format of the destination.
        head: The class of the model.
        dtype: The type of its weights.
        tensors: How many tensors the destination holds, tied ones counted under each name.
        bytes: Their size.
        initialised: The parts that the source lacks, which were initialised at random.
        left_out: The tensors of the source that the destination does not take.
        warnings: What programs that read the destination will do otherwise, and files that could not be made.
        problems: Why a dry run could not be a real one: "missing", "unexpected", "duplicate" and "misshapen" tensors.
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
    base_model: str | Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    free_size: bool = False,
    weights: str | None = None,
    max_new_tokens: int | None = None,
) -> ConversionReport:
    """Convert a checkpoint into another format, or a part of it into a checkpoint of its own.

    What was written is read again and compared bit by bit. The destination appears in one step.

    Args:
        source: A folder, a weight file or a Hub repository, in any format.
        destination: A folder, which gets the weights under their usual name, and the configuration, processor and
            tokenizer files; or a file that ends in `.pth`, which gets the weights alone.
        to: "safetensors" (the default for a folder), "int8" (safetensors with rounded weights, see
            `docs/benchmarks.md`), "pytorch_model.bin", "pth" (the default for a file), "tf_model.h5" or
            "weights.h5"; or an export, "onnx", "onnx-caption", "openvino", "torch-export",
            "savedmodel" or "litert" (see `docs/exports.md`).
        config: What the checkpoint lacks or is to be changed, as in `from_pretrained`: a configuration, a file of
            one, or a dictionary of settings.
        dtype: The type of the weights, "float32", "float16" or "bfloat16"; as they are without it.
        head: The class of the model to write, cut out of a larger model or widened from a smaller one.
        image_size: In pixels; resizes the position embeddings.
        max_shard_size: Bytes, or a size such as "5GB"; splits safetensors and `pytorch_model.bin`.
        tokenizer: A folder or file of the vocabulary, for a source that has none.
        revision: Branch, tag or commit of the Hub repository.
        base_model: The base of an adapter, where it is not where the adapter says. The adapter is merged.
        overwrite: Replace a destination that exists.
        dry_run: Write nothing, and return what would be written and what is missing.
        free_size: Let an export take pictures of any size.
        weights: "int8" rounds the weights of an export to 8 bits, "int8-dynamic" (ONNX) also what they are
            multiplied by, in a way that is faster and less exact.
        max_new_tokens: The most tokens, at least 1, that an export with a whole search generates; 20 unless given.

    Returns:
        The report.

    Raises:
        OSError: Something was not found or could not be written.
        ValueError: The source is damaged or does not fit, or options do not go together.

    Example:
        >>> from blip_core.hub import SHIPPED
        >>> convert(SHIPPED, "keras", to="tf_model.h5").head
        'BlipForPreTraining'
    """
    target = on_disk(destination).expanduser()
    row = _find_format(to, target)
    _check_options(row, dtype, head, max_shard_size)
    if max_new_tokens is not None:
        whole_number("max_new_tokens", max_new_tokens, 1)
    options = _export_options(row, free_size=free_size, weights=weights, max_new_tokens=max_new_tokens)
    is_file = bool(row.suffix) and target.suffix == row.suffix
    checkpoint = open_checkpoint(source, revision, base_model)
    check_destination(target, checkpoint.path, folder=not is_file, overwrite=overwrite)
    head = head or find_head(checkpoint)
    if head is None:
        some = ", ".join(sorted(checkpoint.shapes)[:3])
        raise ValueError(f"{checkpoint.path} holds no BLIP that is known (it has {some}); name its class with head=.")
    if row.heads and head not in row.heads:
        raise ValueError(f"{row.name} cannot hold a {head}; it takes {', '.join(row.heads)}.")
    settings = read_config(head, checkpoint, config)
    settings = settings if image_size is None else with_image_size(settings, image_size)
    if row.tied and not getattr(getattr(settings, "text_config", settings), "tie_word_embeddings", True):
        raise ValueError(
            f"{row.name} cannot hold a projection to the vocabulary with weights of its own, as this model has; "
            "convert to safetensors."
        )
    resize = image_size is not None or config is not None
    found = compare(head, settings, checkpoint.shapes, resize=resize, with_state=isinstance(settings, BlipConfig))
    try:
        if not dry_run:
            found.check(head, checkpoint.shapes)
            check_tied(checkpoint, found)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
    wanted = [] if found.problems else wanted_parameters(head, settings, found, row.training_state)
    planned = plan_tensors(checkpoint, settings, wanted, found)
    if dtype is not None:
        planned = [cast(tensor, DTYPES[dtype]) for tensor in planned]
    refused = sorted({tensor.dtype.name for tensor in planned} & set(row.refused_types))
    if refused:
        taken = " or ".join(f"dtype={name!r}" for name in DTYPES if name not in row.refused_types)
        raise ValueError(f"{row.name} cannot hold {refused[0]}; pass {taken}.")
    tensors: list[LazyTensor] = row.arrange(planned)
    kept = {found.sources.get(parameter.name, "") for parameter in wanted}
    used = kept.union(*(found.tied.get(name, ()) for name in kept))
    left_out = [] if found.problems else [n for n in checkpoint if n not in used and not n.endswith(BUFFERS)]
    files = ProcessorFiles(config_path(checkpoint).parent, head, settings, tokenizer, resized=image_size is not None)
    about = About(head, config_dict(head, settings, planned[0].dtype if planned else DTYPES["float32"]))
    report = ConversionReport(
        source=str(checkpoint.path),
        destination=str(target),
        source_format=checkpoint.format,
        to=row.name,
        head=head,
        dtype=about.config["dtype"],
        tensors=sum(len(tensor.names) for tensor in tensors),
        bytes=sum(tensor.nbytes for tensor in tensors),
        initialised=[*found.new_parts, *new_state(wanted, found)],
        left_out=sorted(left_out),
        warnings=[*(row.warn(settings) if row.warn else []), *(files.warnings * (not is_file))],
        problems=found.problems,
    )
    if not dry_run:
        with full_disk_named(target, report.bytes), staged(target) as stage, synced(stage):
            if is_file:
                assert row.write is not None
                row.write(stage, tensors, about)
            else:
                stage.mkdir()
                write_model(stage, row, tensors, about, max_shard_size or "5GB")
                files.write(stage)
            verify(stage, row, tensors)
            if row.export is not None:
                export = write_export(row, stage, head, about.config["dtype"], **options)
                if weights is not None:
                    report = replace(report, dtype=weights, bytes=export.bytes)
    return report


def _find_format(to: str | None, target: Path) -> Format:
    """Return the format that is asked for, or the one of the destination's suffix, or safetensors."""
    by_suffix = next((row.name for row in FORMATS.values() if row.suffix and row.suffix == target.suffix), None)
    to = to or by_suffix or "safetensors"
    if to not in writable():
        raise ValueError(f"to must be one of {', '.join(writable())}; got {to!r}.")
    if by_suffix is not None and to != by_suffix:
        raise ValueError(f"{target} names a file of the format {by_suffix}, not {to}; give a folder as destination.")
    return FORMATS[to]


def _export_options(row: Format, **options: Any) -> dict[str, Any]:
    """Return the options that are given. Raises `ValueError` for one that the format does not take."""
    given = {name: value for name, value in options.items() if value not in (None, False)}
    for name in given.keys() - set(row.options):
        takers = ", ".join(other.name for other in FORMATS.values() if name in other.options)
        raise ValueError(f"{name} goes with {takers}, and not with {row.name}; leave it out.")
    if (weights := given.get("weights", "")) not in ("", *row.weights):
        raise ValueError(f"weights of {row.name} must be one of {', '.join(row.weights)}; got {weights!r}.")
    require_packages(row, weights)
    return given


def _check_options(row: Format, dtype: str | None, head: str | None, max_shard_size: int | str | None) -> None:
    for name, value, choices in (("dtype", dtype, DTYPES), ("head", head, HEADS)):
        if value is not None and value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")
    if max_shard_size is not None and not row.sharded:
        sharded = " and ".join(other.name for other in FORMATS.values() if other.sharded)
        raise ValueError(f"max_shard_size goes with {sharded}; {row.name} is always one file.")
