"""Metrics of captions, answers, retrieval and boxes, with NumPy and the standard library only."""

from blip_core.metrics.answers import answer_accuracy, normalize_answer
from blip_core.metrics.boxes import best_box, box_iou, is_inside
from blip_core.metrics.captions import CaptionScores, bleu, caption_scores, cider, rouge_l
from blip_core.metrics.ptb import ptb_tokens
from blip_core.metrics.recall import recalls

__all__ = [
    "CaptionScores",
    "answer_accuracy",
    "best_box",
    "bleu",
    "box_iou",
    "caption_scores",
    "cider",
    "is_inside",
    "normalize_answer",
    "ptb_tokens",
    "recalls",
    "rouge_l",
]
