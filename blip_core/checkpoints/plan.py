"""What is to be written: every tensor of the destination, with its names there and where its value comes from."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import ml_dtypes
import numpy as np

from blip_core.checkpoints.checkpoint import Checkpoint
from blip_core.checkpoints.keras_names import hf_names
from blip_core.checkpoints.loading import FLOATS
from blip_core.checkpoints.saving import Stored
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.matching import Match
from blip_core.parameters.models import TRAINING_STATE, AnyConfig, Parameter, training_state
from blip_core.parameters.position_embeddings import resize_positions
from blip_core.parameters.table import BUFFERS, TEXT, WORDS

DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ORIGINAL_HEADS = (
    "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval", "BlipForNLVR",
    "BlipForPreTraining",
)  # fmt: skip
"""Models that the original has."""

WHOLE = ("no_id", "pointer")
"""Initial values of tensors that hold whole numbers."""


@dataclass
class Plan:
    """The tensors of the destination: parameters and training state with their rows of the table, and buffers.

    `names` are those under which the destination's reader will show each of them; `new_state` labels what training
    needs, the source lacks, and a draw begins.
    """

    tensors: list[tuple[Parameter, Stored]] = field(default_factory=list)
    buffers: list[Stored] = field(default_factory=list)
    names: dict[str, Stored] = field(default_factory=dict)
    new_state: list[str] = field(default_factory=list)

    def add(self, parameter: Parameter, stored: Stored, shown: tuple[str, ...] = ()) -> None:
        """Add one tensor, which is shown under other names than it is written with where these are given."""
        self.tensors.append((parameter, stored))
        self.names |= dict.fromkeys(shown or stored.names, stored)

    @property
    def stored(self) -> list[Stored]:
        """All that is to be written."""
        return [stored for _, stored in self.tensors] + self.buffers

    @property
    def dtype(self) -> np.dtype:
        """The type of the weights; float32 where there are none."""
        return self.tensors[0][1].dtype if self.tensors else DTYPES["float32"]

    def check(self, to: str) -> None:
        """Refuse tensors that the format cannot hold."""
        if to == "tf_model.h5" and any(stored.dtype == DTYPES["bfloat16"] for stored in self.stored):
            raise ValueError("tf_model.h5 cannot hold bfloat16; pass dtype='float32' or dtype='float16'.")


def make_plan(checkpoint: Checkpoint, head: str, config: AnyConfig, found: Match, to: str, dtype: str | None) -> Plan:
    """Plan a conversion of what `found` says of a checkpoint.

    Tied tensors are there once in safetensors and in the files of our TensorFlow models, and under each name where
    readers look for them. A pre-training model's decoder is there as a whole in every format but the last, so that a
    captioner can be cut out of it. The training state goes into all formats but `tf_model.h5`, whose readers have no
    model with one; into `weights.h5` it goes as a whole, with what the source lacks of it made new.
    """
    plan = Plan()
    state = TRAINING_STATE.get(head, ())
    wanted = [p for p in found.parameters if to != "tf_model.h5" or p.part not in state]
    if to == "weights.h5" and (head == "BlipForPreTraining" or any(p.part in state for p in wanted)):
        new = [p for p in training_state(head, config) if p not in wanted]  # type: ignore[arg-type]  # a BlipConfig
        plan.new_state = list(dict.fromkeys(p.part.label for p in new if not _is_momentum(p)))
        wanted += new
    for parameter in wanted:
        source = found.sources.get(parameter.name) or found.sources.get(_followed(parameter))
        stored = _stored(checkpoint, config, parameter, source, dtype)
        if to == "safetensors":
            for name in parameter.stored_as:
                plan.add(parameter, _named(stored, name))
        elif to == "weights.h5":
            plan.add(parameter, stored, parameter.stored_as)
        elif to == "tf_model.h5":
            shown = (name.format(parameter.layer) for name, _ in hf_names(parameter.part, parameter.row))
            plan.add(parameter, stored, tuple(shown))
        else:
            prefix = parameter.part.original_prefix() if to == "pth" else parameter.part.prefixes[0]
            plan.add(parameter, _named(stored, parameter.usual(prefix), *parameter.copies(prefix)))
    if to == "pth":
        plan.buffers = list(_position_ids(found))
        plan.names |= {stored.names[0]: stored for stored in plan.buffers}
    return plan


def _is_momentum(parameter: Parameter) -> bool:
    return "_m." in parameter.name


def _followed(parameter: Parameter) -> str:
    """The name of the weight that a momentum copy follows, and where it begins; its own name for any other."""
    return parameter.name.replace("_m.", ".", 1)


def _named(stored: Stored, *names: str) -> Stored:
    return Stored(names, stored.shape, stored.dtype, stored.read)


def _stored(
    checkpoint: Checkpoint, config: AnyConfig, parameter: Parameter, source: str | None, dtype: str | None
) -> Stored:
    if source is None:
        kind = np.dtype(np.int64 if parameter.row.init in WHOLE else np.float32)
        read = partial(_draw, parameter, config)
    else:
        kind = checkpoint.dtypes[source]
        read = partial(_read, checkpoint, source, parameter)
        if kind not in FLOATS and parameter.row.init not in WHOLE:
            raise ValueError(f"{source} is of type {kind}; weights must be floating-point.")
    wanted = DTYPES[dtype] if dtype and kind in FLOATS else kind
    if wanted != kind:
        read = partial(_cast, read, wanted, parameter.name)
    return Stored((parameter.hf,), parameter.shape, wanted, read)


def _read(checkpoint: Checkpoint, source: str, parameter: Parameter) -> np.ndarray:
    array = checkpoint[source]
    return array if array.shape == parameter.shape else resize_positions(array, parameter.shape[1])


def _draw(parameter: Parameter, config: AnyConfig) -> np.ndarray:
    # A seed of its own for each tensor: it is the same whenever it is read, and in every conversion.
    return initial_value(parameter, config, np.random.default_rng(zlib.crc32(_followed(parameter).encode())))


def _cast(read: partial[np.ndarray], dtype: np.dtype, name: str) -> np.ndarray:
    array = read()
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype == np.float16 and np.isinf(result).sum() > np.isinf(array).sum():
        raise ValueError(f"{name} holds numbers that float16 cannot; use bfloat16 or float32.")
    return result


def _position_ids(found: Match) -> Iterator[Stored]:
    """The position numbers that every text model of an original checkpoint holds."""
    for parameter in found.parameters:
        part, row = parameter.part, parameter.row
        if row is not WORDS:
            continue
        count = next(p.shape[0] for p in found.parameters if p.part == part and p.row is TEXT[1])
        for prefix in (part.original_prefix(), *([part.copies] * bool(part.copies))):
            yield Stored((prefix + BUFFERS[0],), (1, count), np.dtype(np.int64), partial(_arange, count))


def _arange(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)[None]
