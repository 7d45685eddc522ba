"""The decoding session over the parts `begin` and `step`, and the scores of given texts by it.

Shapes: R rows (texts under way), L length, B' pictures or questions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from blip_core.checks import Texts
from blip_core.config import BlipTextConfig
from blip_core.inference.text_scoring import Trie

Run = Callable[..., dict[str, np.ndarray]]
"""Runs a part: its name, and its inputs as keywords."""


class GraphSession:
    """Decodes a batch of texts one token at a time (the `DecodingSession` of `blip_core.generation`).

    Prompts of different lengths are padded on the right; a new token goes behind the padding of all rows, where `real`
    hides the padding, while its position counts its own row's tokens. So each row is computed as it would be alone.
    """

    def __init__(self, run: Run, states: np.ndarray, states_mask: np.ndarray | None, rows: int, capacity: int):
        self.run = run
        self.states_mask = np.ones(states.shape[:2], np.int32) if states_mask is None else states_mask
        self.caches = run("begin", encoder_states=states, rows=np.array(rows), capacity=np.array(capacity))
        self.real = np.zeros((rows, capacity), np.int32)
        self.length = 0
        self.picture_of = np.arange(len(states)).repeat(rows // len(states))  # (R,)

    def prefill(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Read the prompts (R, L), padded on the right, and return the logits (R, V) after each one's last token."""
        end = self.length + input_ids.shape[1]
        self.real[:, self.length : end] = attention_mask
        found = self.run(
            "step",
            input_ids=input_ids,
            attention_mask=self.real,
            length=np.array(self.length),
            encoder_attention_mask=self.states_mask,
            **self.caches,
        )
        self.caches |= {name: found[name] for name in ("keys", "values")}
        self.length = end
        return found["logits"]

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Read one more token of each row (R,) and return the logits (R, V) after it."""
        return self.prefill(tokens[:, None], np.ones((len(tokens), 1), np.int32))

    def select(self, rows: np.ndarray) -> None:
        """Keep these rows: new row j continues old row rows[j]."""
        pictures, self.picture_of = np.unique(self.picture_of[rows], return_inverse=True)
        moved = dict.fromkeys(("keys", "values"), (rows, 1))
        if len(pictures) != len(self.states_mask):
            self.states_mask = self.states_mask[pictures]
            moved |= dict.fromkeys(("cross_keys", "cross_values"), (pictures, 1))
        self.caches |= {name: self.caches[name].take(kept, axis) for name, (kept, axis) in moved.items()}
        self.real = self.real[rows]


class TrieReader:
    """Reads tries for one of several pictures or questions: a level of nodes is a step of the session."""

    def __init__(self, run: Run, config: BlipTextConfig, states: np.ndarray, states_mask: np.ndarray | None):
        self.run, self.config, self.states, self.states_mask = run, config, states, states_mask

    def __call__(self, trie: Trie, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probability of each token and the mean one in its place, both (texts, longest)."""
        nodes, depths = trie.nodes[0], trie.positions
        parents = [np.flatnonzero(seen)[-2:][0] for seen in trie.mask[0]]  # the ancestors of a node have lower numbers
        mask = None if self.states_mask is None else self.states_mask[item : item + 1]
        session = GraphSession(self.run, self.states[item : item + 1], mask, 1, int(depths.max()) + 1)
        level, found = [0], np.empty((len(nodes), self.config.vocab_size), np.float32)
        found[level] = session.step(nodes[level])
        for depth in range(1, int(depths.max()) + 1):
            below = np.flatnonzero(depths == depth)
            session.select(np.array([level.index(parents[node]) for node in below]))
            found[below] = session.step(nodes[below])
            level = below.tolist()
        log_probs = log_softmax(found)
        return log_probs[trie.parents, trie.tokens], log_probs.mean(axis=-1)[trie.parents]

    def first(self, texts: Texts) -> np.ndarray:
        """The log-probabilities (B', texts) of the texts' first tokens."""
        session = GraphSession(self.run, self.states, self.states_mask, len(self.states), 1)
        logits = session.step(np.full(len(self.states), self.config.bos_token_id))
        result: np.ndarray = log_softmax(logits)[:, [text[0] for text in texts]]
        return result


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The log-probabilities of logits (..., V)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
