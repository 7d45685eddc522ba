"""What the models share that look at pictures.

Shapes: B texts (or pairs), L tokens, W text width, V vocabulary, T image tokens. `image_embeds` (B or 1, T, vision
width), the vision encoder's output, may stand in place of `pixel_values` (B or 1, 3, height, width).
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip_core import BlipConfig, BlipVisionOutput
from blip_pt.base import BlipPreTrainedModel
from blip_pt.vision import BlipVisionModel


class BlipImageModel(BlipPreTrainedModel):
    """A model with a vision encoder."""

    config: BlipConfig
    vision_model: BlipVisionModel

    def encode_image(
        self, pixel_values: Tensor | None, image_embeds: Tensor | None, interpolate_pos_encoding: bool, **outputs: bool
    ) -> BlipVisionOutput:
        """Run the vision encoder, or take the embeddings that it gave before."""
        if (pixel_values is None) == (image_embeds is None):
            raise ValueError("Give either pixel_values or image_embeds.")
        if pixel_values is not None:
            return self.vision_model(pixel_values, interpolate_pos_encoding, **outputs)
        return BlipVisionOutput(last_hidden_state=image_embeds.to(self.dtype))

    def grounded_ids(self, input_ids: Tensor) -> Tensor:
        """The token ids (B, L) of image-grounded text: they begin with `config.enc_token_id`, where that is set."""
        if self.config.enc_token_id is None:
            return input_ids
        return torch.cat([torch.full_like(input_ids[:, :1], self.config.enc_token_id), input_ids[:, 1:]], dim=1)


def check_pairs(images: Tensor, texts: Tensor) -> None:
    """Raise `ValueError` unless there are as many pictures as texts, or one picture for all."""
    if len(images) not in (1, len(texts)):
        raise ValueError(f"{len(images)} pictures do not go with {len(texts)} texts; give one of each, or one picture.")
