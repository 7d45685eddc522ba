"""A whole batch, as hooks and outputs see it: each item has all of its rows from the first step to the last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_core.generation.beam_search import Hypothesis, Search
from blip_core.generation.generation_hooks import Hooks
from blip_core.generation.options import GenerationConfig

Live = list[tuple[int, Search]]
"""The searches that go on, each with the index of its item."""
Steps = list[tuple[np.ndarray, np.ndarray]]
"""The texts that each step of a search reads: int64 tokens (rows, length) of the whole batch, and their mask."""


class Batch:
    """All items of a call. Each has `width` rows: its beams, or the texts that it returns."""

    def __init__(self, config: GenerationConfig, hooks: Hooks, searches: list[Search]):
        self.config, self.hooks, self.searches = config, hooks, searches
        self.width = max(config.num_beams, config.num_return_sequences)
        self.scores: list[np.ndarray] = []
        self.logits: list[np.ndarray] = []

    def rows(self) -> list[list[Hypothesis]]:
        """The texts of each item; the prompt, of which there is one at first, as often as there will be rows."""
        return [search.texts * (self.width // len(search.texts)) for search in self.searches]

    def texts(self) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of all rows, and their mask."""
        return self.table(self.rows())

    def table(self, texts: Sequence[Sequence[Hypothesis]]) -> tuple[np.ndarray, np.ndarray]:
        """Return int64 tokens (rows, length) of texts of all items, and the mask: 0 before a prompt, else 1."""
        starts = [search.prompt_length for search in self.searches]
        pairs = [(text.tokens, start) for own, start in zip(texts, starts, strict=True) for text in own]
        longest, new = max(starts), max(len(tokens) - start for tokens, start in pairs)
        ids = np.full((len(pairs), longest + new), self.config.padding_id, np.int64)
        mask = np.ones_like(ids)
        for row, own, (tokens, start) in zip(ids, mask, pairs, strict=True):
            row[longest - start : longest - start + len(tokens)] = tokens
            own[: longest - start] = 0
        return ids, mask

    def spread(self, values: np.ndarray, live: Live, filler: float) -> np.ndarray:
        """Put values (rows, vocabulary) of live items in their places among those of all items."""
        width = len(values) // len(live)
        everything = np.full((len(self.searches), self.width, values.shape[1]), filler, np.float32)
        for i, (item, _) in enumerate(live):
            everything[item] = values[i * width : (i + 1) * width]
        return everything.reshape(-1, values.shape[1])

    def process(self, scores: np.ndarray, live: Live) -> np.ndarray:
        """Run the caller's logits processors on the scores (rows, vocabulary) of live items."""
        found = self.hooks.process(self.texts()[0], self.spread(scores, live, 0.0))
        items = found.reshape(len(self.searches), self.width, -1)
        return np.concatenate([items[item, : len(scores) // len(live)] for item, _ in live])

    def record(self, scores: np.ndarray, logits: np.ndarray, live: Live) -> None:
        """Keep the scores and logits of a step as the caller asked, NaN where a row has ended."""
        config = self.config
        for wanted, values, kept in (
            (config.output_scores, scores, self.scores),
            (config.output_logits, logits, self.logits),
        ):
            if wanted and config.return_dict_in_generate:
                kept.append(self.spread(values, live, np.nan))
                if config.num_beams == 1:
                    kept[-1][[text.finished for own in self.rows() for text in own]] = np.nan

    def settle(self, live: Live, late: bool) -> None:
        """Let every live search choose its rows; all texts end if it is late, others by the stopping criteria."""
        candidates = [search.candidates for search in self.searches]
        starts = np.cumsum([0, *map(len, candidates)])
        stopped = np.full(starts[-1], late)
        if self.hooks.stopping_criteria:
            stopped |= self.hooks.stopped(self.table(candidates)[0], self.scores or None)
        for item, search in live:
            search.settle(stopped[starts[item] : starts[item + 1]].tolist())
        if self.hooks.streamer is not None:
            self.hooks.streamer.put(self.hooks.tensors.on_host(self.texts()[0][:, -1]))
            if all(search.done for search in self.searches):
                self.hooks.streamer.end()

    def stream_prompts(self) -> None:
        """Give the streamer, if there is one, the prompts (rows, length)."""
        if self.hooks.streamer is not None:
            self.hooks.streamer.put(self.hooks.tensors.on_host(self.texts()[0]))


def padded(rows: Sequence[Sequence[float]], filler: float, dtype: type) -> np.ndarray:
    """Return rows of different lengths as one array, padded on the right."""
    array: np.ndarray = np.full((len(rows), max(map(len, rows))), filler, dtype)
    for target, row in zip(array, rows, strict=True):
        target[: len(row)] = row
    return array
