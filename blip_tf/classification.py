"""Sorting texts with pictures into classes, such as visual entailment, trained with momentum distillation.

Shapes: B texts, L tokens, C classes.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig, BlipForClassificationOutput
from blip_core.calls import called_as_in_transformers
from blip_core.checks import check_classes, given_pictures, given_texts
from blip_tf.keras_model import dtype_policy
from blip_tf.momentum import TFBlipFollowedModel
from blip_tf.nn import Linear, Sequential, wide
from blip_tf.text import TFBlipTextModel
from blip_tf.text_padding import first_states
from blip_tf.vision import TFBlipVisionModel


@keras.saving.register_keras_serializable("blip")
class TFBlipForClassification(TFBlipFollowedModel):
    """Texts with pictures -> classes, `config.num_labels` of them.

    Momentum encoders, made by `start_momentum()` or `momentum=True` before the first step, soften the labels that it
    learns (ALBEF section 3.4). Source: LAVIS's `BlipClassification`, which leaves `[CLS]` at the beginning of texts:
    `config.enc_token_id` None does so. The arguments that methods share are described in `TFBlipImageModel`.
    """

    pairs = (("vision_model", "vision_model_m"), ("text_encoder", "text_encoder_m"), ("cls_head", "cls_head_m"))

    def __init__(self, config: BlipConfig, *, momentum: bool = False, initialize: bool = True):
        super().__init__(config)
        self.vision_model = TFBlipVisionModel(config.vision_config, initialize=False)
        self.text_encoder = TFBlipTextModel(config.text_config, add_pooling_layer=False, initialize=False)
        self.cls_head = class_head(config)
        if momentum:
            self.make_momentum()
        if initialize:
            self.initialize()

    def make_momentum(self) -> None:
        """Make the training state, without values."""
        config = self.config
        with dtype_policy(self.dtype_policy if self.variable_dtype == "float32" else "float32"):
            self.vision_model_m = TFBlipVisionModel(config.vision_config, initialize=False)
            self.text_encoder_m = TFBlipTextModel(config.text_config, add_pooling_layer=False, initialize=False)
            self.cls_head_m = class_head(config)
        super().make_momentum()

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
        alpha: float | Tensor = 0.4,
        training: bool = False,
    ) -> BlipForClassificationOutput:
        """Sort texts with pictures into classes.

        In training mode each call with labels is a step of the momentum encoders, if there are any.

        Args:
            labels: (B,), the class of each, from 0 on.
            alpha: The share, 0 to 1, of the momentum encoders' classes in the targets.

        Returns:
            `logits` (B, C), and with labels `loss`: the mean cross-entropy with the labels, of which momentum encoders
            replace the share alpha by that with their own probabilities.

        Raises:
            ValueError: If labels are not classes of the texts.
        """
        input_ids = given_texts(input_ids)
        outputs: dict[str, Any] = {
            "output_hidden_states": output_hidden_states, "output_attentions": output_attentions, "training": training,
        }  # fmt: skip
        texts = (self.text_encoder, input_ids, attention_mask)
        if labels is not None:
            check_classes(labels.shape, input_ids.shape[0])
        followed = given_pictures(pixel_values) if labels is not None and self.has_momentum else None
        vision = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding, *texts, **outputs)
        ids = self.grounded_ids(input_ids, attention_mask)
        text = self.text_encoder(ids, attention_mask, encoder_hidden_states=vision.last_hidden_state, **outputs)
        logits = self.cls_head(first_states(text.last_hidden_state, attention_mask))  # (B, C)
        loss = None
        if labels is not None:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, wide(logits)))
        if loss is not None and followed is not None:
            if training:
                self.prepare_step()
            targets = self.momentum_shares(followed, ids, attention_mask, interpolate_pos_encoding, training)
            soft = -tf.reduce_mean(tf.reduce_sum(tf.nn.log_softmax(wide(logits), axis=1) * targets, axis=1))
            loss = (1 - alpha) * loss + alpha * soft
        return BlipForClassificationOutput(
            loss=loss,
            logits=logits,
            image_embeds=vision.last_hidden_state,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
            text_hidden_states=text.hidden_states,
            text_attentions=text.attentions,
            cross_attentions=text.cross_attentions,
        )

    def momentum_shares(
        self,
        pixel_values: Tensor,
        ids: Tensor,
        attention_mask: Tensor | None,
        interpolate_pos_encoding: bool,
        training: bool = False,
    ) -> Tensor:
        """Texts (B, L), begun as for the encoder, with pictures -> probabilities (B, C) by the momentum encoders."""
        options = {"interpolate_pos_encoding": interpolate_pos_encoding, "training": training}
        states = self.vision_model_m(pixel_values, **options).last_hidden_state
        text = self.text_encoder_m(ids, attention_mask, encoder_hidden_states=states, training=training)
        logits = self.cls_head_m(first_states(text.last_hidden_state, attention_mask))
        return tf.stop_gradient(tf.nn.softmax(wide(logits), axis=1))

    def get_config(self) -> dict[str, Any]:
        """Return the values that `from_config` rebuilds the model from, the training state included."""
        return {**super().get_config(), "momentum": self.has_momentum}


def class_head(config: BlipConfig) -> Sequential:
    """The layers from the first token's state to the classes."""
    width = config.text_config.hidden_size
    return Sequential(Linear(width, width), tf.nn.relu, Linear(width, config.num_labels))
