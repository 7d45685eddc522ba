"""Names of weights in Keras HDF5 files, worked out from the weight table.

`tf_model.h5` is the Keras 2 layout of transformers: its names follow the Hugging Face ones, with kernels, gammas and
betas. `.weights.h5` is the Keras 3 layout of our TensorFlow models: paths of attributes, and variables by number.
Names are patterns; `{}` stands for the layer index.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from blip_core.parameters.heads import HEADS, Part
from blip_core.parameters.table import TIED_PROJECTION, VISION, WORDS, Row

LEAVES = {
    ("linear", "weight"): "kernel", ("conv", "weight"): "kernel", ("embedding", "weight"): "embeddings",
    ("norm", "weight"): "gamma", ("norm", "bias"): "beta",
}  # fmt: skip
SUBMODELS = {
    "vision_model": "tf_blip_vision_model",
    "vision_model_m": "tf_blip_vision_model",
    "text_model": "tf_blip_text_model",
    "text_encoder": "tf_blip_text_model",
    "text_encoder_m": "tf_blip_text_model",
    "bert": "tf_blip_text_model",
    "text_decoder": "tf_blip_text_lm_head_model",
    "pooler": "text_pooler",
}
"""Attributes of models, with the names that Keras derives from their classes."""

CLASSES = {"linear": "linear", "norm": "layer_norm"}
"""The same for single layers, by the layout of their weights."""


def keras2_name(hf: str, layout: str) -> str:
    """The name in `tf_model.h5`, without the model's part of it, of a tensor with this Hugging Face name."""
    numbered = re.sub(r"\b(layers?)\.([^.]+)\.", r"\1_._\2.", hf)
    *modules, leaf = re.split(r"(?<!_)\.|\.(?!_)", numbered)
    return "/".join([*modules, LEAVES.get((layout, leaf), leaf) + ":0"])


def hf_names(part: Part, row: Row) -> list[tuple[str, str]]:
    """Hugging Face names of a row's tensor and of its copies in a Keras 2 file, each with its layout.

    The bias of the vocabulary projection is there once, its kernel beside the word embeddings.
    """
    names = [(name, row.layout) for name in part.saved_names(row)]
    if row is WORDS:
        copies = part.copies_of(row, part.prefixes[0])
        names += [(name, "linear") for name in copies if name.endswith(TIED_PROJECTION)]
    return names


KERAS2 = {
    keras2_name(name, layout): (name, layout)
    for head in HEADS.values()
    for part in head.parts
    for row in part.rows
    for name, layout in hf_names(part, row)
}
"""Hugging Face name and layout by Keras 2 name, for the tensors of all models."""


def attribute_path(name: str) -> str:
    """The attributes of our TensorFlow models that lead to a weight, by the name that it has in PyTorch and in files.

    It is that name, but a Keras layer has an `output` of its own, which becomes `output_`.
    """
    return re.sub(r"(?<=\.)output(?=\.)", "output_", name)


def keras3_paths(model: str, with_state: bool) -> dict[str, tuple[Part, Row]]:
    """What a `.weights.h5` of a model holds, by path, `with_state` its training state as well."""
    parts = (*HEADS[model].parts, *(HEADS[model].state if with_state else ()))
    entries = [(attribute_path(part.prefix + row.name).split("."), part, row) for part in parts for row in part.rows]
    return dict(_walk(entries, "", True))


Entry = tuple[list[str], Part, Row]  # the rest of the attribute path, below some module


def _walk(entries: list[Entry], prefix: str, is_model: bool) -> Iterator[tuple[str, tuple[Part, Row]]]:
    """Name variables as Keras does: by their number in a layer, and layers by attribute, or by class where in a list.

    Keras visits attributes in alphabetical order, and a layer only where it meets it first. A model's attributes that
    come after `layers` are met in that list.
    """
    variables = [(part, row) for rest, part, row in entries if len(rest) == 1]
    yield from ((f"{prefix}vars/{index}", variable) for index, variable in enumerate(variables))
    children: dict[str, list[Entry]] = {}
    for rest, part, row in entries:
        if len(rest) > 1:
            children.setdefault(rest[0], []).append((rest[1:], part, row))
    classes: Counter[str] = Counter()
    for child, inner in children.items():
        if child == "{}":
            kind = "vision_layer" if inner[0][2] in VISION else "text_layer"
            yield from _walk(inner, f"{prefix}{kind}{{}}/", False)
            continue
        kind = SUBMODELS.get(child, child)
        if len(inner[0][0]) == 1:
            kind = CLASSES.get(inner[0][2].layout, child)
        elif child == "text_encoder" and any("self0" in rest for rest, _, _ in inner):
            kind = "tf_blip_pair_text_model"
        number = f"_{classes[kind]}" if classes[kind] else ""
        classes[kind] += 1
        place = f"layers/{kind}{number}" if is_model and child > "layers" else child
        yield from _walk(inner, f"{prefix}{place}/", kind.startswith("tf_blip"))
