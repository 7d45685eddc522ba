"""A matching model made by hand: its words "red", "green" and "blue" attend to the patches of their colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from blip_core import BlipConfig, BlipImageProcessor, BlipProcessor, BlipTextConfig, BlipTokenizer, BlipVisionConfig
from blip_core.checkpoints.saving import write_pretrained
from blip_core.parameters.models import parameters

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
GREY = (127, 127, 127)
SIDE, PATCH = 40, 8
CONFIG = BlipConfig(
    text_config=BlipTextConfig(hidden_size=8, intermediate_size=5, num_hidden_layers=3, num_attention_heads=2),
    vision_config=BlipVisionConfig(
        hidden_size=6, intermediate_size=7, num_hidden_layers=1, num_attention_heads=3, image_size=SIDE,
        patch_size=PATCH,
    ),
    image_text_hidden_size=4,
)  # fmt: skip


def save_colour_model(folder: Path) -> Path:
    """Write the model with its processor.

    The vision encoder's states are the patches' colours (numbers 0 to 2; 3 is greater than 0 for any colour but grey).
    Words ask for their colour in layer 1 and take over number 3, which the first token gathers in layer 2: the match.
    """
    tokenizer = BlipTokenizer()
    rows = parameters("BlipForImageTextRetrieval", CONFIG)
    values = {
        row.name: np.full(row.shape, "norm" in row.name.lower() and row.name.endswith("weight"), "f4") for row in rows
    }
    for place in range(3):
        values["vision_model.embeddings.patch_embedding.weight"][place, place] = 1 / PATCH**2
    for place, word in enumerate([*COLOURS, "[CLS]"]):
        values["text_encoder.embeddings.word_embeddings.weight"][tokenizer.convert_tokens_to_ids(word), place] = 1

    def block(layer: int, part: str) -> np.ndarray:
        return values[f"text_encoder.encoder.layer.{layer}.{part}.weight"]

    for head in (0, 4):
        for place in range(3):
            block(1, "crossattention.self.query")[head + place, place] = 2
            block(1, "crossattention.self.key")[head + place, place] = 1
        block(1, "crossattention.self.value")[head + 3, 3] = 1
        block(1, "crossattention.output.dense")[5, head + 3] = 1
    block(2, "attention.self.value")[0, 5] = 1
    block(2, "attention.output.dense")[6, 0] = 1
    values["itm_head.weight"][1, 6] = 1
    write_pretrained(folder, "BlipForImageTextRetrieval", CONFIG, rows, lambda row: values[row.name])
    image_processor = BlipImageProcessor(size=SIDE, image_mean=0.5, image_std=0.5)
    BlipProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def draw_patches(rows: int, columns: int, colours: dict[tuple[int, int], str], patch: tuple[int, int]) -> Image.Image:
    """A grey picture of so many patches of (width, height) pixels, some of them coloured."""
    picture = np.full((rows, columns, 3), GREY, np.uint8)
    for place, colour in colours.items():
        picture[place] = COLOURS[colour]
    return Image.fromarray(picture).resize((columns * patch[0], rows * patch[1]), Image.Resampling.NEAREST)
