"""Pre-training: contrast, matching and language modelling on one pass over the pictures.

Shapes: b pairs of this process, B of all processes, L tokens, Q places of a queue, V vocabulary.
"""

from __future__ import annotations

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig, BlipForPreTrainingOutput
from blip_core.calls import called_as_in_transformers
from blip_core.checks import given_pictures, given_texts
from blip_core.parameters.initial_values import NO_ID
from blip_tf.distributed import mean_over_processes
from blip_tf.language_model import TFBlipTextLMHeadModel
from blip_tf.momentum import PairBatch, TFBlipMomentumModel, pair_ids
from blip_tf.text_padding import begin_with

FLOOR = 1e-4  # added to the probabilities by which negatives are chosen


@keras.saving.register_keras_serializable("blip")
class TFBlipForPreTraining(TFBlipMomentumModel):
    """The model of pre-training, from which all others are fine-tuned.

    The text encoder and decoder share everything but their self-attention. The training state is always there.
    Source: the original's `BLIP_Pretrain`; BLIP section 3.2. The arguments that methods share are described in
    `TFBlipImageModel`.
    """

    pointer_name = "queue_ptr"
    queues_ids = False

    def __init__(self, config: BlipConfig, *, initialize: bool = True):
        super().__init__(config)
        self.text_decoder = TFBlipTextLMHeadModel(config.text_config, shared=self.text_encoder, initialize=False)
        self.make_momentum()
        if initialize:
            self.initialize()

    @called_as_in_transformers
    def call(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        alpha: float | Tensor = 0.4,
        noise: Tensor | None = None,
        image_ids: Tensor | None = None,
        training: bool = False,
    ) -> BlipForPreTrainingOutput:
        """Compute the losses ITC, ITM and LM of pairs, and their sum.

        With `training=True` each such call is a step of the momentum encoders and the queues, which keep no ids.

        Args:
            input_ids: Texts (B, L), `[CLS] ... [SEP]` and padding. The first token becomes `config.enc_token_id`, where
                that is set, for matching, and `[DEC]` for language modelling.
            alpha: The share, 0 to 1, of the momentum encoders' similarities in the targets.
            noise: Random numbers (2, B) in [0, 1) that choose the hard negatives, see `negative_noise`.
            image_ids: Whole numbers (B,) but -100, the same for pairs that are no negatives of each other. Unless
                given, all pairs are, as in the original.

        Returns:
            `loss`, `loss_itc`, `loss_itm`, `loss_lm`, `itm_score` (3 B, 2) and `logits` (B, L, V).

        Raises:
            ValueError: If a batch has no negatives.
        """
        input_ids, pixel_values = given_texts(input_ids), given_pictures(pixel_values)
        image_ids = pair_ids(image_ids, input_ids)
        batch = PairBatch(pixel_values, input_ids, attention_mask, interpolate_pos_encoding, image_ids, noise)
        self.check_training(batch)
        embeds, features, momentum, loss_itc = self.contrast(batch, alpha, training)
        weights = self.negative_weights(features, momentum, image_ids, FLOOR)
        loss_itm, score = self.matching_loss(batch, embeds, weights, training)
        loss_lm, logits = self.language_loss(embeds, input_ids, attention_mask, training)
        return BlipForPreTrainingOutput(
            loss=loss_itc + loss_itm + loss_lm,
            loss_itc=loss_itc,
            loss_itm=loss_itm,
            loss_lm=loss_lm,
            itm_score=score,
            logits=logits,
            image_embeds=embeds,
        )

    def queued_ids(self) -> Tensor:
        """Return ids (Q,) that match no picture: the queues of pre-training keep none."""
        return tf.fill([self.image_queue.shape[1]], tf.constant(NO_ID, tf.int64))

    def language_loss(
        self, embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, training: bool = False
    ) -> tuple[Tensor, Tensor]:
        """LM: the mean over all real tokens, those of other processes included, and the logits (b, L, V)."""
        text = self.config.text_config
        real = input_ids != text.pad_token_id if attention_mask is None else tf.cast(attention_mask, tf.bool)
        ids = begin_with(text.bos_token_id, input_ids, attention_mask)
        labels = begin_with(-100, tf.where(real, ids, tf.cast(-100, ids.dtype)), attention_mask)
        output = self.text_decoder(
            ids, attention_mask, encoder_hidden_states=embeds, labels=labels, reduction="sum", training=training
        )
        tokens = tf.reduce_sum(tf.cast(labels[:, 1:] != -100, output.loss.dtype))
        return output.loss / mean_over_processes(tokens), output.logits
