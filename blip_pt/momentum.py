"""What contrastive training has besides a model: momentum encoders, queues of their features, a temperature.

Shapes: b pairs of this process, B of all processes, Q features in a queue, F their width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip_core import BlipConfig
from blip_core.checks import check_image_ids, check_momentum, check_negatives, check_pair_batch
from blip_core.parameters.initial_values import initial_value
from blip_core.parameters.models import Parameter, training_state
from blip_pt.base import model_name, to_torch, type_name
from blip_pt.distributed import gather, processes, same_length
from blip_pt.image_model import BlipImageModel
from blip_pt.nn import Linear, wide
from blip_pt.text import BlipTextModel
from blip_pt.vision import BlipVisionModel

PAIRS = (
    ("vision_model", "vision_model_m"),
    ("text_encoder", "text_encoder_m"),
    ("vision_proj", "vision_proj_m"),
    ("text_proj", "text_proj_m"),
)
"""The parts of a model and their momentum copies."""


class BlipMomentumModel(BlipImageModel):
    """A model with comparable features of pictures and texts, and what their training needs.

    The momentum encoders follow the model's weights slowly and are not trained; the queues hold their features of the
    last `config.queue_size` pictures and texts. Both are the model's own, saved and loaded with it.
    Source: the original's `BLIP_Retrieval` and `BLIP_Pretrain`; BLIP section 3.2.
    """

    text_encoder: BlipTextModel
    vision_proj: Linear
    text_proj: Linear
    itm_head: Linear
    image_queue: Tensor
    text_queue: Tensor
    idx_queue: Tensor
    pointer_name: str

    def __init__(self, config: BlipConfig):
        super().__init__(config)
        self.has_momentum = False

    def make_momentum(self) -> None:
        """Make room for the training state, without values."""
        config = self.config
        self.vision_model_m = BlipVisionModel(config.vision_config, initialize=False)
        self.text_encoder_m = BlipTextModel(config.text_config, add_pooling_layer=False, initialize=False)
        self.vision_proj_m = Linear(config.vision_config.hidden_size, config.image_text_hidden_size)
        self.text_proj_m = Linear(config.text_config.hidden_size, config.image_text_hidden_size)
        for _, copy in PAIRS:
            self.get_submodule(copy).requires_grad_(False)
        self.temp = nn.Parameter(torch.empty(()))
        for parameter in training_state(model_name(type(self)), config):
            if "queue" in parameter.name:
                kind = torch.float32 if parameter.row.init == "unit_columns" else torch.int64
                self.register_buffer(parameter.name, torch.empty(parameter.shape, dtype=kind))
        self.has_momentum = True
        self.to(self.vision_proj.weight.device)

    @torch.no_grad()
    def start_momentum(self) -> None:
        """Begin contrastive training: copy the encoders, empty the queues. To be called before the optimizer is made.

        The queues begin with random features, drawn after torch's global seed, as in the original.
        """
        self.make_momentum()
        for own, copy in self.momentum_pairs():
            copy.copy_(own)
        noise = np.random.default_rng(int(torch.randint(2**62, ())))
        for parameter in training_state(model_name(type(self)), self.config):
            if "_m." not in parameter.name:
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
            for own, copy in PAIRS
            for weights in zip(self.get_submodule(own).parameters(), self.get_submodule(copy).parameters(), strict=True)
        ]

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> Tensor:
        """Pictures -> L2-normalised features (B, image_text_hidden_size), the ones to store and compare."""
        embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding).last_hidden_state
        return F.normalize(self.vision_proj(embeds[:, 0]), dim=-1)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Texts (B, L) -> L2-normalised features (B, image_text_hidden_size), to compare with those of pictures."""
        return F.normalize(self.text_proj(self.text_encoder(input_ids, attention_mask).last_hidden_state[:, 0]), dim=-1)

    def features(self, embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Image embeddings (b, T, width) and texts (b, L) -> features (b, F) of both, in float32 at least."""
        pictures = self.get_image_features(image_embeds=embeds)
        return wide(pictures), wide(self.get_text_features(input_ids, attention_mask))

    @torch.no_grad()
    def prepare_step(self) -> None:
        """What a training step begins with: keep the temperature in bounds, let the momentum encoders follow."""
        self.temp.clamp_(0.001, 0.5)
        for own, copy in self.momentum_pairs():
            copy.mul_(self.config.momentum).add_(own, alpha=1 - self.config.momentum)

    @torch.no_grad()
    def momentum_features(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None, interpolate_pos_encoding: bool
    ) -> tuple[Tensor, Tensor]:
        """Pairs -> features (b, F) of pictures and of texts by the momentum encoders."""
        pictures = self.vision_model_m(pixel_values, interpolate_pos_encoding).last_hidden_state[:, 0]
        texts = self.text_encoder_m(input_ids, attention_mask).last_hidden_state[:, 0]
        return (
            F.normalize(wide(self.vision_proj_m(pictures)), dim=-1),
            F.normalize(wide(self.text_proj_m(texts)), dim=-1),
        )

    @torch.no_grad()
    def enqueue(self, pictures: Tensor, texts: Tensor, image_ids: Tensor | None = None) -> None:
        """Let the newest features (B, F) take the places of the oldest; more than Q leave the last Q."""
        size, count = self.image_queue.shape[1], len(pictures)
        pointer = self.get_buffer(self.pointer_name)
        columns = (pointer + torch.arange(count, device=pictures.device)) % size  # (B,)
        last = slice(max(count - size, 0), None)
        self.image_queue[:, columns[last]] = pictures[last].T.to(self.image_queue.dtype)
        self.text_queue[:, columns[last]] = texts[last].T.to(self.text_queue.dtype)
        if image_ids is not None:
            self.idx_queue[0, columns[last]] = image_ids[last]
        pointer.copy_((pointer + count) % size)

    def queued_ids(self) -> Tensor:
        """The ids (Q,) of the pairs in the queues."""
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

    def candidates(self, x: Tensor) -> Tensor:
        """What negatives are drawn from (B, ...): x (b, ...) of all processes, or of this one alone, as configured."""
        return gather(x) if self.config.negative_all_rank else x

    def matching_loss(
        self,
        embeds: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        weights: tuple[Tensor, Tensor],
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """ITM: tell matching pairs from hard negatives, a picture drawn for each text and a text for each picture.

        `weights` (b, B) are those by which a picture is drawn for each text and a text for each picture; `noise`
        (2, b) the random numbers to do it by. Returns the loss and the logits (3 b, 2).
        """
        noise = torch.rand(2, len(embeds), device=embeds.device) if noise is None else noise.to(embeds.device)
        pictures = self.candidates(embeds)[draw(weights[0], noise[0])]
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        input_ids, mask = same_length(input_ids, mask, self.config.text_config.pad_token_id)
        chosen = draw(weights[1], noise[1])
        ids = torch.cat([input_ids, input_ids, self.candidates(input_ids)[chosen]])  # (3 b, L)
        mask = torch.cat([mask, mask, self.candidates(mask)[chosen]])
        states = torch.cat([embeds, pictures, embeds])  # (3 b, T, width)
        text = self.text_encoder(self.grounded_ids(ids), mask, encoder_hidden_states=states)
        logits = self.itm_head(text.last_hidden_state[:, 0])
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        labels[: len(embeds)] = 1
        return F.cross_entropy(wide(logits), labels), logits

    def check_training(self, pixel_values: Tensor, input_ids: Tensor, image_ids: Tensor, noise: Tensor | None) -> None:
        """Raise `ValueError` for batches that cannot be trained on."""
        check_momentum(self.has_momentum, type(self).__name__)
        check_pair_batch(len(pixel_values), len(input_ids), None if noise is None else noise.shape)
        groups = 1 if self.config.negative_all_rank else processes()[1]
        check_negatives(len(input_ids) * processes()[1] // groups)
        low, high = gather(image_ids).view(groups, -1).aminmax(dim=1)
        check_negatives(None, bool((low < high).all()))  # of all processes, so that none waits for one that gave up


def pair_ids(image_ids: Tensor | None, input_ids: Tensor) -> Tensor:
    """The ids int64 (b,) of pairs as they are given, or one for each pair of all processes."""
    first, count = processes()[0] * len(input_ids), len(input_ids)
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
