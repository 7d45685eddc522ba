"""Matching pictures with texts, and the features to do so at scale.

Shapes: B texts (or pairs), L tokens, W text width, V vocabulary, T image tokens. `image_embeds` (B or 1, T, vision
width), the vision encoder's output, may stand in place of `pixel_values` (B or 1, 3, height, width).
"""

from __future__ import annotations

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig, BlipForImageTextRetrievalOutput
from blip_core.checks import check_pairs, given_texts
from blip_tf.image_model import TFBlipImageModel
from blip_tf.nn import Linear, normalize
from blip_tf.text import TFBlipTextModel
from blip_tf.vision import TFBlipVisionModel


@keras.saving.register_keras_serializable("blip")
class TFBlipForImageTextRetrieval(TFBlipImageModel):
    """Matching pictures with texts: by a classifier on image-grounded text (ITM) or by cosine similarity (ITC).

    Source: the original's `BLIP_ITM` and `BLIP_Retrieval`.
    """

    def __init__(self, config: BlipConfig, *, initialize: bool = True):
        super().__init__(config)
        self.vision_model = TFBlipVisionModel(config.vision_config, initialize=False)
        self.text_encoder = TFBlipTextModel(config.text_config, add_pooling_layer=False, initialize=False)
        self.vision_proj = Linear(config.vision_config.hidden_size, config.image_text_hidden_size)
        self.text_proj = Linear(config.text_config.hidden_size, config.image_text_hidden_size)
        self.itm_head = Linear(config.text_config.hidden_size, 2)
        if initialize:
            self.initialize()

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> Tensor:
        """Pictures -> L2-normalised features (B, image_text_hidden_size), the ones to store and compare."""
        embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding).last_hidden_state
        return normalize(self.vision_proj(embeds[:, 0]))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Texts (B, L) -> L2-normalised features (B, image_text_hidden_size), to compare with those of pictures."""
        return normalize(self.text_proj(self.text_encoder(input_ids, attention_mask).last_hidden_state[:, 0]))

    def call(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_itm_head: bool = True,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool = False,
    ) -> BlipForImageTextRetrievalOutput:
        """Score pairs of pictures and texts, or one picture with many texts.

        `itm_score` holds logits (B, 2) of which index 1 is "they match"; with `use_itm_head=False` it holds the
        cosine similarities of all pictures with all texts, (pictures, texts).
        """
        input_ids = given_texts(input_ids)
        outputs = {
            "output_hidden_states": output_hidden_states, "output_attentions": output_attentions, "training": training,
        }  # fmt: skip
        vision = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding, **outputs)
        embeds = vision.last_hidden_state
        if use_itm_head:
            check_pairs(embeds.shape[0], input_ids.shape[0])
            ids = self.grounded_ids(input_ids)
            text = self.text_encoder(ids, attention_mask, encoder_hidden_states=embeds, **outputs)
            score = self.itm_head(text.last_hidden_state[:, 0])  # (B, 2)
        else:
            text = self.text_encoder(input_ids, attention_mask, **outputs)
            image_features = normalize(self.vision_proj(embeds[:, 0]))
            text_features = normalize(self.text_proj(text.last_hidden_state[:, 0]))
            score = tf.matmul(image_features, text_features, transpose_b=True)  # (pictures, texts)
        return BlipForImageTextRetrievalOutput(
            itm_score=score,
            image_embeds=embeds,
            last_hidden_state=embeds,
            hidden_states=vision.hidden_states,
            vision_pooler_output=vision.pooler_output,
            attentions=vision.attentions,
            question_embeds=text.last_hidden_state,
            text_hidden_states=text.hidden_states,
            text_attentions=text.attentions,
            cross_attentions=text.cross_attentions,
        )
