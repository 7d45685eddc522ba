"""What the models share that look at pictures.

Shapes: B texts (or pairs), L tokens, T image tokens.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig, BlipVisionOutput
from blip_core.checks import check_pairs, check_pixel_values, check_states, image_source
from blip_tf.base import TFBlipPreTrainedModel, type_name
from blip_tf.text import TFBlipTextModel
from blip_tf.text_padding import begin_with
from blip_tf.vision import TFBlipVisionModel


class TFBlipImageModel(TFBlipPreTrainedModel):
    """A model with a vision encoder.

    Arguments that the methods of all heads share:
        pixel_values: Pictures (B or 1, 3, height, width), float, normalised by `BlipImageProcessor`.
        image_embeds: In place of pixel_values, the vision encoder's output (B or 1, T, vision width).
        interpolate_pos_encoding: Accept pictures of another size than `config.vision_config.image_size`.
        input_ids: Token ids (B, L) of texts, integers, as `BlipProcessor` makes them.
        attention_mask: (B, L), 1 for tokens and 0 for padding; all count unless given.
        output_hidden_states, output_attentions: Return these of all layers as well.
        training: Use dropout and stochastic depth, as `fit` does.

    Those that do not fit the model or each other raise a `ValueError`, before anything is computed.
    """

    config: BlipConfig
    vision_model: TFBlipVisionModel

    def check_pictures(
        self, pixel_values: Tensor | None, image_embeds: Tensor | None, interpolate_pos_encoding: bool
    ) -> Any:
        """Return how many pictures there are, or raise `ValueError` for such as the model cannot take."""
        source, vision = image_source(pixel_values, image_embeds), self.config.vision_config
        if image_embeds is None:
            check_pixel_values(source.shape, type_name(source), vision, interpolate_pos_encoding)
        return source.shape[0]

    def check_grounded(
        self, pictures: int | None, reader: TFBlipTextModel, input_ids: Tensor, attention_mask: Tensor | None
    ) -> None:
        """Raise `ValueError` for texts (B, L) that `reader` cannot read grounded in so many pictures."""
        check_pairs(pictures, input_ids.shape[0])
        width = self.config.vision_config.hidden_size
        check_states((pictures, None, width), None, input_ids.shape[0], reader.config)
        reader.check(input_ids, attention_mask, None, None)

    def encode_image(
        self,
        pixel_values: Tensor | None,
        image_embeds: Tensor | None,
        interpolate_pos_encoding: bool,
        reader: TFBlipTextModel | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **outputs: bool,
    ) -> BlipVisionOutput:
        """Run the vision encoder, or take the embeddings that it gave before.

        With `reader`, the texts (B, L) that it will read grounded in the pictures are checked before.
        """
        pictures = self.check_pictures(pixel_values, image_embeds, interpolate_pos_encoding)
        if reader is not None and input_ids is not None:
            self.check_grounded(pictures, reader, input_ids, attention_mask)
        if image_embeds is not None:
            return BlipVisionOutput(last_hidden_state=tf.cast(image_embeds, self.compute_dtype))
        return self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **outputs)

    def grounded_ids(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The token ids (B, L) of image-grounded text: they begin with `config.enc_token_id`, where that is set."""
        return begin_with(self.config.enc_token_id, input_ids, attention_mask)
