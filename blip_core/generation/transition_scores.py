"""The score of each token of texts that `generate` found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_core.generation.scores import softmax


def transition_scores(
    sequences: np.ndarray,
    scores: Sequence[np.ndarray],
    beam_indices: np.ndarray | None = None,
    normalize_logits: bool = False,
) -> np.ndarray:
    """Give the score by which each new token was chosen, as `compute_transition_scores` of transformers.

    Args:
        sequences: Integers (texts, length) of `generate`, whose prompts are of one length.
        scores: For each step (rows, vocabulary), the `scores` or `logits` of the same output.
        beam_indices: With beams, integers (texts, new tokens), those of the same output.
        normalize_logits: Make log-probabilities of the scores.

    Returns:
        float32 (texts, new tokens); 0 after the end.

    Raises:
        ValueError: If they are not of one call of `generate`.
    """
    if not scores:
        raise ValueError("scores are missing; call generate with output_scores=True and return_dict_in_generate=True.")
    if beam_indices is None:
        beam_indices = np.tile(np.arange(len(scores[0]))[:, None], (1, len(scores)))
    steps = int((beam_indices >= 0).sum(axis=1).max())
    if len(beam_indices) != len(sequences) or steps > min(len(scores), sequences.shape[1] - 1):
        raise ValueError(
            f"sequences {sequences.shape}, {len(scores)} steps of scores and beam_indices {beam_indices.shape} are not "
            "of one call of generate; with beams give the beam_indices of its output."
        )
    found = np.zeros((len(sequences), steps), np.float32)
    for step, tokens in enumerate(sequences[:, sequences.shape[1] - steps :].T):
        rows, table = beam_indices[:, step], scores[step]
        with np.errstate(divide="ignore"):
            chosen = (np.log(softmax(table)) if normalize_logits else table)[rows, tokens]
        found[:, step] = np.where((rows < 0) | np.isnan(chosen), 0, chosen)
    return found
