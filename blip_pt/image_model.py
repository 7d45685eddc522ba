"""What the models share that look at pictures.

Shapes: B texts (or pairs), L tokens, W text width, V vocabulary, T image tokens. `image_embeds` (B or 1, T, vision
width), the vision encoder's output, may stand in place of `pixel_values` (B or 1, 3, height, width).
"""

from __future__ import annotations

import torch
from torch import Tensor

from blip_core import BlipConfig, BlipVisionOutput
from blip_core.checks import check_image_source
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
        check_image_source(pixel_values, image_embeds)
        if image_embeds is not None:
            return BlipVisionOutput(last_hidden_state=image_embeds.to(self.dtype))
        return self.vision_model(pixel_values, interpolate_pos_encoding, **outputs)

    def grounded_ids(self, input_ids: Tensor) -> Tensor:
        """The token ids (B, L) of image-grounded text: they begin with `config.enc_token_id`, where that is set."""
        if self.config.enc_token_id is None:
            return input_ids
        return torch.cat([torch.full_like(input_ids[:, :1], self.config.enc_token_id), input_ids[:, 1:]], dim=1)
