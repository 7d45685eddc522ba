"""A small ViT and a small BERT with random weights, as files of timm and Hugging Face have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from blip_core.checkpoints.safetensors_file import write_arrays

LAYERS, WIDTH, MLP, PATCH, SIDE = 2, 12, 20, 16, 3
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ein", "rotes", "quadrat", "a", "large", "small", "square"]
WORDS += ["red", "green", "blue", "white"]
TEXT_WIDTH, TEXT_MLP, TEXT_LAYERS, POSITIONS = 16, 24, 3, 24


def timm_vit(width: int = WIDTH, patch: int = PATCH) -> dict[str, np.ndarray]:
    """The tensors of a ViT with timm's names, its head included."""
    shapes = {
        "cls_token": (1, 1, width), "pos_embed": (1, SIDE**2 + 1, width), "patch_embed.proj.bias": (width,),
        "patch_embed.proj.weight": (width, 3, patch, patch), "norm.weight": (width,), "norm.bias": (width,),
        "head.weight": (10, width), "head.bias": (10,),
    }  # fmt: skip
    for layer in range(LAYERS):
        sizes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (MLP, width)}
        sizes |= {"mlp.fc2": (width, MLP), "norm1": (width,), "norm2": (width,)}
        for name, shape in sizes.items():
            shapes[f"blocks.{layer}.{name}.weight"], shapes[f"blocks.{layer}.{name}.bias"] = shape, shape[:1]
    noise = np.random.default_rng(1)
    return {name: noise.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def hugging_face_vit(timm: dict[str, np.ndarray], prefix: str = "vit.") -> dict[str, np.ndarray]:
    """The same ViT with Hugging Face's names, written out once more by hand."""
    found = {
        f"{prefix}embeddings.cls_token": timm["cls_token"],
        f"{prefix}embeddings.position_embeddings": timm["pos_embed"],
        f"{prefix}embeddings.mask_token": timm["cls_token"],
        "classifier.weight": timm["head.weight"],
    }
    for leaf in ("weight", "bias"):
        found[f"{prefix}embeddings.patch_embeddings.projection.{leaf}"] = timm[f"patch_embed.proj.{leaf}"]
        found[f"{prefix}layernorm.{leaf}"] = timm[f"norm.{leaf}"]
        for layer in range(LAYERS):
            here, there = f"{prefix}encoder.layer.{layer}.", f"blocks.{layer}."
            parts = np.split(timm[f"{there}attn.qkv.{leaf}"], 3)
            for part, value in zip(("query", "key", "value"), parts, strict=True):
                found[f"{here}attention.attention.{part}.{leaf}"] = value
            for name, theirs in (
                ("attention.output.dense", "attn.proj"), ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
                ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
            ):  # fmt: skip
                found[f"{here}{name}.{leaf}"] = timm[f"{there}{theirs}.{leaf}"]
    return found


def bert(words: int = len(WORDS)) -> dict[str, np.ndarray]:
    """The tensors of a BERT as its first release names them: LayerNorms have gamma and beta."""
    width = TEXT_WIDTH
    shapes = {
        "bert.embeddings.word_embeddings.weight": (words, width),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        "cls.predictions.bias": (words,), "cls.predictions.decoder.weight": (words, width),
        "cls.seq_relationship.weight": (2, width),
    }  # fmt: skip
    dense = {"bert.pooler.dense": (width, width), "cls.predictions.transform.dense": (width, width)}
    norms = ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    for layer in range(TEXT_LAYERS):
        here = f"bert.encoder.layer.{layer}"
        dense |= {f"{here}.attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        dense |= {f"{here}.attention.output.dense": (width, width), f"{here}.intermediate.dense": (TEXT_MLP, width)}
        dense |= {f"{here}.output.dense": (width, TEXT_MLP)}
        norms += [f"{here}.attention.output.LayerNorm", f"{here}.output.LayerNorm"]
    for name, shape in dense.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    for name in norms:
        shapes[f"{name}.gamma"] = shapes[f"{name}.beta"] = (width,)
    noise = np.random.default_rng(2)
    found = {name: noise.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    found["cls.predictions.decoder.weight"] = found["bert.embeddings.word_embeddings.weight"]
    return found


def write_folder(
    folder: Path, tensors: dict[str, np.ndarray], config: dict, vocabulary: list[str] | None = None
) -> Path:
    """Write a folder as Hugging Face's `save_pretrained` does."""
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / "model.safetensors", dict(tensors))
    (folder / "config.json").write_text(json.dumps(config))
    if vocabulary:
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder
