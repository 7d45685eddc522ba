"""Visual question answering: pictures and questions -> answers.

Shapes: B questions, L tokens, W text width, A answers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import (
    BlipConfig,
    BlipForQuestionAnsweringOutput,
    BlipRankedAnswersOutput,
    BlipTextScoresOutput,
    BlipVisionOutput,
    GenerationConfig,
    GenerationOutput,
)
from blip_core.calls import called_as_in_transformers, takes_tensors
from blip_core.checks import (
    Texts,
    answer_groups,
    check_answers,
    check_labels,
    check_one_answer_each,
    given_answers,
    given_texts,
)
from blip_core.generation.prompts import prepare_prompts
from blip_tf.decoding import search
from blip_tf.image_model import TFBlipImageModel
from blip_tf.language_model import TFBlipTextLMHeadModel
from blip_tf.nn import sizes
from blip_tf.scoring import rank_answers, score_texts, token_lists
from blip_tf.text import TFBlipTextModel
from blip_tf.text_padding import answer_mask, begin_with
from blip_tf.vision import TFBlipVisionModel


@keras.saving.register_keras_serializable("blip")
class TFBlipForQuestionAnswering(TFBlipImageModel):
    """Visual question answering: the question is encoded with the picture, the answer decoded from the question.

    Source: the original's `BLIP_VQA`. The answer decoder attends to the question's states, so its cross-attention is
    of the text width. The arguments that methods share are described in `TFBlipImageModel`.
    """

    def __init__(self, config: BlipConfig, *, initialize: bool = True):
        super().__init__(config)
        self.vision_model = TFBlipVisionModel(config.vision_config, initialize=False)
        self.text_encoder = TFBlipTextModel(config.text_config, add_pooling_layer=False, initialize=False)
        self.text_decoder = TFBlipTextLMHeadModel(config.answer_config(), initialize=False)
        if initialize:
            self.initialize()

    def encode_question(
        self,
        pixel_values: Tensor | None,
        image_embeds: Tensor | None,
        interpolate_pos_encoding: bool,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        training: bool = False,
        **outputs: Any,
    ) -> tuple[BlipVisionOutput, Tensor]:
        """Encode pictures, and questions grounded in them.

        Returns:
            What the vision encoder returned, and the questions' states (B, L, W), which the decoder reads.
        """
        texts = (self.text_encoder, input_ids, attention_mask)
        vision = self.encode_image(
            pixel_values, image_embeds, interpolate_pos_encoding, *texts, training=training, **outputs
        )
        ids, embeds = self.grounded_ids(input_ids, attention_mask), vision.last_hidden_state
        return vision, self.text_encoder(
            ids, attention_mask, encoder_hidden_states=embeds, training=training
        ).last_hidden_state

    def given_answers(
        self, input_ids: Tensor | None, answer_ids: Tensor | None, answer_attention_mask: Tensor | None
    ) -> tuple[Tensor, Texts]:
        """Check questions (B, L) and answers to choose from (A, length).

        Returns:
            The questions, and the tokens of each answer.

        Raises:
            ValueError: If questions or answers are missing, or an answer has no tokens.
        """
        answers = given_texts(answer_ids, "answers as answer_ids, the question")
        return given_texts(input_ids, "question"), token_lists(self.text_decoder, answers, answer_attention_mask)

    @called_as_in_transformers
    def call(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
        answer_counts: Sequence[int] | Tensor | None = None,
        answer_weights: Sequence[float] | Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool = False,
    ) -> BlipForQuestionAnsweringOutput:
        """Predict answers to questions.

        A question may have several answers next to each other, each with a weight. The loss is then the sum over all
        answers of weight x summed token loss, divided by the number of questions (the original's), and otherwise the
        mean over tokens.

        Args:
            input_ids: Questions (B, L).
            labels: Answers (A, length) with -100 on the padding.
            decoder_input_ids: What the decoder reads (A, length): the labels with `[DEC]` first unless given.
            decoder_attention_mask: (A, length), 1 for tokens and 0 for padding. Unless it is given, labels alone begin
                at the first that is not -100, or in the place of a single -100 before it that all answers have.
            answer_counts: How many answers each question has (B,); one unless given.
            answer_weights: The weight of each answer (A,); equal ones of sum 1 for each question unless given.

        Returns:
            `logits` (A, length, V), `question_embeds` (B, L, W) and, with labels, `loss`.
        """
        input_ids = given_texts(input_ids, "question")
        if decoder_input_ids is None:
            labels, text = given_answers(labels), self.config.text_config
            check_labels(labels.shape, labels.shape[:2])
            filled = tf.where(labels == -100, tf.cast(text.pad_token_id, labels.dtype), labels)
            decoder_attention_mask = answer_mask(labels) if decoder_attention_mask is None else decoder_attention_mask
            decoder_input_ids = begin_with(text.bos_token_id, filled, decoder_attention_mask)
        elif labels is not None:
            check_labels(labels.shape, decoder_input_ids.shape[:2])
        self.text_decoder.bert.check(decoder_input_ids, decoder_attention_mask, None, None)
        questions, answers = input_ids.shape[0], decoder_input_ids.shape[0]
        counts: Any = None
        weights: Any = None
        if answer_counts is None and answer_weights is None:
            check_one_answer_each(answers, questions)
        elif tf.is_symbolic_tensor(answer_counts) or None in (questions, answers):  # known when the graph runs
            counts = tf.ones(sizes(input_ids)[:1], tf.int32) if answer_counts is None else tf.stack(answer_counts)
            weights = tf.repeat(1 / counts, counts) if answer_weights is None else answer_weights
        else:
            counts, weights = answer_groups(answer_counts, answer_weights, questions, answers)
        outputs: dict[str, Any] = {
            "output_hidden_states": output_hidden_states, "output_attentions": output_attentions, "training": training,
        }  # fmt: skip
        vision, question = self.encode_question(
            pixel_values, image_embeds, interpolate_pos_encoding, input_ids, attention_mask, **outputs
        )
        states, states_mask = question, attention_mask
        if counts is not None:
            states = tf.repeat(question, counts, axis=0)  # (A, L, W)
            states_mask = None if attention_mask is None else tf.repeat(attention_mask, counts, axis=0)
        answer = self.text_decoder(
            decoder_input_ids,
            decoder_attention_mask,
            encoder_hidden_states=states,
            encoder_attention_mask=states_mask,
            labels=labels,
            reduction="mean" if weights is None else "none",
            use_cache=False,
            **outputs,
        )
        loss = answer.loss
        if loss is not None and weights is not None:
            loss = tf.reduce_sum(loss * tf.cast(weights, loss.dtype)) / tf.cast(sizes(question)[0], loss.dtype)
        return BlipForQuestionAnsweringOutput(
            loss=loss,
            image_embeds=vision.last_hidden_state,
            last_hidden_state=vision.last_hidden_state,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
            logits=answer.logits,
            question_embeds=question,
            decoder_hidden_states=answer.hidden_states,
            decoder_attentions=answer.attentions,
            cross_attentions=answer.cross_attentions,
        )

    @takes_tensors
    def generate(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        seed: int | Sequence[int] | None = None,
        stream: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Tensor | GenerationOutput:
        """Answer questions.

        Args:
            input_ids: Questions (B, L).
            generation_config, seed, stream, **options: As of `TFBlipForConditionalGeneration.generate`.

        Returns:
            int64 tokens (B, length), or with `return_dict_in_generate=True` a `GenerationOutput`.
        """
        input_ids = given_texts(input_ids, "question")
        config = GenerationConfig.of(generation_config, self.generation_config)
        decoder = self.text_decoder
        prompts = prepare_prompts(None, None, input_ids.shape[0], decoder.config, config, options, seed, stream)
        _, question = self.encode_question(
            pixel_values, image_embeds, interpolate_pos_encoding, input_ids, attention_mask
        )
        return search(decoder, question, attention_mask, prompts)

    @takes_tensors
    def score_texts(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        answer_ids: Tensor | None = None,
        answer_attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> BlipTextScoresOutput:
        """Say how likely each of many answers is to each question.

        Args:
            input_ids: Questions (B, L).
            answer_ids, answer_attention_mask: Answers (A, length), `[CLS] ... [SEP]` and padding, and their mask.

        Returns:
            Log-probabilities of each token and in sum, see `BlipTextScoresOutput`.
        """
        input_ids, answers = self.given_answers(input_ids, answer_ids, answer_attention_mask)
        _, question = self.encode_question(
            pixel_values, image_embeds, interpolate_pos_encoding, input_ids, attention_mask
        )
        return score_texts(self.text_decoder, question, attention_mask, answers)

    @takes_tensors
    def rank_answers(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        answer_ids: Tensor | None = None,
        answer_attention_mask: Tensor | None = None,
        k: int = 128,
        interpolate_pos_encoding: bool = False,
        image_embeds: Tensor | None = None,
    ) -> BlipRankedAnswersOutput:
        """Choose from a list of answers, the same for all questions. Source: the original's `rank_answer`.

        Args:
            input_ids: Questions (B, L).
            answer_ids, answer_attention_mask: Answers (A, length), `[CLS] ... [SEP]` and padding, and their mask.
            k: How many answers, those whose first token is the most likely, are ordered by their loss.

        Returns:
            The k best answers of each question, see `BlipRankedAnswersOutput`.

        Raises:
            ValueError: If answers are empty or equal.
        """
        input_ids, answers = self.given_answers(input_ids, answer_ids, answer_attention_mask)
        check_answers(answers, k, self.text_decoder.config)
        _, question = self.encode_question(
            pixel_values, image_embeds, interpolate_pos_encoding, input_ids, attention_mask
        )
        return rank_answers(self.text_decoder, question, attention_mask, answers, k)
