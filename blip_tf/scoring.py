"""The log-probabilities that a text decoder gives to texts joined in tries (see `blip_core.inference.text_scoring`)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipRankedAnswersOutput, BlipTextScoresOutput
from blip_core.checks import Texts, texts_of
from blip_core.inference import text_scoring as core
from blip_core.inference.text_scoring import Trie
from blip_tf.language_model import TFBlipTextLMHeadModel
from blip_tf.nn import wide


class TrieReader:
    """Reads tries for one of several pictures or questions, given by encoder states (B, S, W) and their mask."""

    def __init__(self, decoder: TFBlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None):
        self.decoder, self.states, self.states_mask = decoder, states, states_mask

    def __call__(self, trie: Trie, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probability of each token and the mean one in its place, both (texts, longest)."""
        logits = self.decoder(
            tf.constant(trie.nodes),
            tf.constant(trie.mask),
            tf.constant(trie.positions),
            encoder_hidden_states=self.states[item : item + 1],
            encoder_attention_mask=None if self.states_mask is None else self.states_mask[item : item + 1],
            is_decoder=False,
        ).logits[0]  # (N, V)
        log_probs = tf.nn.log_softmax(wide(logits))
        found = tf.gather_nd(log_probs, np.stack([trie.parents, trie.tokens], axis=-1))
        return found.numpy(), tf.gather(tf.reduce_mean(log_probs, axis=-1), trie.parents).numpy()

    def first(self, texts: Texts) -> np.ndarray:
        """The log-probabilities (B, texts) of the texts' first tokens."""
        bos = self.decoder.config.bos_token_id
        start = tf.fill((self.states.shape[0], 1), tf.constant(bos, tf.int64))
        states = {"encoder_hidden_states": self.states, "encoder_attention_mask": self.states_mask}
        logits = self.decoder(start, use_cache=False, **states).logits[:, 0]  # (B, V)
        return tf.gather(tf.nn.log_softmax(wide(logits)), [text[0] for text in texts], axis=1).numpy()


def token_lists(decoder: TFBlipTextLMHeadModel, input_ids: Tensor, attention_mask: Tensor | None) -> Texts:
    """The tokens of texts (texts, L) that the decoder can score; raises `ValueError` for others."""
    mask = None if attention_mask is None else np.asarray(attention_mask)
    return texts_of(np.asarray(input_ids), mask, decoder.config)


def score_texts(
    decoder: TFBlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None, texts: Texts
) -> BlipTextScoresOutput:
    """Score texts for each of B encoder states."""
    output = core.score_texts(states.shape[0], texts, decoder.config, TrieReader(decoder, states, states_mask))
    return output.map(tf.convert_to_tensor)


def rank_answers(
    decoder: TFBlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None, texts: Texts, k: int
) -> BlipRankedAnswersOutput:
    """Order a list of answers for each of B encoder states."""
    reader = TrieReader(decoder, states, states_mask)
    output = core.rank_answers(reader.first(texts), texts, k, decoder.config, reader)
    return output.map(tf.convert_to_tensor)
