"""Captioning: pictures -> text.

Shapes: B texts (or pairs), L tokens, W text width, V vocabulary, T image tokens. `image_embeds` (B or 1, T, vision
width), the vision encoder's output, may stand in place of `pixel_values` (B or 1, 3, height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blip_core import (
    BlipConfig,
    BlipForConditionalGenerationOutput,
    BlipTextScoresOutput,
    GenerationConfig,
    GenerationOutput,
)
from blip_core.checks import check_pairs, given_texts
from blip_core.inference.attribution import chosen_layer, patch_grid
from blip_pt.base import evaluating
from blip_pt.decoding import search
from blip_pt.explaining import attention_maps
from blip_pt.image_model import BlipImageModel
from blip_pt.nn import wide
from blip_pt.scoring import score_texts
from blip_pt.text import BlipTextLMHeadModel
from blip_pt.vision import BlipVisionModel


class BlipForConditionalGeneration(BlipImageModel):
    """Captioning: a vision encoder and a text decoder that attends to it. Source: the original's `BLIP_Decoder`."""

    def __init__(self, config: BlipConfig, *, initialize: bool = True):
        super().__init__(config)
        self.vision_model = BlipVisionModel(config.vision_config, initialize=False)
        self.text_decoder = BlipTextLMHeadModel(config.text_config, initialize=False)
        if initialize:
            self.initialize()

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
    ) -> BlipForConditionalGenerationOutput:
        """Predict each next token of captions (B, L) that begin with `[DEC]`; without any, that of `[DEC]` alone.

        `labels` (B, L) are the captions with -100 on the prompt and the padding, as the processor makes them with
        `return_labels=True`; the loss is the mean over the remaining tokens.
        """
        outputs = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        vision = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding, **outputs)
        embeds = vision.last_hidden_state
        if input_ids is None:
            bos = self.config.text_config.bos_token_id
            input_ids = torch.full((len(embeds), 1), bos, dtype=torch.long, device=embeds.device)
        check_pairs(len(embeds), len(input_ids))
        text = self.text_decoder(input_ids, attention_mask, encoder_hidden_states=embeds, labels=labels, **outputs)
        return BlipForConditionalGenerationOutput(
            loss=text.loss,
            logits=text.logits,
            image_embeds=embeds,
            last_hidden_state=embeds,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
            decoder_hidden_states=text.hidden_states,
            decoder_attentions=text.attentions,
            cross_attentions=text.cross_attentions,
        )

    def generate(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        seed: int | Sequence[int] | None = None,
        stream: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Tensor | GenerationOutput:
        """Caption pictures, going on from tokenized prompts where given: `[CLS] a picture of [SEP]` and padding.

        Without them a caption begins with the prompt that the model was trained with, as far as its
        `generation_config` tells it (`prompt_ids`).

        `options` are fields of `GenerationConfig` (`num_beams=3`, `max_new_tokens=20`, `do_sample=True` ...) over
        those of `generation_config` or of the model's own. `seed` fixes the samples, `stream(item, token)` sees
        each new token at once. Each picture's caption is the same alone and in any batch.
        Returns int64 tokens (B, length), or a `GenerationOutput` with `return_dict_in_generate=True`.
        """
        with evaluating(self):
            embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding).last_hidden_state
            config = generation_config or self.generation_config
            return search(self.text_decoder, embeds, None, input_ids, attention_mask, config, options, seed, stream)

    def score_texts(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> BlipTextScoresOutput:
        """Say how likely each of many texts (texts, L) is as the caption of each of B pictures.

        Texts are as the processor makes them, `[CLS] ... [SEP]` and padding; the first token becomes `[DEC]`. Common
        beginnings are read once. Returns log-probabilities of each token and in sum, see `BlipTextScoresOutput`.
        Raises `ValueError` for a text without tokens.
        """
        input_ids = given_texts(input_ids)
        with evaluating(self):
            embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding).last_hidden_state
            return score_texts(self.text_decoder, embeds, None, input_ids, attention_mask)

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
        """Map where in its picture the model looks as it predicts each token of a caption (B, L).

        Captions are as the processor makes them or as `generate` returns them; the first token becomes `[DEC]`, which
        is not predicted, and has a map of 0 like padding. Grad-CAM is that of the caption's log-probability; the rest
        as `BlipForImageTextRetrieval.explain`.
        """
        input_ids, text = given_texts(input_ids), self.config.text_config
        layer = chosen_layer(layer, method, text)
        mask = input_ids.ne(text.pad_token_id).long() if attention_mask is None else attention_mask
        real = F.pad(mask[:, 1:], (0, 1))  # (B, L) 1 where the next token is predicted
        with evaluating(self):
            embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding).last_hidden_state
            size = None if pixel_values is None else pixel_values.shape
            patches = patch_grid(size, embeds.shape[1], grid, self.config.vision_config)

            def read(states: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
                ids = torch.cat([torch.full_like(input_ids[:, :1], text.bos_token_id), input_ids[:, 1:]], dim=1)
                texts = {"input_ids": ids, "attention_mask": mask, "output_attentions": True}
                output = self(image_embeds=states, **texts)
                log_probs = torch.log_softmax(wide(output.logits), dim=-1)  # (B, L, V)
                predicted = log_probs.gather(-1, ids.roll(-1, dims=1)[..., None])[..., 0]  # (B, L)
                return predicted.masked_fill(real.eq(0), 0).sum(dim=1), output.cross_attentions

            maps = attention_maps(read, embeds, real, layer, method, patches)
        return maps.roll(1, dims=1)
