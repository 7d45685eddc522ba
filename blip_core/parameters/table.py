"""The rows of the weight table: parameter names in our modules, in Hugging Face and in original checkpoints.

These rows are the only place that knows parameter names; `weights.py` joins them to models. `{}` stands for the layer
index. Shapes are written in symbols that a configuration gives a value, in PyTorch's layout.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `also` names tensors that a checkpoint may hold as copies of this one (tied), `single` the tensor that a model of
    one picture has in its place. A row with `start` is only in the layers from there on.
    """

    name: str
    hf: str
    original: str
    shape: tuple[str | int, ...]
    init: str
    layout: str = "plain"
    also: tuple[str, ...] = ()
    single: str = ""
    start: int = 0


def _linear(
    name: str,
    hf: str,
    original: str | None,
    out: str | int,
    into: str,
    bias: bool = True,
    single: str = "",
    start: int = 0,
) -> list[Row]:
    original = hf if original is None else original
    ones = [f"{single}.{leaf}" * bool(single) for leaf in ("weight", "bias")]
    weight = Row(
        f"{name}.weight", f"{hf}.weight", f"{original}.weight", (out, into), "normal", "linear", (), ones[0], start
    )
    return [weight] + [
        Row(f"{name}.bias", f"{hf}.bias", f"{original}.bias", (out,), "zeros", "plain", (), ones[1], start)
    ] * bias


def _norm(name: str, hf: str, original: str | None, size: str) -> list[Row]:
    original = hf if original is None else original
    return [
        Row(f"{name}.weight", f"{hf}.weight", f"{original}.weight", (size,), "ones", "norm"),
        Row(f"{name}.bias", f"{hf}.bias", f"{original}.bias", (size,), "zeros", "norm"),
    ]


def _attention(name: str, hf: str, into: str) -> list[Row]:
    """Text attention; `into` is the width that keys and values are computed from."""
    return [
        *_linear(f"{name}.query", f"{hf}.self.query", None, "text", "text"),
        *_linear(f"{name}.key", f"{hf}.self.key", None, "text", into),
        *_linear(f"{name}.value", f"{hf}.self.value", None, "text", into),
        *_linear(f"{name}.projection", f"{hf}.output.dense", None, "text", "text"),
        *_norm(f"{name}.norm", f"{hf}.output.LayerNorm", None, "text"),
    ]


def _branch(index: int) -> list[Row]:
    """Cross-attention to one of NLVR's two pictures; a model of one picture fills both branches."""
    name, hf = f"blocks.{{}}.cross_attention.branch{index}", "encoder.layer.{}.crossattention"
    return [
        row
        for ours, theirs, place, into in (
            ("query", "query", "self", "text"),
            ("key", "key", "self", "cross"),
            ("value", "value", "self", "cross"),
            ("projection", "", "output.dense", "text"),
        )
        for row in _linear(
            f"{name}.{ours}",
            f"{hf}.{place}{index}.{theirs}".removesuffix("."),
            None,
            "text",
            into,
            single=f"{hf}.{place}.{theirs}".removesuffix("."),
        )
    ]


# fmt: off
VISION = (
    Row("class_embedding", "embeddings.class_embedding", "cls_token", (1, 1, "vision"), "position"),
    Row("position_embedding", "embeddings.position_embedding", "pos_embed", (1, "tokens", "vision"), "position"),
    Row("patch_embedding.weight", "embeddings.patch_embedding.weight", "patch_embed.proj.weight",
        ("vision", "channels", "patch", "patch"), "normal", "conv"),
    Row("patch_embedding.bias", "embeddings.patch_embedding.bias", "patch_embed.proj.bias", ("vision",), "zeros"),
    *_norm("blocks.{}.norm1", "encoder.layers.{}.layer_norm1", "blocks.{}.norm1", "vision"),
    *_linear("blocks.{}.attention.qkv", "encoder.layers.{}.self_attn.qkv", "blocks.{}.attn.qkv", "qkv", "vision"),
    *_linear("blocks.{}.attention.projection", "encoder.layers.{}.self_attn.projection", "blocks.{}.attn.proj",
             "vision", "vision"),
    *_norm("blocks.{}.norm2", "encoder.layers.{}.layer_norm2", "blocks.{}.norm2", "vision"),
    *_linear("blocks.{}.mlp.fc1", "encoder.layers.{}.mlp.fc1", "blocks.{}.mlp.fc1", "vision_mlp", "vision"),
    *_linear("blocks.{}.mlp.fc2", "encoder.layers.{}.mlp.fc2", "blocks.{}.mlp.fc2", "vision", "vision_mlp"),
    *_norm("post_layernorm", "post_layernorm", "norm", "vision"),
)
SELF_ATTENTION = tuple(_attention("blocks.{}.attention", "encoder.layer.{}.attention", "text"))
WORDS = Row("word_embeddings.weight", "embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight",
            ("vocab", "text"), "normal", "embedding")
EMBEDDINGS = (
    WORDS,
    Row("position_embeddings.weight", "embeddings.position_embeddings.weight", "embeddings.position_embeddings.weight",
        ("positions", "text"), "normal", "embedding"),
    *_norm("embedding_norm", "embeddings.LayerNorm", None, "text"),
)
FEED_FORWARD = (
    *_linear("blocks.{}.mlp.fc1", "encoder.layer.{}.intermediate.dense", None, "text_mlp", "text"),
    *_linear("blocks.{}.mlp.fc2", "encoder.layer.{}.output.dense", None, "text", "text_mlp"),
    *_norm("blocks.{}.mlp.norm", "encoder.layer.{}.output.LayerNorm", None, "text"),
)
TEXT = (*EMBEDDINGS, *SELF_ATTENTION, *FEED_FORWARD)
SHARED_TEXT = (*EMBEDDINGS, *FEED_FORWARD)  # what encoder and decoder share in pre-training, with cross-attention
CROSS = tuple(_attention("blocks.{}.cross_attention", "encoder.layer.{}.crossattention", "cross"))
CROSS_PAIR = (
    *_branch(0),
    *_branch(1),
    *_norm("blocks.{}.cross_attention.norm", "encoder.layer.{}.crossattention.output.LayerNorm", None, "text"),
)
MERGE = tuple(_linear("blocks.{}.cross_attention.merge", "encoder.layer.{}.crossattention.output.merge_layer", None,
                      "text", "text_pair", start=6))
POOLER = tuple(_linear("pooler", "pooler.dense", None, "text", "text"))
LM_HEAD = (
    *_linear("lm_head.dense", "cls.predictions.transform.dense", None, "text", "text"),
    *_norm("lm_head.norm", "cls.predictions.transform.LayerNorm", None, "text"),
    Row("lm_head.bias", "cls.predictions.bias", "cls.predictions.bias", ("vocab",), "zeros",
        also=("cls.predictions.decoder.bias",)),
)
TIED_PROJECTION = "cls.predictions.decoder.weight"  # the same tensor as the word embeddings
RETRIEVAL = (
    *_linear("vision_proj", "vision_proj", None, "itc", "vision"),
    *_linear("text_proj", "text_proj", None, "itc", "text"),
    *_linear("itm_head", "itm_head", None, 2, "text"),
)
NLVR_HEAD = (
    *_linear("cls_head.dense", "cls_head.0", None, "text", "text"),
    *_linear("cls_head.out", "cls_head.2", None, 2, "text"),
)
PROJECTIONS = (
    *_linear("visual_projection", "visual_projection", None, "projection", "vision", bias=False),
    *_linear("text_projection", "text_projection", None, "projection", "text", bias=False),
    Row("logit_scale", "logit_scale", "logit_scale", (), "logit_scale"),
)
# The training state of retrieval and pre-training. Queues hold features column by column; `idx_queue` the pictures'
# ids, and the pointers where the next column goes, as whole numbers.
MOMENTUM_PROJECTIONS = (
    *_linear("vision_proj_m", "vision_proj_m", None, "itc", "vision"),
    *_linear("text_proj_m", "text_proj_m", None, "itc", "text"),
)
QUEUES = (
    Row("temp", "temp", "temp", (), "temperature"),
    Row("image_queue", "image_queue", "image_queue", ("itc", "queue"), "unit_columns"),
    Row("text_queue", "text_queue", "text_queue", ("itc", "queue"), "unit_columns"),
)
RETRIEVAL_QUEUE = (
    Row("idx_queue", "idx_queue", "idx_queue", (1, "queue"), "no_id"),
    Row("queue_ptr", "ptr_queue", "ptr_queue", (1,), "pointer"),
)
PRETRAINING_QUEUE = (Row("queue_ptr", "queue_ptr", "queue_ptr", (1,), "pointer"),)
BUFFERS = ("embeddings.position_ids",)  # position numbers, which original checkpoints hold
# fmt: on
