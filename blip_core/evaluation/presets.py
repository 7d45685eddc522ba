"""Presets of evaluation: the original's settings for each data set, and the figures that were published with them.

The values are those of the original's configuration files and programs; what is not in a file says so. A checkpoint
from Hugging Face's converter lacks three settings that the original has in its code; `original_settings` finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip_core.checkpoints import open_checkpoint
from blip_core.checkpoints.loading import read_config
from blip_core.config import BlipConfig
from blip_core.hub import or_shipped
from blip_core.parameters.heads import HEADS
from blip_core.tasks import get_task

EPS = 1e-6
"""Added to the variance in each LayerNorm of the original's vision encoder."""
SMOOTHING = 0.1
"""Label smoothing of the original's decoder, by which it also ranks answers."""


@dataclass(frozen=True)
class Preset:
    """How one data set is evaluated.

    Attributes:
        task: The task in `blip_core.tasks.TASKS`.
        image_size: Height and width of pictures in pixels.
        figures: What was published.
        checkpoint: The checkpoint that the figures are of.
        split: The part of the data that they are of.
        options: Keywords of the task's evaluation.
        needs: The keyword that a user must give; "" if none.
        videos: Whether the data are videos.
    """

    task: str
    image_size: int
    figures: str
    checkpoint: str
    split: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    videos: bool = False


# Generation is the original's whatever the checkpoint's own generation_config.json says. Lengths count the prompt.
_BEAMS = {
    "do_sample": False, "num_beams": 3, "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0,
    "early_stopping": False, "max_new_tokens": None, "min_new_tokens": None,
}  # fmt: skip
_CAPTION = {**_BEAMS, "prompt": "a picture of ", "max_length": 20, "min_length": 5}
_RETRIEVAL = {"max_words": 30, "frames": 1}

PRESETS: dict[str, Preset] = {
    "coco": Preset(
        "caption", 384, "CIDEr 133.5, BLEU-4 39.9 (LAVIS; an independent run: 132.8 and 40.1); ViT-L: CIDEr 136.7",
        "captioning, base with CapFilt-L", "COCO, Karpathy's test split", _CAPTION,
    ),
    "nocaps": Preset(
        "caption", 384, "CIDEr 109.1, SPICE 14.7; validation: CIDEr 109.6, ViT-L 113.2",
        "captioning, base with CapFilt-L (fine-tuned on COCO)", "NoCaps",
        {**_CAPTION, "repetition_penalty": 1.1},  # in the program alone, not in the configuration file
    ),
    "coco-retrieval": Preset(
        "retrieval", 384, "R@1 82.0 for texts, 64.5 for pictures (an independent run: 82.5 and 64.8)",
        "retrieval on COCO, base", "COCO, Karpathy's test split", {**_RETRIEVAL, "rerank": 256},
    ),
    "flickr": Preset(
        "retrieval", 384, "R@1 96.9 for texts, 87.5 for pictures",
        "retrieval on Flickr30k, base", "Flickr30k, Karpathy's test split", {**_RETRIEVAL, "rerank": 128},
    ),
    "msrvtt": Preset(
        "retrieval", 384, "no figure of this checkpoint and split is known to us",
        "retrieval on COCO, base (zero-shot)", "MSRVTT, the 1,000 pairs for testing",
        {"max_words": 40, "frames": 8, "rerank": 128}, videos=True,
    ),
    "vqa-rank": Preset(
        "vqa", 480, "78.23 (test-dev), 78.29 (test-std)",
        "VQA, base with CapFilt-L", "VQA v2 test-dev and test-std, by the challenge's server",
        {"candidates": 128}, needs="choices",
    ),
    "vqa-generate": Preset(
        "vqa", 480, "none: the published figures are of ranking",
        "VQA, base with CapFilt-L", "VQA v2 test-dev and test-std, by the challenge's server",
        {**_BEAMS, "max_length": 10, "min_length": 1},
    ),
    "nlvr": Preset(
        "nlvr", 384, "accuracy 82.48 (dev), 83.25 (test-P)", "NLVR2, base", "NLVR2 dev and test-P",
    ),
}  # fmt: skip
"""The rows by name."""


def get_preset(name: str, task: str) -> Preset:
    """Return the preset of a name for a task.

    Raises:
        ValueError: If there is none, naming those that there are.
    """
    names = [other for other, row in PRESETS.items() if row.task == task]
    if name not in names:
        raise ValueError(f"preset of {task} must be one of {', '.join(names)}, got {name!r}.")
    return PRESETS[name]


def loading_options(preset: Preset, name: str | Path | None, revision: str | None = None) -> dict[str, Any]:
    """Return the keywords with which `Captioner.from_pretrained` and its like load a checkpoint for a preset.

    Args:
        preset: The preset.
        name: The checkpoint: a folder, a weight file, a Hub repository; the small model in the package unless given.
        revision: A branch, tag or commit of the Hub repository.

    Returns:
        `config` with what the checkpoint lacks, and `image_size` where it is for another; without those that it has.

    Raises:
        OSError: Where the checkpoint cannot be found or read.
        ValueError: Where it is no BLIP.
    """
    head = get_task(preset.task).head
    config = read_config(head, open_checkpoint(or_shipped(name, HEADS[head].shipped), revision=revision), None)
    assert isinstance(config, BlipConfig)
    found: dict[str, Any] = {}
    if lacking := original_settings(config):
        found["config"] = lacking
    if config.vision_config.image_size != preset.image_size:
        found["image_size"] = preset.image_size
    return found


def original_settings(config: BlipConfig) -> dict[str, Any]:
    """Return what the original sets and a configuration lacks, nested as `from_pretrained(config=)` takes it.

    `[ENC]` is the last token of the vocabulary where a configuration does not say which it is, as the original appends
    it last.

    Example:
        >>> original_settings(BlipConfig())["enc_token_id"]
        30523
        >>> original_settings(BlipConfig.base())
        {}
    """
    found: dict[str, Any] = {}
    if config.enc_token_id is None:
        found["enc_token_id"] = config.text_config.vocab_size - 1
    if config.vision_config.layer_norm_eps != EPS:
        found["vision_config"] = {"layer_norm_eps": EPS}
    if config.text_config.label_smoothing != SMOOTHING:
        found["text_config"] = {"label_smoothing": SMOOTHING}
    return found


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Say in one line what `original_settings` found, for people."""
    words = {
        "enc_token_id": lambda value: f"[ENC] (token {value})",
        "vision_config": lambda value: f"LayerNorm eps {value['layer_norm_eps']:g}",
        "text_config": lambda value: f"label smoothing {value['label_smoothing']:g}",
    }
    return ", ".join(words[name](value) for name, value in settings.items())
