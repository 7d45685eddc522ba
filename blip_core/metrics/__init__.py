"""What results are judged by: captions, answers, retrieval. NumPy and the standard library alone."""

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
