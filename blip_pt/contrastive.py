"""`BlipModel`: contrastive features of pictures and texts, as Hugging Face defined them.

Shapes: B texts (or pairs), L tokens.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blip_core import BlipConfig, BlipOutput
from blip_core.calls import called_as_in_transformers, takes_tensors
from blip_core.checks import check_similarities, given_texts
from blip_pt.image_model import BlipImageModel
from blip_pt.nn import Linear, wide
from blip_pt.text import BlipTextModel
from blip_pt.vision import BlipVisionModel


class BlipModel(BlipImageModel):
    """Contrastive features of pictures and texts through poolers and projections, as Hugging Face defined them.

    Deprecated there and here: no published checkpoint trains its projections. `BlipForImageTextRetrieval` has the
    features that can be compared. The arguments that methods share are described in `BlipImageModel`.
    """

    def __init__(self, config: BlipConfig, *, initialize: bool = True):
        warnings.warn("BlipModel is deprecated; use BlipForImageTextRetrieval.", FutureWarning, stacklevel=2)
        super().__init__(config)
        self.projection_dim = config.projection_dim
        self.vision_model = BlipVisionModel(config.vision_config, initialize=False)
        self.text_model = BlipTextModel(config.text_config, initialize=False)
        self.visual_projection = Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))
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
        return self.visual_projection(self.vision_model(pixel_values, interpolate_pos_encoding).pooler_output)

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
    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool = False,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BlipOutput:
        """Compare all pictures with all texts.

        Args:
            position_ids: As of `get_text_features`.
            return_loss: Add the contrastive loss of matching pairs; needs as many pictures as texts.

        Returns:
            `logits_per_text` (texts, pictures), `logits_per_image`, `text_embeds` and `image_embeds`, and what both
            encoders returned.
        """
        outputs: dict[str, Any] = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        self.text_model.check(input_ids, attention_mask, None, None)
        if return_loss:
            check_similarities((input_ids.shape[0], pixel_values.shape[0]))
        vision = self.vision_model(pixel_values, interpolate_pos_encoding, **outputs)
        text = self.text_model(input_ids, attention_mask, position_ids, **outputs)
        image_embeds = F.normalize(self.visual_projection(vision.pooler_output), dim=-1)
        text_embeds = F.normalize(self.text_projection(text.pooler_output), dim=-1)
        logits_per_text = text_embeds @ image_embeds.T * self.logit_scale.exp()  # (texts, pictures)
        return BlipOutput(
            loss=contrastive_loss(logits_per_text) if return_loss else None,
            logits_per_image=logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=vision,
        )


def contrastive_loss(logits_per_text: Tensor) -> Tensor:
    """Cross-entropy of (B, B) similarities whose diagonal holds the matching pairs, averaged over both directions."""
    logits = wide(logits_per_text)
    target = torch.arange(logits.shape[0], device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
