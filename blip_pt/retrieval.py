"""Matching pictures with texts, and the features to do so at scale.

Shapes: b pairs of this process, B texts (or pairs), L tokens, W text width, T image tokens, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blip_core import BlipConfig, BlipFeaturesOutput, BlipForImageTextRetrievalOutput
from blip_core.calls import called_as_in_transformers, takes_tensors
from blip_core.checks import (
    check_captions,
    check_label_features,
    check_match_labels,
    check_mode,
    check_only_losses,
    check_pair_batch,
    check_templates,
    chosen_layer,
    given_labels,
    given_pictures,
    given_texts,
    patch_grid,
)
from blip_core.parameters.initial_values import TEMPERATURE
from blip_pt.base import evaluated
from blip_pt.explaining import attention_maps
from blip_pt.momentum import BlipMomentumModel, PairBatch, pair_ids
from blip_pt.nn import wide
from blip_pt.text_padding import first_states


class BlipForImageTextRetrieval(BlipMomentumModel):
    """Matching pictures with texts: by a classifier on image-grounded text (ITM) or by cosine similarity (ITC).

    It is trained by both (see `docs/objectives.md`), with `start_momentum()` or `momentum=True` before the first step.
    Source: the original's `BLIP_ITM` and `BLIP_Retrieval`.

    The arguments that methods share are described in `BlipImageModel`.
    """

    pointer_name = "ptr_queue"
    queues_ids = True

    def __init__(self, config: BlipConfig, *, momentum: bool = False, initialize: bool = True):
        super().__init__(config)
        if momentum:
            self.make_momentum()
        if initialize:
            self.initialize()

    @called_as_in_transformers
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        use_itm_head: bool = True,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        image_ids: Tensor | None = None,
        alpha: float | Tensor = 0.4,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        caption_ids: Tensor | None = None,
        caption_attention_mask: Tensor | None = None,
    ) -> BlipForImageTextRetrievalOutput:
        """Score pairs of pictures and texts, or one picture with many texts; with `image_ids`, train on pairs.

        In training mode each such call is a step of the momentum encoders and the queues.

        Args:
            use_itm_head: Score by the matching head (ITM), or by cosine similarity (ITC).
            image_ids: Whole numbers (B,) but -100, the same for pairs with the same picture: train.
            alpha: The share, 0 to 1, of the momentum encoders' similarities in the targets.
            noise: Random numbers (2, B) in [0, 1) that choose the hard negatives, see `negative_noise`.
            labels: (B,), 1 for pairs that match and 0 for others: train the matching head on these alone.
            caption_ids, caption_attention_mask: Captions (pictures, length) of the pictures, and their mask: the
                matching head reads texts grounded in both, as in visual dialogue (see `with_caption`).

        Returns:
            `itm_score`: logits (B, 2), index 1 for "they match", or similarities (pictures, texts); in training `loss`
            = `loss_itc` + `loss_itm`, with labels `loss`, the mean cross-entropy of the logits.

        Raises:
            ValueError: If labels are not classes of the texts, if a batch has no negatives, or the model no training
                state (see `start_momentum`).
        """
        input_ids = given_texts(input_ids)
        check_match_labels(labels, use_itm_head, image_ids is not None, input_ids.shape[0])
        check_captions(caption_ids, use_itm_head, image_ids is not None, self.config)
        if image_ids is not None:
            check_only_losses(image_embeds, use_itm_head, output_hidden_states, output_attentions)
            pixel_values, image_ids = given_pictures(pixel_values), pair_ids(image_ids, input_ids)
            batch = PairBatch(pixel_values, input_ids, attention_mask, interpolate_pos_encoding, image_ids, noise)
            return self.fine_tune(batch, alpha)
        outputs: dict[str, Any] = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        texts: tuple[Any, ...] = (self.text_encoder, input_ids, attention_mask)
        if not use_itm_head:  # every picture is compared with every text
            self.text_encoder.check(input_ids, attention_mask, None, None)
            texts = ()
        vision = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding, *texts, **outputs)
        embeds = vision.last_hidden_state
        if use_itm_head:
            ids, states, states_mask = self.grounded_ids(input_ids, attention_mask), embeds, None
            if caption_ids is not None:
                states, states_mask = self.with_caption(embeds, caption_ids, caption_attention_mask)
            text = self.text_encoder(
                ids, attention_mask, encoder_hidden_states=states, encoder_attention_mask=states_mask, **outputs
            )
            score = self.itm_head(first_states(text.last_hidden_state, attention_mask))  # (B, 2)
        else:
            text = self.text_encoder(input_ids, attention_mask, **outputs)
            text_features = F.normalize(self.text_proj(first_states(text.last_hidden_state, attention_mask)), dim=-1)
            score = F.normalize(self.vision_proj(embeds[:, 0]), dim=-1) @ text_features.T  # (pictures, texts)
        loss = None if labels is None else F.cross_entropy(wide(score), labels)
        return BlipForImageTextRetrievalOutput(
            itm_score=score,
            loss=loss,
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

    def with_caption(
        self, embeds: Tensor, caption_ids: Tensor, caption_attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Put the states of captions, encoded by themselves, behind those of their pictures.

        Source: BLIP section 5.5, visual dialogue.

        Args:
            embeds: The pictures' (P, T, width).
            caption_ids: Captions (P, C).
            caption_attention_mask: (P, C), 1 for tokens and 0 for padding; all count unless given.

        Returns:
            States (P, T + C, width) for cross-attention, and their mask (P, T + C).

        Raises:
            ValueError: If there is not one caption of each picture.
        """
        check_pair_batch(embeds.shape[0], caption_ids.shape[0], None)
        caption = self.text_encoder(caption_ids, caption_attention_mask).last_hidden_state
        mask = torch.ones_like(caption_ids) if caption_attention_mask is None else caption_attention_mask
        whole = mask.new_ones(embeds.shape[:2])
        return torch.cat([embeds, caption.to(embeds)], dim=1), torch.cat([whole, mask], dim=1)

    @evaluated
    def explain(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        layer: int | None = None,
        method: str = "gradcam",
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
        grid: Sequence[int] | None = None,
    ) -> Tensor:
        """Map where in its picture each token of a text finds evidence for a match.

        Source: LAVIS's `compute_gradcam`.

        Args:
            layer: The text encoder's layer, from 0, whose cross-attention is mapped; 7 of 12 unless given. In the last
                one Grad-CAM has a map of the first token alone, as the score reads no other.
            method: "gradcam", attention weighted by the gradient of the match logit, or "attention" alone.
            grid: (rows, columns) of patches, for image_embeds of pictures that are not square.

        Returns:
            Maps float32 (B, L, rows, columns) of at least 0, one value for each patch; those of padding are 0.

        Raises:
            ValueError: If there is no such layer, method or grid.
        """
        input_ids = given_texts(input_ids)
        layer = chosen_layer(layer, method, self.config.text_config)
        patches = patch_grid(pixel_values, image_embeds, grid, self.config.vision_config)
        texts = (self.text_encoder, input_ids, attention_mask)
        embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding, *texts).last_hidden_state

        def read(states: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            ids = input_ids.clone()  # which autograd may keep, even where inference_mode made them
            texts = {"input_ids": ids, "attention_mask": attention_mask, "output_attentions": True}
            output = self(image_embeds=states, **texts)
            return output.itm_score[:, 1], output.cross_attentions

        return attention_maps(read, embeds, attention_mask, layer, method, patches)

    @takes_tensors
    def get_multimodal_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> Tensor:
        """Encode texts grounded in pictures.

        Returns:
            Features (B, W), not normalised: what the matching head reads.
        """
        given = (pixel_values, input_ids, attention_mask, "multimodal", interpolate_pos_encoding, image_embeds)
        return first_states(self.extract_features(*given).multimodal_embeds, attention_mask)

    @takes_tensors
    def extract_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mode: str = "multimodal",
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> BlipFeaturesOutput:
        """Give the features of every token, as `extract_features` of LAVIS.

        Args:
            input_ids: Texts (B, L); grounded ones begin with `config.enc_token_id`, where that is set.
            mode: "image", "text" or "multimodal", texts grounded in pictures; what it does not need may be left out.

        Returns:
            For "image" `image_embeds` and `image_embeds_proj`, for "text" `text_embeds` and `text_embeds_proj`, for
            "multimodal" `multimodal_embeds`.
        """
        check_mode(mode)
        if mode == "text":
            states = self.text_encoder(given_texts(input_ids), attention_mask).last_hidden_state  # (B, L, W)
            return BlipFeaturesOutput(text_embeds=states, text_embeds_proj=F.normalize(self.text_proj(states), dim=-1))
        if mode == "image":
            embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding).last_hidden_state
            projected = F.normalize(self.vision_proj(embeds), dim=-1)  # (B, T, F)
            return BlipFeaturesOutput(image_embeds=embeds, image_embeds_proj=projected)
        input_ids = given_texts(input_ids)
        texts = (self.text_encoder, input_ids, attention_mask)
        embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding, *texts).last_hidden_state
        text = self.text_encoder(
            self.grounded_ids(input_ids, attention_mask), attention_mask, encoder_hidden_states=embeds
        )
        return BlipFeaturesOutput(multimodal_embeds=text.last_hidden_state)

    @takes_tensors
    def get_label_features(self, input_ids: Tensor, attention_mask: Tensor | None = None, templates: int = 1) -> Tensor:
        """Give the features of labels for `classify`. Source: CLIP section 3.1.4.

        Args:
            input_ids: Texts (labels x templates, L), those of a label next to each other, as `blip_core.label_texts`
                makes them.
            attention_mask: The same shape, 1 for tokens and 0 for padding.
            templates: How many texts each label has; its feature is their mean.

        Returns:
            L2-normalised features (labels, image_text_hidden_size).
        """
        check_templates(input_ids.shape[0], templates)
        features = self.get_text_features(input_ids, attention_mask)
        return F.normalize(features.view(-1, templates, features.shape[1]).mean(dim=1), dim=-1)

    @takes_tensors
    def classify(
        self,
        pixel_values: Tensor | None = None,
        label_features: Tensor | None = None,
        temperature: float | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> Tensor:
        """Say how likely each label is for each picture.

        Args:
            label_features: Features (labels, image_text_hidden_size) of `get_label_features`.
            temperature: What similarities are divided by before the softmax: the learned one, where the model has its
                training state, and 0.07 otherwise, unless given.

        Returns:
            Probabilities (B, labels).
        """
        label_features = given_labels(label_features)
        check_label_features(label_features.shape, self.config.image_text_hidden_size, temperature)
        features = wide(self.get_image_features(pixel_values, interpolate_pos_encoding, image_embeds))
        similarities = features @ label_features.to(features).T  # (B, labels)
        learned = self.temp.detach() if self.has_momentum else TEMPERATURE
        return torch.softmax(similarities / (learned if temperature is None else temperature), dim=-1)

    def fine_tune(self, batch: PairBatch, alpha: float | Tensor) -> BlipForImageTextRetrievalOutput:
        """Compute the losses ITC and ITM of pairs; those with the same picture are no negatives of each other.

        Args:
            batch: The pairs.
            alpha: As of the call.

        Returns:
            `loss`, `loss_itc`, `loss_itm`, `itm_score` (3 b, 2) and `image_embeds`.

        Raises:
            ValueError: If a batch has no negatives, or the model no training state.
        """
        self.check_training(batch)
        embeds, features, _, loss_itc = self.contrast(batch, alpha)
        weights = self.negative_weights(features, features, batch.image_ids, TINY)
        loss_itm, logits = self.matching_loss(batch, embeds, weights)
        return BlipForImageTextRetrievalOutput(
            itm_score=logits, loss=loss_itc + loss_itm, loss_itc=loss_itc, loss_itm=loss_itm, image_embeds=embeds
        )


TINY = 1e-30  # allows some negative even where all similarities round to 0
