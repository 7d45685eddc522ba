"""Scoring many texts at once: texts with common beginnings are joined to tries, and each beginning is read once.

A trie goes through the text decoder as one sequence: every node is a token that sees its ancestors only and stands at
their number. So 3,128 answers cost about as much as their distinct beginnings have tokens, a few matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from blip_core.checks import Texts, start_token
from blip_core.config import BlipTextConfig
from blip_core.outputs import BlipRankedAnswersOutput, BlipTextScoresOutput

NODES = 256
"""How many nodes a trie has at most (one long text may have more): the vocabulary's logits of each are in memory."""

Reader = Callable[["Trie", int], tuple[np.ndarray, np.ndarray]]
"""What a backend does with a trie and the number of a picture or question: for each text and each of its tokens, the
token's log-probability and the mean log-probability of the whole vocabulary in its place, float32 (texts, longest)."""


@dataclass(frozen=True)
class Trie:
    """Texts joined at their common beginnings.

    `nodes` int64 (1, N): the tokens to read, `[DEC]` first; `positions` (N,) and `mask` (1, N, N) say where each
    stands and what it sees. Token j of text i is `tokens[i, j]`, predicted by node `parents[i, j]`, both int64 (texts,
    longest), where `real`. `members` are the texts' numbers.
    """

    nodes: np.ndarray
    positions: np.ndarray
    mask: np.ndarray
    parents: np.ndarray
    tokens: np.ndarray
    real: np.ndarray
    members: np.ndarray


def make_tries(texts: Texts, members: Sequence[int], start: int, limit: int) -> list[Trie]:
    """Join the texts with these numbers, each the tokens after `start`, to tries of at most `limit` nodes."""
    tries: list[Trie] = []
    group: list[int] = []
    before: tuple[int, ...] = ()
    size = 1
    for member in sorted(members, key=lambda i: tuple(texts[i])):
        text = tuple(texts[member][:-1])  # the last token is predicted but not read
        common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(text, before, strict=False))))
        if group and size + len(text) - common > limit:
            tries.append(_trie(texts, group, start))
            group, size, common = [], 1, 0
        group.append(member)
        size += len(text) - common
        before = text
    return [*tries, _trie(texts, group, start)]


def _trie(texts: Texts, members: list[int], start: int) -> Trie:
    children: dict[tuple[int, int], int] = {}
    nodes, positions, ancestors = [start], [0], [[0]]
    shape = len(members), max(len(texts[i]) for i in members)
    parents, tokens, real = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool)
    for row, member in enumerate(members):
        at, text = 0, texts[member]
        for column, token in enumerate(text):
            parents[row, column], tokens[row, column], real[row, column] = at, token, True
            if column == len(text) - 1:
                break
            if (at, token) not in children:
                children[at, token] = len(nodes)
                nodes.append(token)
                positions.append(column + 1)
                ancestors.append([*ancestors[at], len(ancestors)])
            at = children[at, token]
    mask = np.zeros((1, len(nodes), len(nodes)), np.int64)
    for node, seen in enumerate(ancestors):
        mask[0, node, seen] = 1
    return Trie(np.array([nodes]), np.array(positions), mask, parents, tokens, real, np.array(members))


def score_texts(items: int, texts: Texts, config: BlipTextConfig, read: Reader) -> BlipTextScoresOutput:
    """Score every text for each of `items` pictures or questions."""
    tries = make_tries(texts, range(len(texts)), start_token(config), min(NODES, config.max_position_embeddings))
    longest = max(len(text) for text in texts)
    found = np.full((items, len(texts), longest), np.nan, np.float32)
    for item in range(items):
        for trie in tries:
            log_probs, _ = read(trie, item)
            found[item, trie.members, : trie.real.shape[1]] = np.where(trie.real, log_probs, np.nan)
    return BlipTextScoresOutput(log_probs=np.nansum(found, axis=2), token_log_probs=found)


def rank_answers(
    first_log_probs: np.ndarray, texts: Texts, k: int, config: BlipTextConfig, read: Reader
) -> BlipRankedAnswersOutput:
    """Order the answers to each question, best first.

    `first_log_probs` (questions, answers) are those of each answer's first token, by which the k candidates are
    chosen (of equal ones the first in the list). They are ordered by the loss of the whole answer, smoothed by
    `config.label_smoothing` as in training. Source: the original's `rank_answer`.
    """
    candidates = np.argsort(-first_log_probs, axis=1, kind="stable")[:, :k]
    limit, smoothing = min(NODES, config.max_position_embeddings), config.label_smoothing
    shape = first_log_probs.shape
    scores, sums = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.float32)
    tries: dict[tuple[int, ...], list[Trie]] = {}
    for question, chosen in enumerate(candidates):
        key = tuple(sorted(chosen.tolist()))
        tries[key] = tries.get(key) or make_tries(texts, key, start_token(config), limit)
        for trie in tries[key]:
            log_probs, means = (np.where(trie.real, x, 0).sum(axis=1) for x in read(trie, question))
            sums[question, trie.members] = log_probs
            scores[question, trie.members] = (1 - smoothing) * log_probs + smoothing * means
    order = np.argsort(-scores, axis=1, kind="stable")[:, : candidates.shape[1]]
    ordered = (np.take_along_axis(x, order, axis=1) for x in (scores, sums))
    return BlipRankedAnswersOutput(order[:, 0], order, *ordered)
