"""Contrastive training: momentum encoders, queues of their features, a learned temperature, and the losses.

Shapes: b pairs of this process, B of all processes, L tokens, T image tokens, Q features in a queue, F their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig
from blip_core.calls import takes_tensors
from blip_core.checks import NO_NEGATIVES, check_image_ids, check_momentum, check_negatives, check_pair_batch
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.models import Parameter, training_state
from blip_tf.base import random_seed, type_name
from blip_tf.distributed import assign, gather, processes, raw, same_length
from blip_tf.image_model import TFBlipImageModel
from blip_tf.keras_model import dtype_policy, model_name
from blip_tf.nn import Linear, lookup, normalize, sizes, wide
from blip_tf.text import TFBlipTextModel
from blip_tf.text_padding import first_states
from blip_tf.vision import TFBlipVisionModel

PAIRS = (
    ("vision_model", "vision_model_m"),
    ("text_encoder", "text_encoder_m"),
    ("vision_proj", "vision_proj_m"),
    ("text_proj", "text_proj_m"),
)
"""The parts of a model and their momentum copies."""


class PairBatch(NamedTuple):
    """Pictures (b, 3, height, width) to train on, and a text (b, L) of each.

    `image_ids` (b,) are the same where the pictures are; `noise` (2, b), in [0, 1), chooses the negatives.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor | None
    interpolate_pos_encoding: bool
    image_ids: Tensor
    noise: Tensor | None


class TFBlipFollowedModel(TFBlipImageModel):
    """A model whose training keeps copies of its parts, which follow the weights slowly and are not trained.

    `pairs` are the parts and their copies. A subclass makes them in `make_momentum`.
    """

    pairs: ClassVar[Sequence[tuple[str, str]]] = PAIRS

    def __init__(self, config: BlipConfig):
        super().__init__(config)
        self.has_momentum = False

    def make_momentum(self) -> None:
        """Make the training state, without values."""
        for _, copy in self.pairs:
            getattr(self, copy).trainable = False
        self.has_momentum = True

    def start_momentum(self) -> None:
        """Begin training: copy the encoders, fill the queues, where there are any, with random features.

        Call it before the optimizer is made. The features follow the framework's global seed. Called again, it starts
        over with the same parameters.
        """
        if not self.has_momentum:
            self.make_momentum()
        for own, copy in self.momentum_pairs():
            copy.assign(raw(own))
        noise = np.random.default_rng(random_seed())
        for parameter in training_state(model_name(type(self)), self.config):
            if parameter.followed == parameter.name:
                self.get_parameter(parameter.name).assign(initial_value(parameter, self.config, noise))

    def initialize(self) -> None:
        has_momentum, self.has_momentum = self.has_momentum, False
        super().initialize()
        self.has_momentum = has_momentum
        if has_momentum:
            self.start_momentum()

    def table(self) -> list[Parameter]:
        state = training_state(model_name(type(self)), self.config) if self.has_momentum else []
        return super().table() + state

    def momentum_pairs(self) -> list[tuple[Any, Any]]:
        """The weights and their momentum copies."""
        return [
            weights
            for own, copy in self.pairs
            for weights in zip(getattr(self, own).weights, getattr(self, copy).weights, strict=True)
        ]

    def prepare_step(self) -> None:
        """Begin a training step: let the momentum encoders follow."""
        pairs, share = self.momentum_pairs(), self.config.momentum
        news = [raw(copy) * share + tf.cast(raw(own), raw(copy).dtype) * (1 - share) for own, copy in pairs]
        assign([copy for _, copy in pairs], news)


class TFBlipMomentumModel(TFBlipFollowedModel):
    """A model with comparable features of pictures and texts, and what their training needs.

    The momentum encoders follow the model's weights slowly and are not trained; the queues hold their features of the
    last `config.queue_size` pictures and texts, in retrieval with the pictures' ids. Both are saved and loaded with the
    model. Source: the original's `BLIP_Retrieval` and `BLIP_Pretrain`; BLIP section 3.2.
    """

    pointer_name: str
    queues_ids: bool

    def __init__(self, config: BlipConfig):
        super().__init__(config)
        self.vision_model = TFBlipVisionModel(config.vision_config, initialize=False)
        self.text_encoder = TFBlipTextModel(config.text_config, add_pooling_layer=False, initialize=False)
        self.vision_proj = Linear(config.vision_config.hidden_size, config.image_text_hidden_size)
        self.text_proj = Linear(config.text_config.hidden_size, config.image_text_hidden_size)
        self.itm_head = Linear(config.text_config.hidden_size, 2)

    def make_momentum(self) -> None:
        """Make the training state, without values."""
        config = self.config
        with dtype_policy(self.dtype_policy if self.variable_dtype == "float32" else "float32"):
            self.vision_model_m = TFBlipVisionModel(config.vision_config, initialize=False)
            self.text_encoder_m = TFBlipTextModel(config.text_config, add_pooling_layer=False, initialize=False)
            self.vision_proj_m = Linear(config.vision_config.hidden_size, config.image_text_hidden_size)
            self.text_proj_m = Linear(config.text_config.hidden_size, config.image_text_hidden_size)
        self.temp = self.add_weight(name="temp", shape=(), initializer="zeros")
        for parameter in training_state(model_name(type(self)), config):
            if "queue" in parameter.name:
                kind = "float32" if parameter.row.init == "unit_columns" else "int64"
                options: dict[str, Any] = {"dtype": kind, "autocast": False, "trainable": False}
                queue = self.add_weight(name=parameter.name, shape=parameter.shape, initializer="zeros", **options)
                setattr(self, parameter.name, queue)
        super().make_momentum()

    @takes_tensors
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> Tensor:
        """Encode pictures as the features to store and compare.

        Returns:
            L2-normalised features (B, image_text_hidden_size).
        """
        embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding).last_hidden_state
        return normalize(self.vision_proj(embeds[:, 0]))

    @takes_tensors
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, training: bool = False
    ) -> Tensor:
        """Encode texts as features to compare with those of pictures.

        Returns:
            L2-normalised features (B, image_text_hidden_size).
        """
        states = self.text_encoder(input_ids, attention_mask, training=training).last_hidden_state
        return normalize(self.text_proj(first_states(states, attention_mask)))

    def features(
        self, embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, training: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Image embeddings (b, T, width) and texts (b, L) -> features (b, F) of both, in float32 at least."""
        pictures = self.get_image_features(image_embeds=embeds)
        return wide(pictures), wide(self.get_text_features(input_ids, attention_mask, training))

    def prepare_step(self) -> None:
        """Begin a training step: keep the temperature within bounds, let the momentum encoders follow."""
        assign([self.temp], [tf.clip_by_value(raw(self.temp), 0.001, 0.5)])
        super().prepare_step()

    def momentum_features(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        interpolate_pos_encoding: bool,
        training: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Pairs -> features (b, F) of pictures and of texts by the momentum encoders."""
        options = {"interpolate_pos_encoding": interpolate_pos_encoding, "training": training}
        pictures = self.vision_model_m(pixel_values, **options).last_hidden_state[:, 0]
        texts = self.text_encoder_m(input_ids, attention_mask, training=training).last_hidden_state
        texts = first_states(texts, attention_mask)
        return (
            tf.stop_gradient(normalize(wide(self.vision_proj_m(pictures)))),
            tf.stop_gradient(normalize(wide(self.text_proj_m(texts)))),
        )

    def enqueue(self, pictures: Tensor, texts: Tensor, image_ids: Tensor) -> None:
        """Let the newest features (B, F) take the places of the oldest; of more than Q the last Q stay."""
        size, count = self.image_queue.shape[1], sizes(pictures)[0]
        pointer = self.get_parameter(self.pointer_name)
        columns = (raw(pointer) + tf.range(tf.cast(count, tf.int64))) % size  # (B,)
        last = slice(tf.maximum(count - size, 0), None)
        queues = [(self.image_queue, pictures), (self.text_queue, texts)]
        if self.queues_ids:
            queues.append((self.idx_queue, image_ids[:, None]))
        variables, values = [pointer], [(raw(pointer) + tf.cast(count, tf.int64)) % size]
        for queue, news in queues:
            rows = tf.transpose(raw(queue))
            rows = tf.tensor_scatter_nd_update(rows, columns[last][:, None], tf.cast(news[last], rows.dtype))
            variables.append(queue)
            values.append(tf.transpose(rows))
        assign(variables, values)

    def queued_ids(self) -> Tensor:
        """Return the ids (Q,) of the pairs in the queues."""
        return raw(self.idx_queue)[0]

    def contrastive_loss(
        self,
        features: tuple[Tensor, Tensor],
        momentum: tuple[Tensor, Tensor],
        image_ids: Tensor,
        alpha: float | Tensor,
    ) -> Tensor:
        """ITC: tell each picture's texts, and each text's pictures, among the batch and the queues.

        `features` and `momentum` (b, F) are of pictures and texts. A pair is right where ids (b,) are the same; `alpha`
        is the share that the momentum encoders' own similarities have in the targets.
        """
        (pictures, texts), (pictures_m, texts_m) = features, momentum
        all_pictures = tf.concat([tf.transpose(gather(pictures_m)), raw(self.image_queue)], axis=1)  # (F, B + Q)
        all_texts = tf.concat([tf.transpose(gather(texts_m)), raw(self.text_queue)], axis=1)
        everything = tf.concat([gather(image_ids), self.queued_ids()], axis=0)  # (B + Q,)
        right = tf.cast(image_ids[:, None] == everything, all_texts.dtype)  # (b, B + Q)
        right = right / tf.reduce_sum(right, axis=1, keepdims=True)
        temperature, losses = wide(tf.convert_to_tensor(raw(self.temp))), []
        alpha = tf.cast(alpha, all_texts.dtype)
        for own, own_m, others in ((pictures, pictures_m, all_texts), (texts, texts_m, all_pictures)):
            soft = tf.nn.softmax(tf.matmul(own_m, others) / tf.stop_gradient(temperature))
            targets = alpha * soft + (1 - alpha) * right
            log_probs = tf.nn.log_softmax(tf.matmul(own, others) / temperature)
            losses.append(-tf.reduce_mean(tf.reduce_sum(log_probs * targets, axis=1)))
        return (losses[0] + losses[1]) / 2

    def contrast(
        self, batch: PairBatch, alpha: float | Tensor, training: bool = False
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
        """The first half of a training step: encode pairs, compute ITC, in training let momentum and queues follow.

        Returns image embeddings (b, T, width), features (b, F) of pictures and of texts, the same by the momentum
        encoders, and the loss.
        """
        pixel_values, input_ids, attention_mask, interpolate, image_ids, _ = batch
        if training:
            self.prepare_step()
        embeds = self.encode_image(pixel_values, None, interpolate, training=training).last_hidden_state
        features = self.features(embeds, input_ids, attention_mask, training)
        momentum = self.momentum_features(pixel_values, input_ids, attention_mask, interpolate, training)
        loss = self.contrastive_loss(features, momentum, image_ids, alpha)
        if training:
            self.enqueue(gather(momentum[0]), gather(momentum[1]), gather(image_ids))
        return embeds, features, momentum, loss

    def candidates(self, x: Tensor) -> Tensor:
        """What negatives are chosen from (B, ...): x (b, ...) of all processes, or of this one, as configured."""
        return gather(x) if self.config.negative_all_rank else x

    def negative_weights(
        self, features: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], image_ids: Tensor, floor: float
    ) -> tuple[Tensor, Tensor]:
        """The weights (b, B) by which a picture is chosen for each text, and a text for each picture.

        They are the probabilities by the similarity of `features` (b, F) to those of the others, and `floor` more; 0
        for pairs of the same picture.
        """
        other = tf.cast(image_ids[:, None] != self.candidates(image_ids), tf.float32)  # (b, B)
        (pictures, texts), (all_pictures, all_texts) = features, map(self.candidates, others)
        temperature = wide(tf.convert_to_tensor(raw(self.temp)))
        return (
            (tf.nn.softmax(tf.matmul(texts, all_pictures, transpose_b=True) / temperature) + floor) * other,
            (tf.nn.softmax(tf.matmul(pictures, all_texts, transpose_b=True) / temperature) + floor) * other,
        )

    def matching_loss(
        self, batch: PairBatch, embeds: Tensor, weights: tuple[Tensor, Tensor], training: bool = False
    ) -> tuple[Tensor, Tensor]:
        """ITM: tell matching pairs from hard negatives, a picture chosen for each text and a text for each picture.

        `embeds` (b, T, width) are the pictures', `weights` (b, B) those of `negative_weights`. Returns the loss and the
        logits (3 b, 2).
        """
        _, input_ids, mask, _, _, noise = batch
        count = sizes(embeds)[0]
        noise = tf.random.uniform((2, count)) if noise is None else tf.convert_to_tensor(noise)
        pictures = lookup(self.candidates(embeds), draw(weights[0], noise[0]))
        mask = tf.ones_like(input_ids) if mask is None else mask
        input_ids, mask = same_length(input_ids, mask, self.config.text_config.pad_token_id)
        chosen = draw(weights[1], noise[1])
        ids = tf.concat([input_ids, input_ids, tf.gather(self.candidates(input_ids), chosen)], axis=0)  # (3 b, L)
        mask = tf.concat([mask, mask, tf.gather(self.candidates(mask), chosen)], axis=0)
        states = tf.concat([embeds, pictures, embeds], axis=0)  # (3 b, T, width)
        text = self.text_encoder(self.grounded_ids(ids, mask), mask, encoder_hidden_states=states, training=training)
        logits = self.itm_head(first_states(text.last_hidden_state, mask))
        labels = tf.concat([tf.ones(count, tf.int32), tf.zeros(2 * count, tf.int32)], axis=0)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, wide(logits))), logits

    def check_training(self, batch: PairBatch) -> None:
        """Raise `ValueError` for batches that cannot be trained on."""
        pixel_values, input_ids, attention_mask, interpolate, image_ids, noise = batch
        check_momentum(self.has_momentum, type(self).__name__)
        pictures, texts = self.check_pictures(pixel_values, None, interpolate), input_ids.shape[0]
        check_pair_batch(pictures, texts, None if noise is None else noise.shape)
        self.check_grounded(pictures, self.text_encoder, input_ids, attention_mask)
        groups = 1 if self.config.negative_all_rank else processes()[1]
        check_negatives(None if texts is None else texts * processes()[1] // groups)
        parts = tf.reshape(gather(image_ids), (groups, -1))
        low, high = tf.reduce_min(parts, axis=1), tf.reduce_max(parts, axis=1)
        if tf.is_symbolic_tensor(low):
            tf.debugging.assert_less(low, high, message=NO_NEGATIVES)
        else:
            check_negatives(None, bool(tf.reduce_all(low < high)))


def pair_ids(image_ids: Tensor | None, input_ids: Tensor) -> Tensor:
    """The ids int64 (b,) of pairs as they are given, or one for each pair of all processes."""
    count = sizes(input_ids)[0]
    first = processes()[0] * count
    ids = tf.range(first, first + count) if image_ids is None else tf.convert_to_tensor(image_ids)
    check_image_ids(ids.shape, type_name(ids), input_ids.shape[0])
    return tf.cast(ids, tf.int64)


def draw(weights: Tensor, noise: Tensor) -> Tensor:
    """Choose a column of each row (b, B), each with a probability in proportion to its weight, by numbers (b,)."""
    sums = tf.cumsum(weights, axis=1)
    whole = sums[:, -1:]
    chosen = tf.reduce_sum(tf.cast(sums <= tf.cast(noise, sums.dtype)[:, None] * whole, tf.int32), axis=1)
    last = tf.reduce_sum(tf.cast(sums < whole, tf.int32), axis=1)
    return tf.minimum(chosen, last)  # a number just below 1 may have been rounded up
