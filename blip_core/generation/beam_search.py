"""Greedy search, sampling and beam search for one item.

An item is one image or prompt; its beams or its samples are rows, as many as the item returns or has beams. A search
knows nothing of other items, so a text is the same alone and in any batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from blip_core.generation.options import GenerationConfig
from blip_core.generation.scores import draw, largest


@dataclass(frozen=True)
class Hypothesis:
    """A text being written: its tokens, prompt included; for each new token its log-probability and its row."""

    tokens: list[int]
    log_probs: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    score: float = 0.0
    finished: bool = False

    def extended(self, token: int, row: int, log_probs: np.ndarray | None) -> Hypothesis:
        """Return this text and one more token, chosen from `row`. `log_probs` is (rows, vocabulary) or None."""
        known = [] if log_probs is None else [*self.log_probs, float(log_probs[row, token])]
        return replace(self, tokens=[*self.tokens, token], log_probs=known, rows=[*self.rows, row])


class Search(ABC):
    """What greedy search, sampling and beam search share.

    `texts` are the rows: one, the prompt, at first. A step is `propose`, which finds `candidates`, and `settle`, which
    chooses the new rows among them; then `parents` says which row each new row continues.
    """

    def __init__(self, prompt: list[int], config: GenerationConfig, limits: tuple[int, int], seed: int | None):
        self.config = config
        self.shortest, self.longest = limits
        self.prompt_length = len(prompt)
        self.texts = [Hypothesis(prompt)]
        self.candidates: list[Hypothesis] = []
        self.parents: list[int] = []
        self.done = False
        # Each returned text has its own stream of random numbers (all beams share one), the same in every NumPy.
        streams = range(config.num_return_sequences if config.num_beams == 1 else 1)
        keys = [np.random.SeedSequence(seed, spawn_key=(i,)) for i in streams] if seed is not None else []
        self.noise = [np.random.Generator(np.random.Philox(key)) for key in keys]

    @abstractmethod
    def propose(self, scores: np.ndarray, log_probs: np.ndarray | None) -> None:
        """Find texts with one more token than the rows.

        `scores`: float32 (rows, vocabulary), after all rules. `log_probs`: the same shape, the model's own
        distribution, or None where it was not asked for. Raises `ValueError` where no token is allowed.
        """

    @abstractmethod
    def settle(self, stopped: Sequence[bool]) -> None:
        """Make the new rows of the candidates, of which each also ends where it is `stopped`."""

    def results(self) -> list[Hypothesis]:
        """Return the `num_return_sequences` texts found, best first, once `done`."""
        return self.texts

    def ends(self, text: Hypothesis) -> bool:
        """Say whether a text is complete: by an end token, or by its length."""
        return text.tokens[-1] in self.config.end_ids or len(text.tokens) >= self.longest


class Chains(Search):
    """Greedy search and sampling: rows that do not compete. A finished row waits for the others of the item."""

    def propose(self, scores: np.ndarray, log_probs: np.ndarray | None) -> None:
        count = self.config.num_return_sequences
        self.parents = list(range(count)) if len(self.texts) == count else [0] * count
        self.candidates = [self._next(i, row, scores, log_probs) for i, row in enumerate(self.parents)]

    def settle(self, stopped: Sequence[bool]) -> None:
        ended = [text.finished or stop or self.ends(text) for text, stop in zip(self.candidates, stopped, strict=True)]
        self.texts = [replace(text, finished=end) for text, end in zip(self.candidates, ended, strict=True)]
        self.done = all(ended)

    def _next(self, index: int, row: int, scores: np.ndarray, log_probs: np.ndarray | None) -> Hypothesis:
        text = self.texts[row]
        if text.finished:
            return text
        chosen = draw(scores[row], [self.noise[index].random()]) if self.noise else largest(scores[row], 1)
        if not chosen.size:
            raise nothing_allowed(text.tokens)
        text = text.extended(int(chosen[0]), row, log_probs)
        return replace(text, score=sum(text.log_probs))


class ForcedWords:
    """What new tokens still lack of words, lists of tokens, each of which must stand among them."""

    def __init__(self, words: Sequence[Sequence[int]]):
        self.words = [list(word) for word in words]

    def lacking(self, tokens: Sequence[int]) -> int:
        """Return how many tokens are needed at most until all words are there."""
        missing = self._missing(tokens)
        return sum(len(word) for word, _ in missing) - max((begun for _, begun in missing), default=0)

    def wanted(self, tokens: Sequence[int]) -> list[int]:
        """Return the next token of each word that is not there."""
        return [word[begun] for word, begun in self._missing(tokens)]

    def _missing(self, tokens: Sequence[int]) -> list[tuple[list[int], int]]:
        """Return the words that are not there, each with how many of its tokens are the last ones."""
        tokens, missing = list(tokens), []
        for word in self.words:
            size = len(word)
            if not any(tokens[i : i + size] == word for i in range(len(tokens) - size + 1)):
                begun = next(
                    n for n in range(min(size - 1, len(tokens)), -1, -1) if tokens[len(tokens) - n :] == word[:n]
                )
                missing.append((word, begun))
        return missing


class Beams(Search):
    """Beam search and beam sampling.

    From `num_beams` x (end tokens + 1) candidates, the best `num_beams` that do not end are continued. Those that end
    are finished if they are among the first `num_beams`; the best `num_beams` finished ones are kept. Where fewer than
    `num_beams` can be continued, rows with the total -inf fill the batch; nothing is chosen from them.

    With `force_words_ids`, candidates are chosen in turn from those that lack the same number of forced tokens, so that
    the beams hold texts of every stage; see `ForcedWords`. Source: Post and Vilar 2018 (arXiv 1804.06609).
    """

    def __init__(self, prompt: list[int], config: GenerationConfig, limits: tuple[int, int], seed: int | None):
        super().__init__(prompt, config, limits, seed)
        self.totals = np.zeros(1, np.float32)
        self.count = max(2, len(config.end_ids) + 1) * config.num_beams
        self.finished: list[Hypothesis] = []
        self.forced = ForcedWords(config.force_words_ids) if config.force_words_ids else None

    def propose(self, scores: np.ndarray, log_probs: np.ndarray | None) -> None:
        totals = (scores + self.totals[:, None]).ravel()
        count = self.count
        chosen = draw(totals, self.noise[0].random(count).tolist()) if self.noise else largest(totals, count)
        if self.forced:
            chosen = self._in_turn(chosen, totals, scores.shape[1], self.forced)
        self.candidates = []
        for index in chosen:
            row, token = divmod(int(index), scores.shape[1])
            text = self.texts[row].extended(token, row, log_probs)
            self.candidates.append(replace(text, score=float(totals[index])))

    def settle(self, stopped: Sequence[bool]) -> None:
        beams = self.config.num_beams
        running: list[tuple[float, Hypothesis]] = []
        for rank, (text, stop) in enumerate(zip(self.candidates, stopped, strict=True)):
            if not (stop or self.ends(text)):
                running.append((text.score, text))
            elif rank < beams:
                self.finished.append(replace(text, score=self._score(text.score, len(text.rows)), finished=True))
        if self.forced:
            running = running[:beams]
        running = sorted(running, key=lambda pair: -pair[0])[:beams]
        self.finished = sorted(self.finished, key=lambda text: -text.score)[:beams]
        self.done = not running or self._enough(running[0])
        if self.done:
            self._require_results()
            return
        running += [(-np.inf, running[0][1])] * (beams - len(running))
        self.totals = np.array([total for total, _ in running], np.float32)
        self.texts = [text for _, text in running]
        self.parents = [text.rows[-1] for text in self.texts]

    def _in_turn(self, best: np.ndarray, totals: np.ndarray, vocab: int, forced: ForcedWords) -> np.ndarray:
        """Return candidates that can still get all forced words: the best of each stage, the second best of each, ...

        They are the `best` of all, the best of each row, and the tokens of each row that go on with a forced word.
        """
        offered = set(best.tolist())
        for row, text in enumerate(self.texts):
            wanted = forced.wanted(text.tokens[self.prompt_length :])
            own = (*wanted, *largest(totals[row * vocab : (row + 1) * vocab], 1).tolist())
            offered.update(row * vocab + token for token in own)
        stages: dict[int, list[int]] = {}
        for index in sorted(offered, key=lambda index: (-totals[index], index)):
            row, token = divmod(index, vocab)
            tokens = [*self.texts[row].tokens, token]
            lacking = forced.lacking(tokens[self.prompt_length :])
            room = 0 if token in self.config.end_ids else self.longest - len(tokens)
            if lacking <= room and np.isfinite(totals[index]):
                stages.setdefault(lacking, []).append(index)
        ranked = [(rank, stage, index) for stage, found in stages.items() for rank, index in enumerate(found)]
        return np.array([index for *_, index in sorted(ranked)], np.int64)

    def results(self) -> list[Hypothesis]:
        return self.finished[: self.config.num_return_sequences]

    def _score(self, total: float, new_tokens: int) -> float:
        return float(total / new_tokens**self.config.length_penalty)

    def _enough(self, best: tuple[float, Hypothesis]) -> bool:
        """Say whether the search can stop: by `early_stopping`, or because running beams cannot improve the result."""
        if len(self.finished) < self.config.num_beams:
            return False
        if self.config.early_stopping is True:
            return True
        total, text = best
        hopeful = self.config.early_stopping == "never" and self.config.length_penalty > 0
        length = self.longest - self.prompt_length if hopeful else len(text.rows)
        return self._score(total, length) <= self.finished[-1].score

    def _require_results(self) -> None:
        if not self.finished:
            raise nothing_allowed(self.texts[0].tokens)
        if len(self.finished) < self.config.num_return_sequences:
            raise ValueError(
                f"Only {len(self.finished)} of {self.config.num_return_sequences} texts exist under these options; "
                "lower num_return_sequences, or relax bad_words_ids, force_words_ids, no_repeat_ngram_size, top_k or "
                "top_p."
            )


def nothing_allowed(tokens: Sequence[int]) -> ValueError:
    """Return the error for a text that no token may follow."""
    return ValueError(
        f"No token may follow {list(tokens)}: bad_words_ids, force_words_ids, no_repeat_ngram_size and the least "
        "length ban them all; relax one of these options."
    )
