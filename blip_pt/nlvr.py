"""NLVR2: is a sentence true of two pictures?

Shapes: B sentences, L tokens, T image tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from blip_core import BlipConfig, BlipForNLVROutput
from blip_core.calls import called_as_in_transformers
from blip_core.checks import check_classes, check_picture_pairs, given_texts
from blip_core.parameters.table import MERGE
from blip_pt.image_model import BlipImageModel
from blip_pt.nn import Linear, wide
from blip_pt.text import BlipTextModel, TextLayer
from blip_pt.text_attention import PairAttention
from blip_pt.text_padding import first_states
from blip_pt.vision import BlipVisionModel


class BlipPairTextModel(BlipTextModel):
    """A text encoder grounded in two pictures."""

    def make_layer(self, index: int, shared: BlipTextModel | None) -> TextLayer:
        return TextLayer(self.config, PairAttention(self.config, merge=index >= MERGE[0].start))


class BlipForNLVR(BlipImageModel):
    """Two pictures and a sentence -> false or true. Source: the original's `BLIP_NLVR`.

    A checkpoint of a model of one picture fills both branches of the cross-attention. The arguments that methods share
    are described in `BlipImageModel`.
    """

    def __init__(self, config: BlipConfig, *, initialize: bool = True):
        super().__init__(config)
        self.vision_model = BlipVisionModel(config.vision_config, initialize=False)
        self.text_encoder = BlipPairTextModel(config.text_config, add_pooling_layer=False, initialize=False)
        width = config.text_config.hidden_size
        self.cls_head = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, 2))
        if initialize:
            self.initialize()

    @called_as_in_transformers
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
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
        outputs: dict[str, Any] = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        texts = input_ids.shape[0]
        for given in (pixel_values, image_embeds):
            if given is not None:
                check_picture_pairs(given.shape, texts)
        self.text_encoder.check(input_ids, attention_mask, None, None)
        if labels is not None:
            check_classes(labels.shape, texts)
        pictures, embeds = (None if x is None else x.flatten(0, 1) for x in (pixel_values, image_embeds))
        vision = self.encode_image(pictures, embeds, interpolate_pos_encoding, **outputs)  # (2 B, T, width)
        states = vision.last_hidden_state.unflatten(0, (-1, 2))  # (B, 2, T, width)
        ids = self.grounded_ids(input_ids, attention_mask)
        text = self.text_encoder(ids, attention_mask, encoder_hidden_states=states.flatten(1, 2), **outputs)
        logits = self.cls_head(first_states(text.last_hidden_state, attention_mask))
        return BlipForNLVROutput(
            loss=None if labels is None else F.cross_entropy(wide(logits), labels),
            logits=logits,
            image_embeds=states,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
            text_hidden_states=text.hidden_states,
            text_attentions=text.attentions,
            cross_attentions=text.cross_attentions,
        )
