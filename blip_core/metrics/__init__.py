"""Metrics of captions, answers and retrieval, with NumPy and the standard library only."""

from blip_core.metrics.answers import answer_accuracy, normalize_answer
from blip_core.metrics.captions import CaptionScores, bleu, caption_scores, cider
from blip_core.metrics.ptb import ptb_tokens
from blip_core.metrics.recall import recalls

__all__ = [
    "CaptionScores",
    "answer_accuracy",
    "bleu",
    "caption_scores",
    "cider",
    "normalize_answer",
    "ptb_tokens",
    "recalls",
]
