"""NLVR2: is a sentence true of two pictures?

Shapes: B sentences, L tokens, T image tokens.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig, BlipForNLVROutput
from blip_core.calls import called_as_in_transformers
from blip_core.checks import check_classes, check_picture_pairs, given_texts
from blip_core.parameters.table import MERGE
from blip_tf.image_model import TFBlipImageModel
from blip_tf.nn import Linear, Sequential, sizes, wide
from blip_tf.text import TextLayer, TFBlipTextModel
from blip_tf.text_attention import PairAttention
from blip_tf.text_padding import first_states
from blip_tf.vision import TFBlipVisionModel


class TFBlipPairTextModel(TFBlipTextModel):
    """A text encoder grounded in two pictures."""

    def make_layer(self, index: int, shared: TFBlipTextModel | None) -> TextLayer:
        return TextLayer(self.config, PairAttention(self.config, merge=index >= MERGE[0].start))


@keras.saving.register_keras_serializable("blip")
class TFBlipForNLVR(TFBlipImageModel):
    """Two pictures and a sentence -> false or true. Source: the original's `BLIP_NLVR`.

    A checkpoint of a model of one picture fills both branches of the cross-attention. The arguments that methods share
    are described in `TFBlipImageModel`.
    """

    def __init__(self, config: BlipConfig, *, initialize: bool = True):
        super().__init__(config)
        self.vision_model = TFBlipVisionModel(config.vision_config, initialize=False)
        self.text_encoder = TFBlipPairTextModel(config.text_config, add_pooling_layer=False, initialize=False)
        width = config.text_config.hidden_size
        self.cls_head = Sequential(Linear(width, width), tf.nn.relu, Linear(width, 2))
        if initialize:
            self.initialize()

    @called_as_in_transformers
    def call(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool = False,
    ) -> BlipForNLVROutput:
        """Judge whether sentences are true of pairs of pictures.

        Args:
            pixel_values: Pairs of pictures (B, 2, 3, height, width), or image_embeds (B, 2, T, vision width).
            input_ids: Sentences (B, L).
            labels: (B,), 1 for true and 0 for false.

        Returns:
            `logits` (B, 2), index 1 for "true", and with labels `loss`, the mean cross-entropy.

        Raises:
            ValueError: If pictures are not pairs, or labels are not classes of the texts.
        """
        input_ids = given_texts(input_ids)
        outputs: dict[str, Any] = {
            "output_hidden_states": output_hidden_states, "output_attentions": output_attentions, "training": training,
        }  # fmt: skip
        texts = input_ids.shape[0]
        for given in (pixel_values, image_embeds):
            if given is not None:
                check_picture_pairs(given.shape, texts)
        self.text_encoder.check(input_ids, attention_mask, None, None)
        if labels is not None:
            check_classes(labels.shape, texts)
        pictures, embeds = (
            None if x is None else tf.reshape(x, (-1, *sizes(x)[2:])) for x in (pixel_values, image_embeds)
        )  # (2 B, ...)
        vision = self.encode_image(pictures, embeds, interpolate_pos_encoding, **outputs)  # (2 B, T, width)
        _, tokens, width = sizes(vision.last_hidden_state)
        states = tf.reshape(vision.last_hidden_state, (-1, 2, tokens, width))
        both = tf.reshape(states, (-1, 2 * tokens, width))
        ids = self.grounded_ids(input_ids, attention_mask)
        text = self.text_encoder(ids, attention_mask, encoder_hidden_states=both, **outputs)
        logits = self.cls_head(first_states(text.last_hidden_state, attention_mask))
        loss = None
        if labels is not None:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, wide(logits)))
        return BlipForNLVROutput(
            loss=loss,
            logits=logits,
            image_embeds=states,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
            text_hidden_states=text.hidden_states,
            text_attentions=text.attentions,
            cross_attentions=text.cross_attentions,
        )
