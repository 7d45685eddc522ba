"""The rows of the weight table: the name, shape, layout and initial value of every parameter of BLIP.

These rows are the only place that knows parameter names; `models.py` joins them to models. `{}` stands for the layer
index. Shapes are in PyTorch's layout, their sizes symbols that a configuration gives a value (see `models.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `name` is the name in published Hugging Face checkpoints and in our modules, `original` the one in original
    checkpoints. `also` names tied tensors: copies of this one that a checkpoint may hold. `single` is the tensor from
    which a model of two pictures takes this one when the checkpoint is of a model of one picture. A row with `start` is
    only in the layers from there on.
    """

    name: str
    original: str
    shape: tuple[str | int, ...]
    init: str
    layout: str = "plain"
    also: tuple[str, ...] = ()
    single: str = ""
    start: int = 0


def _linear(
    name: str,
    out: str | int,
    into: str,
    original: str | None = None,
    bias: bool = True,
    single: str = "",
    start: int = 0,
) -> list[Row]:
    original = original or name
    ones = [f"{single}.{leaf}" * bool(single) for leaf in ("weight", "bias")]
    weight = Row(f"{name}.weight", f"{original}.weight", (out, into), "normal", "linear", (), ones[0], start)
    return [weight] + [Row(f"{name}.bias", f"{original}.bias", (out,), "zeros", "plain", (), ones[1], start)] * bias


def _norm(name: str, size: str, original: str | None = None) -> list[Row]:
    original = original or name
    return [
        Row(f"{name}.weight", f"{original}.weight", (size,), "ones", "norm"),
        Row(f"{name}.bias", f"{original}.bias", (size,), "zeros", "norm"),
    ]


def _attention(name: str, into: str) -> list[Row]:
    """Text attention; `into` is the width that keys and values are computed from."""
    return [
        *_linear(f"{name}.self.query", "text", "text"),
        *_linear(f"{name}.self.key", "text", into),
        *_linear(f"{name}.self.value", "text", into),
        *_linear(f"{name}.output.dense", "text", "text"),
        *_norm(f"{name}.output.LayerNorm", "text"),
    ]


def _branch(index: int) -> list[Row]:
    """Cross-attention to one of NLVR's two pictures; a checkpoint of a model of one picture fills both branches."""
    name = "encoder.layer.{}.crossattention"
    return [
        *_linear(f"{name}.self{index}.query", "text", "text", single=f"{name}.self.query"),
        *_linear(f"{name}.self{index}.key", "text", "cross", single=f"{name}.self.key"),
        *_linear(f"{name}.self{index}.value", "text", "cross", single=f"{name}.self.value"),
        *_linear(f"{name}.output.dense{index}", "text", "text", single=f"{name}.output.dense"),
    ]


# fmt: off
VISION = (
    Row("embeddings.class_embedding", "cls_token", (1, 1, "vision"), "position"),
    Row("embeddings.position_embedding", "pos_embed", (1, "tokens", "vision"), "position"),
    Row("embeddings.patch_embedding.weight", "patch_embed.proj.weight", ("vision", "channels", "patch", "patch"),
        "normal", "conv"),
    Row("embeddings.patch_embedding.bias", "patch_embed.proj.bias", ("vision",), "zeros"),
    *_norm("encoder.layers.{}.layer_norm1", "vision", "blocks.{}.norm1"),
    *_linear("encoder.layers.{}.self_attn.qkv", "qkv", "vision", "blocks.{}.attn.qkv"),
    *_linear("encoder.layers.{}.self_attn.projection", "vision", "vision", "blocks.{}.attn.proj"),
    *_norm("encoder.layers.{}.layer_norm2", "vision", "blocks.{}.norm2"),
    *_linear("encoder.layers.{}.mlp.fc1", "vision_mlp", "vision", "blocks.{}.mlp.fc1"),
    *_linear("encoder.layers.{}.mlp.fc2", "vision", "vision_mlp", "blocks.{}.mlp.fc2"),
    *_norm("post_layernorm", "vision", "norm"),
)
SELF_ATTENTION = tuple(_attention("encoder.layer.{}.attention", "text"))
WORDS = Row("embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight", ("vocab", "text"), "normal",
            "embedding")
EMBEDDINGS = (
    WORDS,
    Row("embeddings.position_embeddings.weight", "embeddings.position_embeddings.weight", ("positions", "text"),
        "normal", "embedding"),
    *_norm("embeddings.LayerNorm", "text"),
)
FEED_FORWARD = (
    *_linear("encoder.layer.{}.intermediate.dense", "text_mlp", "text"),
    *_linear("encoder.layer.{}.output.dense", "text", "text_mlp"),
    *_norm("encoder.layer.{}.output.LayerNorm", "text"),
)
TEXT = (*EMBEDDINGS, *SELF_ATTENTION, *FEED_FORWARD)
SHARED_TEXT = (*EMBEDDINGS, *FEED_FORWARD)  # what encoder and decoder share in pre-training, with cross-attention
CROSS = tuple(_attention("encoder.layer.{}.crossattention", "cross"))
CROSS_PAIR = (*_branch(0), *_branch(1), *_norm("encoder.layer.{}.crossattention.output.LayerNorm", "text"))
MERGE = tuple(_linear("encoder.layer.{}.crossattention.output.merge_layer", "text", "text_pair", start=6))
POOLER = tuple(_linear("pooler.dense", "text", "text"))
LM_HEAD = (
    *_linear("cls.predictions.transform.dense", "text", "text"),
    *_norm("cls.predictions.transform.LayerNorm", "text"),
    Row("cls.predictions.bias", "cls.predictions.bias", ("vocab",), "zeros", also=("cls.predictions.decoder.bias",)),
)
TIED_PROJECTION = "cls.predictions.decoder.weight"  # the same tensor as the word embeddings, unless it is untied
UNTIED_LM_HEAD = (*LM_HEAD, Row(TIED_PROJECTION, TIED_PROJECTION, ("vocab", "text"), "normal", "linear"))
RETRIEVAL = (
    *_linear("vision_proj", "itc", "vision"),
    *_linear("text_proj", "itc", "text"),
    *_linear("itm_head", 2, "text"),
)
NLVR_HEAD = (*_linear("cls_head.0", "text", "text"), *_linear("cls_head.2", 2, "text"))
CLASS_HEAD = (*_linear("cls_head.0", "text", "text"), *_linear("cls_head.2", "classes", "text"))
MOMENTUM_CLASS_HEAD = (*_linear("cls_head_m.0", "text", "text"), *_linear("cls_head_m.2", "classes", "text"))
PROJECTIONS = (
    *_linear("visual_projection", "projection", "vision", bias=False),
    *_linear("text_projection", "projection", "text", bias=False),
    Row("logit_scale", "logit_scale", (), "logit_scale"),
)
# The training state of retrieval and pre-training. Queues hold features column by column; `idx_queue` the pictures'
# ids, and the pointers where the next column goes, as integers.
MOMENTUM_PROJECTIONS = (*_linear("vision_proj_m", "itc", "vision"), *_linear("text_proj_m", "itc", "text"))
QUEUES = (
    Row("temp", "temp", (), "temperature"),
    Row("image_queue", "image_queue", ("itc", "queue"), "unit_columns"),
    Row("text_queue", "text_queue", ("itc", "queue"), "unit_columns"),
)
RETRIEVAL_QUEUE = (
    Row("idx_queue", "idx_queue", (1, "queue"), "no_id"),
    Row("ptr_queue", "ptr_queue", (1,), "pointer"),
)
PRETRAINING_QUEUE = (Row("queue_ptr", "queue_ptr", (1,), "pointer"),)
BUFFERS = ("embeddings.position_ids",)  # position ids, which original checkpoints hold
# fmt: on
