"""An ImageNet ViT and a BERT, from which the original's pre-training begins, by the rows of the weight table.

A ViT is read with timm's names, which are those of original BLIP checkpoints, or with those of Hugging Face's ViT and
DeiT; a BERT of any language with Hugging Face's, which are the rows' own. What they have no tensor for begins at
random: cross-attention, projections, the matching head, and the embeddings of `[DEC]` and `[ENC]`. As in the original,
BERT's embeddings of token types, and the heads of both but for BERT's language-modelling head, are left out.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.checkpoints.formats import open_checkpoint
from blip_core.checkpoints.loading import config_path
from blip_core.checkpoints.plan import FLOATS
from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.files import read_json
from blip_core.parameters.models import Parameter
from blip_core.parameters.position_embeddings import resize_positions
from blip_core.parameters.table import LM_HEAD, TEXT, TIED_PROJECTION, UNTIED_LM_HEAD, VISION, WORDS, Row

LAYER = "encoder.layer.{}."
HUGGING_FACE_VIT = {
    "embeddings.class_embedding": ("embeddings.cls_token",),
    "embeddings.position_embedding": ("embeddings.position_embeddings",),
    "embeddings.patch_embedding": ("embeddings.patch_embeddings.projection",),
    "encoder.layers.{}.layer_norm1": (f"{LAYER}layernorm_before",),
    "encoder.layers.{}.self_attn.qkv": tuple(
        f"{LAYER}attention.attention.{part}" for part in ("query", "key", "value")
    ),
    "encoder.layers.{}.self_attn.projection": (f"{LAYER}attention.output.dense",),
    "encoder.layers.{}.layer_norm2": (f"{LAYER}layernorm_after",),
    "encoder.layers.{}.mlp.fc1": (f"{LAYER}intermediate.dense",),
    "encoder.layers.{}.mlp.fc2": (f"{LAYER}output.dense",),
    "post_layernorm": ("layernorm",),
}
"""Names of Hugging Face's ViT by those of rows, without "weight" and "bias"; several are joined, in this order."""
POSITIONS, PADDED = VISION[1], (WORDS, *(row for row in UNTIED_LM_HEAD if "vocab" in row.shape))
SPARE = 128
"""Rows of word embeddings that no token may have, as some are padded to a multiple of this."""
HEAD_WIDTH, BASE_WIDTH = 64, 768
PATCHES = ("patch_size", "num_channels")
SIZES = (*PATCHES, "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")


def _timm(row: Row, prefix: str) -> tuple[str, ...]:
    return (prefix + row.original,)


def _hugging_face(row: Row, prefix: str) -> tuple[str, ...]:
    stem = re.sub(r"\.(weight|bias)$", "", row.name)
    return tuple(prefix + name + row.name.removeprefix(stem) for name in HUGGING_FACE_VIT[stem])


def _bert(row: Row, prefix: str) -> tuple[str, ...]:
    if row.name == TIED_PROJECTION:
        return (prefix + WORDS.name,)
    return (row.name if row in LM_HEAD else prefix + row.name,)


@dataclass(frozen=True)
class Naming:
    """How a kind of checkpoints names its tensors.

    `part` is the section of the configuration that describes it, `names` gives those of a row, under one of `prefixes`.
    `body` are the names that the transformer has, of which `left_out` may be there besides.
    """

    kind: str
    part: str
    prefixes: tuple[str, ...]
    names: Callable[[Row, str], tuple[str, ...]]
    rows: tuple[Row, ...]
    body: str
    left_out: str


NAMINGS = (
    Naming(
        "ViT", "vision_config", ("", "visual_encoder."), _timm, VISION, "",
        r"(head|head_dist|pre_logits)\.|dist_token$",
    ),
    Naming(
        "ViT", "vision_config", ("", "vit.", "deit."), _hugging_face, VISION, r"embeddings\.|encoder\.|layernorm\.",
        r"embeddings\.(mask_token|distillation_token)$",
    ),
    Naming(
        "BERT", "text_config", ("", "bert."), _bert, (*TEXT, *UNTIED_LM_HEAD), r"embeddings\.|encoder\.",
        r"embeddings\.(token_type_embeddings\.weight|position_ids)$",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Foundation:
    """One of the two, opened: `settings` for the configuration of its part of BLIP, and its tensors."""

    name: str
    naming: Naming
    prefix: str
    checkpoint: Checkpoint
    held: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)

    def sources(self, row: Row, layer: int | None) -> list[str]:
        """Return the names of the tensors of the file that make a row's; none where it is of something else."""
        if row not in self.naming.rows:
            return []
        return [self.held.get(name.format(layer), "") for name in self.naming.names(row, self.prefix)]

    def check(self, rows: Iterable[Parameter]) -> None:
        """Raise `ValueError` where a tensor of a model is missing, has another shape, or is not floating-point."""
        without_head = self.naming.kind == "BERT" and not any(name.startswith("cls.predictions.") for name in self.held)
        if without_head:
            warnings.warn(f"{self.name} has no language-modelling head: it begins at random.", stacklevel=4)
        for parameter in rows:
            row, sources = parameter.row, self.sources(parameter.row, parameter.layer)
            if not sources or (without_head and row in LM_HEAD):
                continue
            wanted = [name.format(parameter.layer) for name in self.naming.names(row, self.prefix)]
            missing = [name for name, source in zip(wanted, sources, strict=True) if not source]
            if missing:
                raise ValueError(f"{self.name} lacks {', '.join(missing)}; give a whole {self.naming.kind}.")
            shapes = [self.checkpoint.shapes[source] for source in sources]
            shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
            free = 1 if row is POSITIONS else 0 if row in PADDED else -1
            pairs = [pair for axis, pair in enumerate(zip(shape, parameter.shape, strict=False)) if axis != free]
            more = row in PADDED and shape[0] > parameter.shape[0]
            if len(shape) != len(parameter.shape) or more or any(one != other for one, other in pairs):
                raise ValueError(
                    f"{self.name}: {', '.join(wanted)} is {list(shape)} instead of {list(parameter.shape)}; give a "
                    f"{self.naming.kind} of the model's sizes."
                )
            if strange := {str(self.checkpoint.dtypes[source]) for source in sources} - {str(kind) for kind in FLOATS}:
                raise ValueError(
                    f"{self.name}: {wanted[0]} is of type {strange.pop()}; weights must be floating-point."
                )

    def value(self, parameter: Parameter, initial: np.ndarray) -> np.ndarray:
        """Return the value of a parameter, float32 in PyTorch's layout: its own, or the initial one.

        Positions of another picture's size are resized; rows of tokens that it does not have keep initial values.
        """
        row, sources = parameter.row, self.sources(parameter.row, parameter.layer)
        if not sources or not all(sources):
            return initial
        own = np.concatenate([np.asarray(self.checkpoint[source], np.float32) for source in sources])
        if row is POSITIONS:
            own = own if math.isqrt(own.shape[1] - 1) ** 2 == own.shape[1] - 1 else np.delete(own, 1, axis=1)
            return own if own.shape == parameter.shape else resize_positions(own, parameter.shape[1])
        if row in PADDED:
            return np.concatenate([own, initial[len(own) :]])
        return own


def open_vision(name_or_path: str | Path) -> Foundation:
    """Open a ViT: a file, a folder or a Hub repository, in any format of `FORMATS` that stores tensors by name.

    Raises:
        OSError: Where it cannot be found or read.
        ValueError: Where it is no ViT of this kind.
    """
    found = _open(name_or_path, "ViT")
    width, channels, patch, *other = _shape(found, "embeddings.patch_embedding.weight", 4)
    count = _shape(found, "embeddings.position_embedding", 3)[1] - 1
    side = next((math.isqrt(n) for n in (count, count - 1) if n > 0 and math.isqrt(n) ** 2 == n), 0)
    if not side or other != [patch]:
        raise ValueError(f"{found.name} has {count} patches of {patch} x {other[0]} pixels, and BLIP's are squares.")
    given = _settings(found, BlipVisionConfig)
    sizes = {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "num_hidden_layers": _layers(found),
        "intermediate_size": _shape(found, "encoder.layers.{}.mlp.fc1.weight", 2)[0],
    }
    defaults = {"num_attention_heads": max(width // HEAD_WIDTH, 1), "layer_norm_eps": 1e-6, "hidden_act": "gelu"}
    found.settings.update(defaults | _only(given, defaults) | sizes)
    found.settings["drop_path_rate"] = 0.1 if width > BASE_WIDTH else 0.0  # the original's of ViT-L
    return found


def open_text(name_or_path: str | Path) -> Foundation:
    """Open a BERT, as `open_vision` a ViT.

    Raises:
        OSError: Where it cannot be found or read.
        ValueError: Where it is no BERT.
    """
    found = _open(name_or_path, "BERT")
    vocabulary, width = _shape(found, WORDS.name, 2)
    sizes = {
        "hidden_size": width,
        "vocab_size": vocabulary,
        "num_hidden_layers": _layers(found),
        "intermediate_size": _shape(found, "encoder.layer.{}.intermediate.dense.weight", 2)[0],
        "max_position_embeddings": _shape(found, "embeddings.position_embeddings.weight", 2)[0],
    }
    given = _settings(found, BlipTextConfig)
    defaults = {"num_attention_heads": max(width // HEAD_WIDTH, 1), "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    dropout = _only(given, ("hidden_dropout_prob", "attention_probs_dropout_prob"))
    found.settings.update(defaults | _only(given, defaults) | dropout | sizes)
    return found


def fitted(config: BlipConfig, foundations: Iterable[Foundation], chosen: bool) -> BlipConfig:
    """Return a configuration for foundations: a chosen one must have their sizes, and any the size of their patches.

    Raises:
        ValueError: For the first size that differs.
    """
    values = config.to_dict()
    for found in foundations:
        part = values[found.naming.part]
        for name in SIZES if chosen else PATCHES:
            if (own := found.settings.get(name, part.get(name))) != part.get(name):
                raise ValueError(
                    f"{found.name} has {name} {own}, and the model {part[name]}; choose another {found.naming.kind}, "
                    f"or name a configuration with {name} {own} by --model config.json (model= of train)."
                )
        part |= {} if chosen else found.settings
    return BlipConfig.from_dict(values)


def check_tokens(found: Foundation, tokens: int, where: str) -> None:
    """Raise `ValueError` for a vocabulary of another size than a BERT's; `tokens` are those but `[DEC]` and `[ENC]`."""
    rows = found.settings["vocab_size"]
    if not rows - SPARE < tokens <= rows:
        raise ValueError(
            f"The vocabulary of {where} has {tokens:,} tokens, and {found.name} has embeddings of {rows:,}; name the "
            "folder of this BERT's own vocabulary with --tokenizer (tokenizer= of train)."
        )


def _open(name_or_path: str | Path, kind: str) -> Foundation:
    checkpoint = open_checkpoint(name_or_path)
    held = {re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name)): name for name in checkpoint.shapes}
    for naming in (row for row in NAMINGS if row.kind == kind):
        for prefix in naming.prefixes:
            first = naming.names(naming.rows[0], prefix)
            if set(first) <= held.keys():
                found = Foundation(str(name_or_path), naming, prefix, checkpoint, held)
                _check_names(found)
                return found
    some = ", ".join(sorted(checkpoint.shapes)[:3])
    raise ValueError(f"{name_or_path} holds no {kind} with the names of timm or Hugging Face (it has {some}).")


def _check_names(found: Foundation) -> None:
    """Refuse what has more than the transformer that BLIP has, such as scales of layers or relative positions."""
    naming, prefix = found.naming, re.escape(found.prefix)
    own = {name.format(layer) for row in naming.rows for name in naming.names(row, found.prefix)
           for layer in (range(_layers(found)) if "{}" in name else (0,))}  # fmt: skip
    strange = [
        name for name in found.held
        if name not in own and re.match(prefix + f"({naming.body})", name)
        and not re.match(prefix + f"({naming.left_out})", name)
    ]  # fmt: skip
    if strange:
        raise ValueError(
            f"{found.name} is another kind of {naming.kind} than BLIP's: it has {', '.join(sorted(strange)[:3])}."
        )


def _layers(found: Foundation) -> int:
    row = next(row for row in found.naming.rows if "{}" in row.name)
    before, after = found.naming.names(row, found.prefix)[0].split("{}")
    numbers = [int(m[1]) for name in found.held if (m := re.fullmatch(f"{re.escape(before)}(\\d{{1,3}}){after}", name))]
    return 1 + max(numbers, default=0)


def _shape(found: Foundation, row_name: str, axes: int) -> tuple[int, ...]:
    """The shape of a row's tensor, in the first layer. Raises `ValueError` where it is missing or has other axes."""
    row = next(row for row in found.naming.rows if row.name == row_name)
    source = found.sources(row, 0)[0]
    shape = found.checkpoint.shapes[source] if source else ()
    if len(shape) != axes or not math.prod(shape):
        what = f"is {list(shape)}" if source else "is missing"
        wanted = found.naming.names(row, found.prefix)[0].format(0)
        raise ValueError(f"{found.name}: {wanted} {what}; give a whole {found.naming.kind}.")
    return shape


def _settings(found: Foundation, kind: type) -> dict[str, Any]:
    """What the `config.json` beside the weights says that a configuration of BLIP's part has, too."""
    path = config_path(found.checkpoint)
    values = read_json(path) if path.is_file() else {}
    model_type = values.get("model_type")
    if found.naming.kind == "BERT" and model_type not in (None, "bert"):
        raise ValueError(f"{path} describes a model of type {model_type!r}, and not a BERT.")
    known = {row.name for row in fields(kind)}
    return {name: value for name, value in values.items() if name in known and value is not None}


def _only(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
