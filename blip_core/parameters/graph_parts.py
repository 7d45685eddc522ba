"""The parts in which a model is exported: their names, inputs and outputs, the same in every form of export.

Pictures and image embeddings are floating-point; token ids, masks, counts and sequences are int32. Axes are named: one
name is one size within a call. Those that `axis_sizes` knows are fixed by the configuration, all others are free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.parameters.heads import HEADS, AnyConfig

INTEGERS = {"input_ids", "attention_mask", "encoder_attention_mask", "length", "rows", "capacity", "sequences"}
"""The tensors of whole numbers; the others are floating-point."""


@dataclass(frozen=True)
class GraphPart:
    """One part: a function of named tensors.

    Attributes:
        name: Its name: of a signature, a graph or a file.
        heads: The model classes that have it.
        inputs: The axes of each input, separated by blanks; "" is a single number.
        outputs: The axes of each output.
        loop: Whether it holds a whole search, up to a number of tokens that the export fixes.
    """

    name: str
    heads: tuple[str, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    loop: bool = False


SEEING = tuple(name for name, head in HEADS.items() if head.config is not BlipTextConfig)
WRITING = tuple(name for name, head in HEADS.items() if head.generates or "text_decoder" in head.modules)
MATCHING = ("BlipForImageTextRetrieval", "BlipForPreTraining")
COMPARING = ("BlipModel", *MATCHING)

_PIXELS = {"pixel_values": "pictures channels height width"}
_EMBEDS = {"image_embeds": "pictures image_tokens vision_width"}
_TEXTS = {"input_ids": "texts length", "attention_mask": "texts length"}
_CACHE = dict.fromkeys(("keys", "values"), "layers rows heads capacity head_width")
_CROSS = dict.fromkeys(("cross_keys", "cross_values"), "layers pictures heads states head_width")
_FOUND = {"sequences": "texts tokens"}

PARTS: dict[str, GraphPart] = {
    row.name: row
    for row in (
        # Of a model that compares pictures with texts `image_features` as well, the features to compare.
        GraphPart(
            "image_features", SEEING, _PIXELS,
            {**_EMBEDS, "pooler_output": "pictures vision_width", "image_features": "pictures features"},
        ),
        # Before normalising: frames of a video are averaged in between.
        GraphPart("image_projection", MATCHING, _EMBEDS, {"projected": "pictures features"}),
        GraphPart("text_states", ("BlipTextModel",), _TEXTS, {"last_hidden_state": "texts length text_width"}),
        GraphPart("text_features", COMPARING, _TEXTS, {"text_features": "texts features"}),
        # Pairs of a picture and a text, or one picture for all texts; index 1 is "they match".
        GraphPart("itm_scores", MATCHING, {**_EMBEDS, **_TEXTS}, {"itm_score": "texts two"}),
        GraphPart("itc_scores", MATCHING, {**_EMBEDS, **_TEXTS}, {"itc_score": "pictures texts"}),
        # Index 1 is "true of both pictures".
        GraphPart(
            "nlvr_scores", ("BlipForNLVR",),
            {"image_embeds": "texts two image_tokens vision_width", **_TEXTS}, {"logits": "texts two"},
        ),
        GraphPart("class_scores", ("BlipForClassification",), {**_EMBEDS, **_TEXTS}, {"logits": "texts classes"}),
        # What the answer decoder reads: `encoder_states` of `begin`.
        GraphPart(
            "question_states", ("BlipForQuestionAnswering",), {**_EMBEDS, **_TEXTS},
            {"encoder_states": "texts length text_width"},
        ),
        # Caches for `rows` texts, a multiple of the pictures, of up to `capacity` tokens: empty ones, and the keys and
        # values of the states that the decoder attends to.
        GraphPart(
            "begin", WRITING, {"encoder_states": "pictures states states_width", "rows": "", "capacity": ""},
            {**_CACHE, **_CROSS},
        ),
        # Reads new tokens behind the `length` tokens that the caches hold. In `attention_mask` all tokens of a row so
        # far are 1, the new ones included. Gives the logits after each row's last real one.
        GraphPart(
            "step", WRITING,
            {
                "input_ids": "rows new", "attention_mask": "rows capacity", "length": "",
                "encoder_attention_mask": "pictures states", **_CACHE, **_CROSS,
            },
            {"logits": "rows vocabulary", **_CACHE},
        ),
        # Greedy search; `input_ids` are prompts, `[CLS] [SEP]` for none.
        GraphPart(
            "caption", ("BlipForConditionalGeneration", "BlipForPreTraining"),
            {**_PIXELS, **_TEXTS}, _FOUND, loop=True,
        ),
        GraphPart("answer", ("BlipForQuestionAnswering",), {**_PIXELS, **_TEXTS}, _FOUND, loop=True),
    )
}  # fmt: skip
"""The parts by name."""


def parts_of(head: str) -> list[GraphPart]:
    """Return the parts of a model class."""
    return [part for part in PARTS.values() if head in part.heads]


def outputs_of(part: GraphPart, head: str) -> dict[str, str]:
    """Return the outputs of a part in a model class: features are those of a model that compares them."""
    compares = head in COMPARING
    return {name: axes for name, axes in part.outputs.items() if name != "image_features" or compares}


def graph_names(part: GraphPart, outputs: Mapping[str, str]) -> list[str]:
    """Return what graphs that know each name once call these outputs: `new_keys` where `keys` go in as well."""
    return [f"new_{name}" if name in part.inputs else name for name in outputs]


def axis_sizes(head: str, config: AnyConfig, free_size: bool = False) -> dict[str, int]:
    """Return the sizes of the axes that a configuration fixes; with `free_size`, height and width are none of them."""
    sizes = {"two": 2}
    if not isinstance(config, BlipTextConfig):
        vision = config if isinstance(config, BlipVisionConfig) else config.vision_config
        sizes |= {"channels": vision.num_channels, "vision_width": vision.hidden_size}
        if not free_size:
            sizes |= {"height": vision.image_size, "width": vision.image_size}
    if not isinstance(config, BlipVisionConfig):
        text = config if isinstance(config, BlipTextConfig) else config.text_config
        heads, width = text.num_attention_heads, text.hidden_size
        sizes |= {"layers": text.num_hidden_layers, "heads": heads, "head_width": width // heads, "text_width": width}
        sizes |= {"states_width": width if HEADS[head].answers else text.encoder_hidden_size}
        sizes |= {"vocabulary": text.vocab_size}
    if isinstance(config, BlipConfig):
        sizes["classes"] = config.num_labels
        sizes["features"] = config.image_text_hidden_size if head in MATCHING else config.projection_dim
    return sizes
