"""What the models share that look at pictures.

Shapes: B texts (or pairs), L tokens, W text width, V vocabulary, T image tokens. `image_embeds` (B or 1, T, vision
width), the vision encoder's output, may stand in place of `pixel_values` (B or 1, 3, height, width).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig, BlipVisionOutput
from blip_core.checks import check_image_source
from blip_tf.base import TFBlipPreTrainedModel
from blip_tf.vision import TFBlipVisionModel


class TFBlipImageModel(TFBlipPreTrainedModel):
    """A model with a vision encoder."""

    config: BlipConfig
    vision_model: TFBlipVisionModel

    def encode_image(
        self, pixel_values: Tensor | None, image_embeds: Tensor | None, interpolate_pos_encoding: bool, **outputs: Any
    ) -> BlipVisionOutput:
        """Run the vision encoder, or take the embeddings that it gave before."""
        check_image_source(pixel_values, image_embeds)
        if image_embeds is not None:
            return BlipVisionOutput(last_hidden_state=tf.cast(image_embeds, self.compute_dtype))
        return self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **outputs)

    def grounded_ids(self, input_ids: Tensor) -> Tensor:
        """The token ids (B, L) of image-grounded text: they begin with `config.enc_token_id`, where that is set."""
        if self.config.enc_token_id is None:
            return input_ids
        first = tf.fill(tf.shape(input_ids[:, :1]), tf.cast(self.config.enc_token_id, input_ids.dtype))
        return tf.concat([first, input_ids[:, 1:]], axis=1)
