"""Contrastive training: momentum encoders, queues of their features, a learned temperature, and the losses.

Shapes: b pairs of this process, B of all processes, L tokens, T image tokens, Q features in a queue, F their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip_core import BlipConfig
from blip_core.calls import takes_tensors
from blip_core.checks import check_image_ids, check_momentum, check_negatives, check_pair_batch
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.models import Parameter, training_state
from blip_pt.base import model_name, to_torch, type_name
from blip_pt.distributed import gather, processes, same_length
from blip_pt.image_model import BlipImageModel
from blip_pt.nn import Linear, is_tracing, wide
from blip_pt.text import BlipTextModel
from blip_pt.text_padding import first_states
from blip_pt.vision import BlipVisionModel

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


class BlipFollowedModel(BlipImageModel):
    """A model whose training keeps copies of its parts, which follow the weights slowly and are not trained.

    `pairs` are the parts and their copies. A subclass makes them in `make_momentum`.
    """

    pairs: ClassVar[Sequence[tuple[str, str]]] = PAIRS

    def __init__(self, config: BlipConfig):
        super().__init__(config)
        self.has_momentum = False

    def make_momentum(self) -> None:
        """Make the training state, without values."""
        for own, copy in self.pairs:
            self.get_submodule(copy).requires_grad_(False).train(self.get_submodule(own).training)
        self.has_momentum = True
        self.to(next(self.vision_model.parameters()).device)

    @torch.no_grad()
    def start_momentum(self) -> None:
        """Begin training: copy the encoders, fill the queues, where there are any, with random features.

        Call it before the optimizer is made. The features follow the framework's global seed. Called again, it starts
        over with the same parameters.
        """
        if not self.has_momentum:
            self.make_momentum()
        for own, copy in self.momentum_pairs():
            copy.copy_(own)
        noise = np.random.default_rng(int(torch.randint(2**62, ())))
        for parameter in training_state(model_name(type(self)), self.config):
            if parameter.followed == parameter.name:
                self.get_tensor(parameter.name).copy_(to_torch(initial_value(parameter, self.config, noise)))

    def initialize(self) -> None:
        has_momentum, self.has_momentum = self.has_momentum, False
        super().initialize()
        self.has_momentum = has_momentum
        if has_momentum:
            self.start_momentum()

    def table(self) -> list[Parameter]:
        state = training_state(model_name(type(self)), self.config) if self.has_momentum else []
        return super().table() + state

    def momentum_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """The weights and their momentum copies."""
        return [
            weights
            for own, copy in self.pairs
            for weights in zip(self.get_submodule(own).parameters(), self.get_submodule(copy).parameters(), strict=True)
        ]

    @torch.no_grad()
    def prepare_step(self) -> None:
        """Begin a training step: let the momentum encoders follow."""
        for own, copy in self.momentum_pairs():
            copy.mul_(self.config.momentum).add_(own, alpha=1 - self.config.momentum)


class BlipMomentumModel(BlipFollowedModel):
    """A model with comparable features of pictures and texts, and what their training needs.

    The momentum encoders follow the model's weights slowly and are not trained; the queues hold their features of the
    last `config.queue_size` pictures and texts, in retrieval with the pictures' ids. Both are saved and loaded with the
    model. Source: the original's `BLIP_Retrieval` and `BLIP_Pretrain`; BLIP section 3.2.
    """

    image_queue: Tensor
    text_queue: Tensor
    idx_queue: Tensor
    pointer_name: str
    queues_ids: bool

    def __init__(self, config: BlipConfig):
        super().__init__(config)
        self.vision_model = BlipVisionModel(config.vision_config, initialize=False)
        self.text_encoder = BlipTextModel(config.text_config, add_pooling_layer=False, initialize=False)
        self.vision_proj = Linear(config.vision_config.hidden_size, config.image_text_hidden_size)
        self.text_proj = Linear(config.text_config.hidden_size, config.image_text_hidden_size)
        self.itm_head = Linear(config.text_config.hidden_size, 2)

    def make_momentum(self) -> None:
        """Make the training state, without values."""
        config = self.config
        self.vision_model_m = BlipVisionModel(config.vision_config, initialize=False)
        self.text_encoder_m = BlipTextModel(config.text_config, add_pooling_layer=False, initialize=False)
        self.vision_proj_m = Linear(config.vision_config.hidden_size, config.image_text_hidden_size)
        self.text_proj_m = Linear(config.text_config.hidden_size, config.image_text_hidden_size)
        self.temp = nn.Parameter(torch.empty(()))
        for parameter in training_state(model_name(type(self)), config):
            if "queue" in parameter.name:
                kind = torch.float32 if parameter.row.init == "unit_columns" else torch.int64
                self.register_buffer(parameter.name, torch.empty(parameter.shape, dtype=kind))
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
        return F.normalize(self.vision_proj(embeds[:, 0]), dim=-1)

    @takes_tensors
    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode texts as features to compare with those of pictures.

        Returns:
            L2-normalised features (B, image_text_hidden_size).
        """
        states = self.text_encoder(input_ids, attention_mask).last_hidden_state
        return F.normalize(self.text_proj(first_states(states, attention_mask)), dim=-1)

    def features(self, embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Image embeddings (b, T, width) and texts (b, L) -> features (b, F) of both, in float32 at least."""
        pictures = self.get_image_features(image_embeds=embeds)
        return wide(pictures), wide(self.get_text_features(input_ids, attention_mask))

    @torch.no_grad()
    def prepare_step(self) -> None:
        """Begin a training step: keep the temperature within bounds, let the momentum encoders follow."""
        self.temp.clamp_(0.001, 0.5)
        super().prepare_step()

    @torch.no_grad()
    def momentum_features(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None, interpolate_pos_encoding: bool
    ) -> tuple[Tensor, Tensor]:
        """Pairs -> features (b, F) of pictures and of texts by the momentum encoders."""
        pictures = self.vision_model_m(pixel_values, interpolate_pos_encoding).last_hidden_state[:, 0]
        texts = first_states(self.text_encoder_m(input_ids, attention_mask).last_hidden_state, attention_mask)
        return (
            F.normalize(wide(self.vision_proj_m(pictures)), dim=-1),
            F.normalize(wide(self.text_proj_m(texts)), dim=-1),
        )

    @torch.no_grad()
    def enqueue(self, pictures: Tensor, texts: Tensor, image_ids: Tensor) -> None:
        """Let the newest features (B, F) take the places of the oldest; of more than Q the last Q stay."""
        size, count = self.image_queue.shape[1], pictures.shape[0]
        pointer = self.get_buffer(self.pointer_name)
        columns = (pointer + torch.arange(count, device=pictures.device)) % size  # (B,)
        last = slice(max(count - size, 0), None)
        self.image_queue[:, columns[last]] = pictures[last].T.to(self.image_queue.dtype)
        self.text_queue[:, columns[last]] = texts[last].T.to(self.text_queue.dtype)
        if self.queues_ids:
            self.idx_queue[0, columns[last]] = image_ids[last]
        pointer.copy_((pointer + count) % size)

    def queued_ids(self) -> Tensor:
        """Return the ids (Q,) of the pairs in the queues."""
        return self.idx_queue[0]

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
        with torch.no_grad():
            all_pictures = torch.cat([gather(pictures_m).T, wide(self.image_queue)], dim=1)  # (F, B + Q)
            all_texts = torch.cat([gather(texts_m).T, wide(self.text_queue)], dim=1)
            everything = torch.cat([gather(image_ids), self.queued_ids()])  # (B + Q,)
            right = (image_ids[:, None] == everything).to(all_texts)  # (b, B + Q)
            right = right / right.sum(dim=1, keepdim=True)
        temperature, losses = wide(self.temp), []
        for own, own_m, others in ((pictures, pictures_m, all_texts), (texts, texts_m, all_pictures)):
            with torch.no_grad():
                soft = torch.softmax(own_m @ others / temperature, dim=1)
                targets = alpha * soft + (1 - alpha) * right
            losses.append(-(torch.log_softmax(own @ others / temperature, dim=1) * targets).sum(dim=1).mean())
        return (losses[0] + losses[1]) / 2

    def contrast(
        self, batch: PairBatch, alpha: float | Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
        """The first half of a training step: encode pairs, compute ITC, in training let momentum and queues follow.

        Returns image embeddings (b, T, width), features (b, F) of pictures and of texts, the same by the momentum
        encoders, and the loss.
        """
        pixel_values, input_ids, attention_mask, interpolate, image_ids, _ = batch
        if self.training:
            self.prepare_step()
        embeds = self.encode_image(pixel_values, None, interpolate).last_hidden_state
        features = self.features(embeds, input_ids, attention_mask)
        momentum = self.momentum_features(pixel_values, input_ids, attention_mask, interpolate)
        loss = self.contrastive_loss(features, momentum, image_ids, alpha)
        if self.training:
            self.enqueue(gather(momentum[0]), gather(momentum[1]), gather(image_ids))
        return embeds, features, momentum, loss

    def candidates(self, x: Tensor) -> Tensor:
        """What negatives are chosen from (B, ...): x (b, ...) of all processes, or of this one, as configured."""
        return gather(x) if self.config.negative_all_rank else x

    @torch.no_grad()
    def negative_weights(
        self, features: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], image_ids: Tensor, floor: float
    ) -> tuple[Tensor, Tensor]:
        """The weights (b, B) by which a picture is chosen for each text, and a text for each picture.

        They are the probabilities by the similarity of `features` (b, F) to those of the others, and `floor` more; 0
        for pairs of the same picture.
        """
        other = image_ids[:, None] != self.candidates(image_ids)  # (b, B)
        (pictures, texts), (all_pictures, all_texts) = features, map(self.candidates, others)
        return (
            (torch.softmax(texts @ all_pictures.T / wide(self.temp), dim=1) + floor) * other,
            (torch.softmax(pictures @ all_texts.T / wide(self.temp), dim=1) + floor) * other,
        )

    def matching_loss(self, batch: PairBatch, embeds: Tensor, weights: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """ITM: tell matching pairs from hard negatives, a picture chosen for each text and a text for each picture.

        `embeds` (b, T, width) are the pictures', `weights` (b, B) those of `negative_weights`. Returns the loss and the
        logits (3 b, 2).
        """
        _, input_ids, mask, _, _, noise = batch
        noise = torch.rand(2, embeds.shape[0], device=embeds.device) if noise is None else noise.to(embeds.device)
        pictures = self.candidates(embeds)[draw(weights[0], noise[0])]
        mask = torch.ones_like(input_ids) if mask is None else mask
        input_ids, mask = same_length(input_ids, mask, self.config.text_config.pad_token_id)
        chosen = draw(weights[1], noise[1])
        ids = torch.cat([input_ids, input_ids, self.candidates(input_ids)[chosen]])  # (3 b, L)
        mask = torch.cat([mask, mask, self.candidates(mask)[chosen]])
        states = torch.cat([embeds, pictures, embeds])  # (3 b, T, width)
        text = self.text_encoder(self.grounded_ids(ids, mask), mask, encoder_hidden_states=states)
        logits = self.itm_head(first_states(text.last_hidden_state, mask))
        labels = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
        labels[: embeds.shape[0]] = 1
        return F.cross_entropy(wide(logits), labels), logits

    def check_training(self, batch: PairBatch) -> None:
        """Raise `ValueError` for batches that cannot be trained on."""
        pixel_values, input_ids, attention_mask, interpolate, image_ids, noise = batch
        check_momentum(self.has_momentum, type(self).__name__)
        pictures = self.check_pictures(pixel_values, None, interpolate)
        check_pair_batch(pictures, input_ids.shape[0], None if noise is None else noise.shape)
        self.check_grounded(pictures, self.text_encoder, input_ids, attention_mask)
        groups = 1 if self.config.negative_all_rank else processes()[1]
        check_negatives(input_ids.shape[0] * processes()[1] // groups)
        if not is_tracing():
            low, high = gather(image_ids).view(groups, -1).aminmax(dim=1)
            check_negatives(None, bool((low < high).all()))  # of all processes, so that none waits for one that gave up


def pair_ids(image_ids: Tensor | None, input_ids: Tensor) -> Tensor:
    """The ids int64 (b,) of pairs as they are given, or one for each pair of all processes."""
    count = input_ids.shape[0]
    first = processes()[0] * count
    ids = torch.as_tensor(
        torch.arange(first, first + count) if image_ids is None else image_ids, device=input_ids.device
    )
    check_image_ids(ids.shape, type_name(ids), count)
    return ids.long()


def draw(weights: Tensor, noise: Tensor) -> Tensor:
    """Choose a column of each row (b, B), each with a probability in proportion to its weight, by numbers (b,)."""
    sums = weights.cumsum(dim=1)
    whole = sums[:, -1:]
    chosen = (sums <= noise[:, None] * whole).sum(dim=1)
    return torch.minimum(chosen, (sums < whole).sum(dim=1))  # a number just below 1 may have been rounded up
