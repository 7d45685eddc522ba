"""LoRA adapters as PEFT writes them: small changes to a base model, which is found, and merged while it is read.

Those of `blip train --lora` are written here, too, so that PEFT and we read them.

A tensor of the base becomes W + scale * B A when it is read; neither a framework nor PEFT is needed. The names in an
adapter are the published ones. What cannot be merged exactly is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints import safetensors_file, torch_reader
from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.checkpoints.safetensors_file import write_arrays
from blip_core.files import atomic_path, read_json, write_json
from blip_core.hub import ADAPTER, base_of_adapter
from blip_core.parameters.matching import other_names
from blip_core.parameters.table import TIED_PROJECTION, WORDS
from blip_core.validators import is_number, is_whole

PREFIX, WEIGHTS = "base_model.model.", "adapter_model.safetensors"
WORDS_OF_DECODER = f"bert.{WORDS.name}"
REMEDY = "merge it with PEFT (merge_and_unload), save the model, and load that"
KINDS = {
    "use_dora": "DoRA", "use_qalora": "QALoRA", "use_bdlora": "BD-LoRA", "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow", "kasa_config": "KaSA", "monteclora_config": "MonteCLoRA", "velora_config": "VeLoRA",
    "layer_replication": "LoRA with layer_replication", "target_parameters": "LoRA with target_parameters",
    "trainable_token_indices": "LoRA with trainable_token_indices",
}  # fmt: skip
"""Settings of `adapter_config.json` that make more of an adapter than low-rank changes, and what to call it then."""
CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of `init_lora_weights` with which training began by changing the base itself."""
FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight|(\.bias))?")
WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)")
PATTERN = re.compile(r"\^?(?:\w|\.|\\\.|\\d\+?|-)+")
"""The regular expressions that `alpha_pattern` may have as keys: none that take long."""


@dataclass
class Change:
    """What becomes of a tensor of the base: the adapter's `value` in its place, plus scale * B A, plus scale * bias.

    `value`, `a`, `b` and `bias` are names of the adapter's tensors; "" stands for none.
    """

    module: str
    value: str = ""
    a: str = ""
    b: str = ""
    bias: str = ""
    embedding: bool = False
    scale: float = 1.0


class AdaptedCheckpoint(Checkpoint):
    """A base checkpoint with a LoRA adapter; what it changes is merged when it is read, and has the base's type."""

    def __init__(self, base: Checkpoint, weights: Checkpoint, settings: Mapping[str, Any]):
        # A base may store the projection to the vocabulary as the word embeddings alone. PEFT changes one of the two
        # without the other, so that they are no longer tied.
        embeddings = {
            name.removesuffix(WORDS_OF_DECODER) + TIED_PROJECTION: name
            for name in base
            if name.endswith(WORDS_OF_DECODER)
        }
        shapes = {**{name: base.shapes[words] for name, words in embeddings.items()}, **base.shapes}
        self._base, self._weights, self._changes = base, weights, _changes(weights, settings, shapes)
        tied = {} if settings.get("ensure_weight_tying") else embeddings
        apart = {name: words for name, words in tied.items() if self._changes.keys() & {name, words}}
        self._sources = {name: words for name, words in apart.items() if name not in base}
        dtypes = {name: base.dtypes[words] for name, words in self._sources.items()}
        shapes = {name: base.shapes[words] for name, words in self._sources.items()}
        super().__init__(base.path, base.format, {**base.shapes, **shapes}, {**base.dtypes, **dtypes}, base.config)
        self.needed = frozenset(self._changes)
        self.untied = bool(apart)
        self.adapter = {
            "kind": "LoRA",
            "path": str(weights.path),
            "task_type": settings.get("task_type"),
            "rank": settings["r"],
            "targets": sorted({change.module.rpartition(".")[2] for change in self._changes.values() if change.b}),
            "replaced": sorted(name for name, change in self._changes.items() if change.value),
            "tensors": len(weights),
        }

    def place(self, name: str) -> Any:
        return name if name in self._changes else self._base.place(self._sources.get(name, name))

    def __getitem__(self, name: str) -> np.ndarray:
        change, array = self._changes.get(name), self._base[self._sources.get(name, name)]
        if change is None:
            return array
        merged = (self._weights[change.value] if change.value else array).astype(np.float32)
        if change.b:
            b, a = (self._weights[part].astype(np.float32) for part in (change.b, change.a))
            product = b.reshape(len(b), -1) @ a.reshape(len(a), -1)  # of a convolution (out, r, 1, 1), (r, in, k, k)
            merged += np.float32(change.scale) * (product.T if change.embedding else product).reshape(merged.shape)
        if change.bias:
            merged += np.float32(change.scale) * self._weights[change.bias].astype(np.float32)
        return merged.astype(array.dtype)


def read(
    path: Path,
    base_model: str | Path | None,
    open_base: Callable[[str | Path, str | None], Checkpoint],
) -> AdaptedCheckpoint:
    """Open an adapter upon its base: `base_model`, or the one that `adapter_config.json` names.

    Raises `ValueError` for an adapter that cannot be merged or does not fit, `OSError` where its base is not found.
    """
    config = path.with_name(ADAPTER)
    if not config.is_file():
        raise FileNotFoundError(f"{path} is an adapter, but {ADAPTER}, which says of what kind, is not beside it.")
    settings = read_json(config)
    _check(config, settings)
    told = f"{path.parent} is a LoRA adapter (rank {settings['r']})"
    base = (base_model, None) if base_model is not None else base_of_adapter(path.parent, settings)
    if base is None:
        raise ValueError(f"{told} whose {ADAPTER} names no base model; say which it is with base_model=.")
    try:
        opened = open_base(*base)
    except OSError as error:
        raise FileNotFoundError(f"{told} whose base model is not found: {error} Or name it with base_model=.") from None
    try:
        reader = safetensors_file if path.suffix == ".safetensors" else torch_reader
        return AdaptedCheckpoint(opened, reader.read(path), settings)
    except ValueError as error:
        raise ValueError(f"{told} of {base[0]}: {error}") from None


def write(
    folder: Path, factors: Mapping[str, np.ndarray], rank: int, scale: float, base: str, revision: str | None
) -> None:
    """Write the folder of an adapter.

    Args:
        folder: Where to write; made where it is missing.
        factors: Values by published names, such as `text_encoder...query.lora_A.weight`.
        rank: Of all factors.
        scale: What their product is multiplied with.
        base: The name of the base model, or its path.
        revision: That of its Hub repository.
    """
    modules = sorted({name.partition(".lora_")[0] for name in factors})
    settings = {
        "peft_type": "LORA", "task_type": None, "r": rank, "lora_alpha": scale * rank, "target_modules": modules,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "base_model_name_or_path": base, "revision": revision,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS) as temporary:
        write_arrays(temporary, {PREFIX + name: np.ascontiguousarray(value) for name, value in factors.items()})
    write_json(folder / ADAPTER, settings)


def _check(config: Path, settings: Mapping[str, Any]) -> None:
    """Refuse adapters of other kinds, by name, and settings that cannot be."""
    kind = str(settings.get("peft_type"))
    kind = next((name for key, name in KINDS.items() if settings.get(key)), "" if kind == "LORA" else kind)
    begun = settings.get("init_lora_weights")
    if not kind and isinstance(begun, str) and begun.lower().startswith(CHANGED_BASES):
        kind = f"LoRA that began by changing its base (init_lora_weights={begun!r:.40})"
    if kind:
        raise ValueError(f"{config} describes an adapter of kind {kind}; only plain LoRA is merged here: {REMEDY}.")
    for name, good in (("r", is_whole), ("lora_alpha", is_number)):
        if not good(settings.get(name)):
            raise ValueError(f"{config}: {name} must be a number, got {settings.get(name)!r:.80}.")
    alphas = settings.get("alpha_pattern") or {}
    if not isinstance(alphas, dict) or not all(PATTERN.fullmatch(key) and is_number(a) for key, a in alphas.items()):
        raise ValueError(
            f"{config}: alpha_pattern must give numbers to names of modules, which may have \\d+ in them, got "
            f"{alphas!r:.80}; {REMEDY}."
        )


def _changes(
    weights: Checkpoint, settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Change]:
    """Return what the adapter does to each tensor of the base that it changes.

    Raises `ValueError` for tensors that have no place in the base, or do not fit there.
    """
    changes: dict[str, Change] = {}
    strange = set()
    for name in weights:
        place = name.removeprefix(PREFIX)
        factor = FACTOR.fullmatch(place)
        if factor is None and ".lora_" in place:
            raise ValueError(f"it holds {name}, which plain LoRA does not have; {REMEDY}.")
        place = WRAPPED.sub("", place if factor is None else factor[1] + (factor[4] or ".weight"))
        found = [other for other in other_names(place) if other in shapes]
        if not found:
            strange.add(place)
        for tensor in found:  # several of a bias that is stored twice
            change = changes.setdefault(tensor, Change(place.rpartition(".")[0]))
            setattr(change, "value" if factor is None else "bias" if factor[4] else factor[3].lower(), name)
            change.embedding |= bool(factor and factor[2])
    if strange:
        some = ", ".join(sorted(strange)[:3])
        raise ValueError(f"the base has no {some}; the adapter is of another model class, or its base is another.")
    ranks = {change.module: weights.shapes[change.a][0] for change in changes.values() if change.a}
    for name, change in changes.items():
        _check_shapes(name, change, weights.shapes, shapes[name])
        change.scale = _scale(settings, change.module, ranks.get(change.module, 1))
    return changes


def _check_shapes(name: str, change: Change, shapes: Mapping[str, tuple[int, ...]], wanted: tuple[int, ...]) -> None:
    """Refuse parts of a change that do not go with each other or with the base's tensor."""
    good = bool(change.a) == bool(change.b)
    good &= all(shapes[part] == wanted for part in (change.value, change.bias) if part)
    if good and change.a:
        (rank, *into), (out, *inner) = shapes[change.a], shapes[change.b]
        sizes = (*into, out) if change.embedding else (out, *into)
        good = sizes == wanted and inner == [rank, *[1] * (len(inner) - 1)]
    if not good:
        parts = [part for part in (change.value, change.a, change.b, change.bias) if part]
        held = " and ".join(f"{part} {list(shapes[part])}" for part in parts)
        raise ValueError(f"{name} {list(wanted)} of the base does not go with {held}; its base is another.")


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """Return what the product of the factors of a module is multiplied with."""
    alphas: dict[str, float] = settings.get("alpha_pattern") or {}
    key = next((key for key in alphas if re.fullmatch(rf"(.*\.)?({key})", module)), "")
    alpha = alphas.get(key, settings["lora_alpha"])
    return float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)
