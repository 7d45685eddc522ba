"""A language model that is a table of logits by the last token, and what transformers generates with it."""

from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).parents[1] / "data" / "generation.json"
TABLE = np.random.default_rng(4).normal(scale=2.0, size=(24, 24)).astype(np.float32)
TABLE[:, 7] += 1.5  # the end token of the reference


class TableSession:
    """The last token alone decides: its row of `TABLE`."""

    def prefill(self, input_ids, attention_mask):
        return TABLE[input_ids[np.arange(len(input_ids)), attention_mask.sum(axis=1) - 1]]

    def step(self, tokens):
        return TABLE[tokens]

    def select(self, rows):
        pass
