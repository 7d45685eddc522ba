"""`TFBlipModel`: contrastive features of pictures and texts, as Hugging Face defined them.

Shapes: B texts (or pairs), L tokens.
"""

from __future__ import annotations

import warnings

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig, BlipOutput
from blip_core.calls import called_as_in_transformers, takes_tensors
from blip_core.checks import check_similarities, given_texts
from blip_tf.image_model import TFBlipImageModel
from blip_tf.nn import Linear, normalize, sizes, wide
from blip_tf.text import TFBlipTextModel
from blip_tf.vision import TFBlipVisionModel


@keras.saving.register_keras_serializable("blip")
class TFBlipModel(TFBlipImageModel):
    """Contrastive features of pictures and texts through poolers and projections, as Hugging Face defined them.

    Deprecated there and here: no published checkpoint trains its projections. `TFBlipForImageTextRetrieval` has the
    features that can be compared. The arguments that methods share are described in `TFBlipImageModel`.
    """

    def __init__(self, config: BlipConfig, *, initialize: bool = True):
        warnings.warn("BlipModel is deprecated; use BlipForImageTextRetrieval.", FutureWarning, stacklevel=2)
        super().__init__(config)
        self.projection_dim = config.projection_dim
        self.vision_model = TFBlipVisionModel(config.vision_config, initialize=False)
        self.text_model = TFBlipTextModel(config.text_config, initialize=False)
        self.visual_projection = Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = self.add_weight(name="logit_scale", shape=(), initializer="zeros")
        if initialize:
            self.initialize()

    @takes_tensors
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Encode texts.

        Args:
            position_ids: (B, L) or (L,); unless given, each text's real tokens are counted from 0.

        Returns:
            Projected pooled features (B, projection_dim), not normalised.
        """
        return self.text_projection(self.text_model(input_ids, attention_mask, position_ids).pooler_output)

    @takes_tensors
    def get_image_features(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Encode pictures.

        Returns:
            Projected pooled features (B, projection_dim), not normalised.
        """
        vision = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        return self.visual_projection(vision.pooler_output)

    @takes_tensors
    def get_multimodal_features(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> Tensor:
        """Encode texts grounded in pictures.

        Returns:
            Projected pooled features (B, projection_dim), not normalised.
        """
        input_ids = given_texts(input_ids)
        texts = (self.text_model, input_ids, attention_mask)
        vision = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding, *texts)
        text = self.text_model(input_ids, attention_mask, encoder_hidden_states=vision.last_hidden_state)
        return self.text_projection(text.pooler_output)

    @called_as_in_transformers
    def call(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool = False,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool = False,
    ) -> BlipOutput:
        """Compare all pictures with all texts.

        Args:
            position_ids: As of `get_text_features`.
            return_loss: Add the contrastive loss of matching pairs; needs as many pictures as texts.

        Returns:
            `logits_per_text` (texts, pictures), `logits_per_image`, `text_embeds` and `image_embeds`, and what both
            encoders returned.
        """
        outputs = {
            "output_hidden_states": output_hidden_states, "output_attentions": output_attentions, "training": training,
        }  # fmt: skip
        self.text_model.check(input_ids, attention_mask, None, None)
        if return_loss:
            check_similarities((input_ids.shape[0], pixel_values.shape[0]))
        vision = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **outputs)
        text = self.text_model(input_ids, attention_mask, position_ids, **outputs)
        image_embeds = normalize(self.visual_projection(vision.pooler_output))
        text_embeds = normalize(self.text_projection(text.pooler_output))
        scale = tf.exp(tf.convert_to_tensor(self.logit_scale))
        logits_per_text = tf.matmul(text_embeds, image_embeds, transpose_b=True) * scale  # (texts, pictures)
        return BlipOutput(
            loss=contrastive_loss(logits_per_text) if return_loss else None,
            logits_per_image=tf.transpose(logits_per_text),
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=vision,
        )


def contrastive_loss(logits_per_text: Tensor) -> Tensor:
    """Cross-entropy of (B, B) similarities whose diagonal holds the matching pairs, averaged over both directions."""
    logits, target = wide(logits_per_text), tf.range(sizes(logits_per_text)[0])
    losses = (tf.nn.sparse_softmax_cross_entropy_with_logits(target, one) for one in (logits, tf.transpose(logits)))
    return sum(tf.reduce_mean(loss) for loss in losses) / 2
