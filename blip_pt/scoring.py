"""The log-probabilities that a text decoder gives to texts joined in tries (see `blip_core.inference.text_scoring`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blip_core import BlipRankedAnswersOutput, BlipTextScoresOutput
from blip_core.checks import Texts, texts_of
from blip_core.inference import text_scoring as core
from blip_core.inference.text_scoring import Trie
from blip_pt.language_model import BlipTextLMHeadModel
from blip_pt.nn import wide


class TrieReader:
    """Reads tries for one of several pictures or questions, given by encoder states (B, S, W) and their mask."""

    def __init__(self, decoder: BlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None):
        self.decoder, self.states, self.states_mask = decoder, states, states_mask

    def __call__(self, trie: Trie, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probability of each token and the mean one in its place, both (texts, longest)."""
        device = self.decoder.device
        nodes, mask, positions, parents, tokens = (
            torch.from_numpy(array).to(device)
            for array in (trie.nodes, trie.mask, trie.positions, trie.parents, trie.tokens)
        )
        logits = self.decoder(
            nodes,
            mask,
            positions,
            encoder_hidden_states=self.states[item : item + 1],
            encoder_attention_mask=None if self.states_mask is None else self.states_mask[item : item + 1],
            is_decoder=False,
        ).logits[0]  # (N, V)
        log_probs = torch.log_softmax(wide(logits), dim=-1)
        return log_probs[parents, tokens].cpu().numpy(), log_probs.mean(dim=-1)[parents].cpu().numpy()

    def first(self, texts: Texts) -> np.ndarray:
        """The log-probabilities (B, texts) of the texts' first tokens."""
        bos = self.decoder.config.bos_token_id
        start = torch.full((self.states.shape[0], 1), bos, device=self.decoder.device)
        states = {"encoder_hidden_states": self.states, "encoder_attention_mask": self.states_mask}
        logits = self.decoder(start, use_cache=False, **states).logits[:, 0]  # (B, V)
        return torch.log_softmax(wide(logits), dim=-1)[:, [text[0] for text in texts]].cpu().numpy()


def token_lists(decoder: BlipTextLMHeadModel, input_ids: Tensor, attention_mask: Tensor | None) -> Texts:
    """The tokens of texts (texts, L) that the decoder can score; raises `ValueError` for others."""
    mask = None if attention_mask is None else attention_mask.cpu().numpy()
    return texts_of(input_ids.cpu().numpy(), mask, decoder.config)


def score_texts(
    decoder: BlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None, texts: Texts
) -> BlipTextScoresOutput:
    """Score texts for each of B encoder states."""
    output = core.score_texts(states.shape[0], texts, decoder.config, TrieReader(decoder, states, states_mask))
    return output.map(lambda array: torch.from_numpy(array).to(decoder.device))


def rank_answers(
    decoder: BlipTextLMHeadModel, states: Tensor, states_mask: Tensor | None, texts: Texts, k: int
) -> BlipRankedAnswersOutput:
    """Order a list of answers for each of B encoder states."""
    reader = TrieReader(decoder, states, states_mask)
    output = core.rank_answers(reader.first(texts), texts, k, decoder.config, reader)
    return output.map(lambda array: torch.from_numpy(array).to(decoder.device))
