"""Writing a model: its weights in a format, whole or in shards, and its configuration."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints.formats import FORMATS, SAFETENSORS, Format
from blip_core.checkpoints.sharded import INDEX, file_of_variant
from blip_core.checkpoints.writing import About, LazyTensor
from blip_core.files import atomic_path, write_json
from blip_core.generation import GenerationConfig
from blip_core.hub.keywords import PUSH, SAVE, check_rest, read_keywords
from blip_core.parameters.heads import AnyConfig
from blip_core.parameters.models import Parameter


def write_pretrained(
    folder: str | Path,
    model: str,
    config: AnyConfig,
    wanted: Sequence[Parameter],
    value: Callable[[Parameter], np.ndarray],
    *,
    engine: str = "",
    format: str = "safetensors",
    generation_config: GenerationConfig | None = None,
    to_numpy: Callable[[Any], np.ndarray] | None = None,
    from_numpy: Callable[[np.ndarray], Any] | None = None,
    **keywords: Any,
) -> dict[str, Any]:
    """Write `config.json`, `generation_config.json` and the weights of a model in the Hugging Face layout.

    `value` gives the array of one of the `wanted` parameters in PyTorch's layout; one is asked for at a time. New
    files replace old ones only when they are whole, so that a save that is interrupted leaves the earlier model
    readable. `format` is the one where `safe_serialization` asks for no other. `keywords` are those of
    `save_pretrained`; `engine` is the name of the model's, whose `to_numpy` and `from_numpy` turn tensors into arrays
    and back, for `state_dict` and `save_function`. Returns the keywords that are for the Hub. Raises `OSError` if the
    folder cannot be written.
    """
    given = read_keywords(keywords, SAVE, hub=())
    check_rest(given.rest, [], "keyword of save_pretrained", SAVE, PUSH)
    options, folder = given.own, Path(folder)
    if not options["is_main_process"]:
        return {}
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; save_pretrained needs a folder.")
    state = options["state_dict"]
    if state is not None:
        assert to_numpy is not None
        value = partial(_given, state, to_numpy)
    row = FORMATS[format] if options["safe_serialization"] else _older_format(engine)
    tensors = [LazyTensor(p.stored_as, p.shape, value(p).dtype, partial(value, p), p) for p in wanted]
    refused = sorted({tensor.dtype.name for tensor in tensors} & set(row.refused_types))
    if refused:
        raise ValueError(f"{row.name} cannot hold {refused[0]}; leave safe_serialization=True.")
    if options["save_function"] is not None and not options["safe_serialization"]:
        assert from_numpy is not None
        row = replace(row, write=partial(_by_function, options["save_function"], from_numpy))
    about = About(model, config_dict(model, config, tensors[0].dtype))
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, row, row.arrange(tensors), about, options["max_shard_size"], options["variant"])
    if generation_config is not None:
        generation_config.save_pretrained(folder)
    return {**given.rest, "push_to_hub": options["push_to_hub"]}


def _older_format(engine: str) -> Format:
    """Return what a framework wrote before safetensors."""
    return next(r for r in FORMATS.values() if r.framework == engine and r.write and r.name not in SAFETENSORS)


def _given(state: Mapping[str, Any], to_numpy: Callable[[Any], np.ndarray], parameter: Parameter) -> np.ndarray:
    """Return the value that a `state_dict` has for a parameter, under any of its names."""
    found = next((state[name] for name in parameter.places(parameter.part.prefix) if name in state), None)
    if found is None:
        raise ValueError(f"state_dict lacks {parameter.name}; give all weights of the model, or leave it out.")
    array = to_numpy(found)
    if array.shape != parameter.shape:
        raise ValueError(f"state_dict: {parameter.name} is {list(array.shape)} instead of {list(parameter.shape)}.")
    return array


def _by_function(
    function: Callable[..., Any], from_numpy: Callable[[np.ndarray], Any], path: Path, tensors: Any, about: About
) -> None:
    function({name: from_numpy(tensor.read()) for tensor in tensors for name in tensor.names}, str(path))


def config_dict(model: str, config: AnyConfig, dtype: np.dtype) -> dict[str, Any]:
    """Return what `config.json` says of a model whose weights are of a type."""
    return config.to_dict() | {"architectures": [model], "dtype": dtype.name}


def write_model(
    folder: Path,
    format: Format,
    tensors: Sequence[LazyTensor],
    about: About,
    max_shard_size: int | str = "5GB",
    variant: str | None = None,
) -> None:
    """Write weights in a format, in shards of at most `max_shard_size` bytes if it can be sharded, and `config.json`.

    Files of an older model are removed when the new one is whole.
    """
    name = file_of_variant(format.file, variant)
    stem, _, suffix = name.rpartition(".")
    index = folder / file_of_variant(f"{format.file}{INDEX}", variant)
    shards = _split(tensors, parse_size(max_shard_size)) if format.sharded else [list(tensors)]
    old = [
        path
        for row in (format, *([FORMATS[format.replaces]] if format.replaces else ()))
        for path in _files(folder, row, variant)
    ]
    new = [folder / name]
    if len(shards) > 1:
        # Shards never take the name of an older one: until the index is replaced, the old model stays readable.
        tag = f"{uuid.uuid4().hex[:8]}-" if any(path.exists() for path in old) else ""
        new = [folder / f"{stem}-{tag}{i + 1:05}-of-{len(shards):05}.{suffix}" for i in range(len(shards))]
    assert format.write is not None
    for path, shard in zip(new, shards, strict=True):
        with atomic_path(path) as temporary:
            format.write(temporary, shard, about)
    if len(shards) > 1:
        weight_map = {
            name: path.name
            for path, shard in zip(new, shards, strict=True)
            for tensor in shard
            for name in tensor.names
        }
        total = sum(tensor.nbytes for tensor in tensors)
        write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})
        new.append(index)
    for path in old:
        if path not in new:
            path.unlink(missing_ok=True)
    write_json(folder / "config.json", about.config)


def _files(folder: Path, format: Format, variant: str | None) -> list[Path]:
    """Return where a model in a format lies in a folder: in one file, or in shards that are there, and their index."""
    name = file_of_variant(format.file, variant)
    stem, _, suffix = name.rpartition(".")
    index = folder / file_of_variant(f"{format.file}{INDEX}", variant)
    return [*folder.glob(f"{stem}-*.{suffix}"), folder / name, index]


def _split(tensors: Sequence[LazyTensor], limit: int) -> list[list[LazyTensor]]:
    shards: list[list[LazyTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def parse_size(size: int | str) -> int:
    """Return the bytes of a size such as `5GB`, `200MB`, `1GiB`, or a number. Raises `ValueError` for all else."""
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if not found or found[2].upper() not in units or not (count := int(float(found[1]) * units[found[2].upper()])):
        raise ValueError(f"max_shard_size must be a size such as '5GB' or '200MB', got {size!r}.")
    return count
