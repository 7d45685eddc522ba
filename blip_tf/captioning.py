"""Captioning: pictures -> text.

Shapes: B captions, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import (
    BlipConfig,
    BlipForConditionalGenerationOutput,
    BlipTextScoresOutput,
    GenerationConfig,
    GenerationOutput,
)
from blip_core.calls import called_as_in_transformers, takes_tensors
from blip_core.checks import check_labels, chosen_layer, given_texts, patch_grid, warn_of_beginning
from blip_core.generation.prompts import prepare_prompts
from blip_tf.decoding import search
from blip_tf.explaining import attention_maps
from blip_tf.image_model import TFBlipImageModel
from blip_tf.language_model import TFBlipTextLMHeadModel
from blip_tf.nn import sizes, to_array, wide
from blip_tf.scoring import score_texts, token_lists
from blip_tf.text_padding import begin_with
from blip_tf.vision import TFBlipVisionModel


@keras.saving.register_keras_serializable("blip")
class TFBlipForConditionalGeneration(TFBlipImageModel):
    """Captioning: a vision encoder and a text decoder that attends to it. Source: the original's `BLIP_Decoder`.

    The arguments that methods share are described in `TFBlipImageModel`.
    """

    main_input_name = "pixel_values"

    def __init__(self, config: BlipConfig, *, initialize: bool = True):
        super().__init__(config)
        self.vision_model = TFBlipVisionModel(config.vision_config, initialize=False)
        self.text_decoder = TFBlipTextLMHeadModel(config.text_config, initialize=False)
        if initialize:
            self.initialize()

    def check_beginning(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """Warn of texts to train on that do not begin with `[DEC]`; not in a graph, which knows no values."""
        bos = self.config.text_config.bos_token_id
        if tf.executing_eagerly() and bool(tf.reduce_any(begin_with(bos, input_ids, attention_mask) != input_ids)):
            warn_of_beginning(bos)

    @called_as_in_transformers
    def call(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool = False,
    ) -> BlipForConditionalGenerationOutput:
        """Predict each next token of captions; without any, the one after `[DEC]` (`bos_token_id`).

        Captions should begin with `[DEC]`, as the processor makes them with `return_labels=True`, and as `generate`,
        `score_texts` and `explain` read them. Their first token is left as given, as in transformers; with `labels`, a
        warning says if it is another.

        Args:
            input_ids: Captions (B, L).
            labels: The captions (B, L) with -100 on the prompt and the padding.

        Returns:
            `logits` (B, L, V) and, with labels, `loss`, the mean over the remaining tokens.
        """
        outputs: dict[str, Any] = {
            "output_hidden_states": output_hidden_states, "output_attentions": output_attentions, "training": training,
        }  # fmt: skip
        if input_ids is None:
            self.check_pictures(pixel_values, image_embeds, interpolate_pos_encoding)
            pictures = sizes(image_embeds if pixel_values is None else pixel_values)[0]
            bos = self.config.text_config.bos_token_id
            input_ids = tf.fill((pictures, 1), tf.constant(bos, tf.int64))
        if labels is not None:
            check_labels(labels.shape, input_ids.shape[:2])
            self.check_beginning(input_ids, attention_mask)
        texts = (self.text_decoder.bert, input_ids, attention_mask)
        vision = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding, *texts, **outputs)
        embeds = vision.last_hidden_state
        text = self.text_decoder(
            input_ids, attention_mask, encoder_hidden_states=embeds, labels=labels, use_cache=False, **outputs
        )
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

    @takes_tensors
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
        """Caption pictures.

        Each picture's caption is the same alone and in any batch.

        Args:
            input_ids: Prompts (B, L) to continue, `[CLS] a picture of [SEP]` and padding. Without them captions begin
                with the prompt that the model was trained with, if `generation_config.prompt_ids` has it.
            generation_config: Options in place of the model's own `generation_config`.
            seed: Fixes the samples; one for all pictures or one of each.
            stream: Called with (item, token) for each new token at once.
            **options: Fields of `GenerationConfig` over the others: `num_beams=3`, `do_sample=True`, ...

        Returns:
            int64 tokens (B, length), or with `return_dict_in_generate=True` a `GenerationOutput`.
        """
        pictures = self.check_pictures(pixel_values, image_embeds, interpolate_pos_encoding)
        config = GenerationConfig.of(generation_config, self.generation_config)
        ids, mask = (None if x is None else to_array(x) for x in (input_ids, attention_mask))
        prompts = prepare_prompts(ids, mask, pictures, self.text_decoder.config, config, options, seed, stream)
        embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding).last_hidden_state
        return search(self.text_decoder, embeds, None, prompts)

    @takes_tensors
    def score_texts(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> BlipTextScoresOutput:
        """Say how likely each of many texts is as the caption of each picture.

        Args:
            input_ids: Texts (texts, L), `[CLS] ... [SEP]` and padding; the first token becomes `[DEC]`.

        Returns:
            Log-probabilities of each token and in sum, see `BlipTextScoresOutput`. Common beginnings are read once.

        Raises:
            ValueError: If a text has no tokens.
        """
        texts = token_lists(self.text_decoder, given_texts(input_ids), attention_mask)
        embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding).last_hidden_state
        return score_texts(self.text_decoder, embeds, None, texts)

    @takes_tensors
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
        """Map where in its picture the model looks as it predicts each token of a caption.

        Grad-CAM is that of the caption's log-probability.

        Args:
            input_ids: Captions (B, L) of the processor or of `generate`; the first token becomes `[DEC]`, which is not
                predicted and has a map of 0, like padding.
            layer, method, grid: As of `TFBlipForImageTextRetrieval.explain`.

        Returns:
            Maps float32 (B, L, rows, columns).
        """
        input_ids, text = given_texts(input_ids), self.config.text_config
        layer = chosen_layer(layer, method, text)
        padding = tf.cast(text.pad_token_id, input_ids.dtype)
        mask = tf.cast(input_ids != padding if attention_mask is None else attention_mask, tf.int32)
        real = tf.pad(mask[:, :-1] * mask[:, 1:], ((0, 0), (0, 1)))  # (B, L) 1 where the next token is predicted
        patches = patch_grid(pixel_values, image_embeds, grid, self.config.vision_config)
        texts = (self.text_decoder.bert, input_ids, attention_mask)
        embeds = self.encode_image(pixel_values, image_embeds, interpolate_pos_encoding, *texts).last_hidden_state

        def read(states: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            ids = begin_with(text.bos_token_id, input_ids, mask)
            texts = {"input_ids": ids, "attention_mask": mask, "output_attentions": True}
            output = self(image_embeds=states, **texts)
            log_probs = tf.nn.log_softmax(wide(output.logits))  # (B, L, V)
            predicted = tf.gather(log_probs, tf.roll(ids, -1, axis=1), batch_dims=2)  # (B, L)
            return tf.reduce_sum(predicted * tf.cast(real, predicted.dtype), axis=1), output.cross_attentions

        maps = attention_maps(read, embeds, real, layer, method, patches)
        return tf.roll(maps, 1, axis=1)
