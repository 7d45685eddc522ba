"""Measure how good a model of any engine is on a data set: captions, answers, retrieval, NLVR, classes, grounding."""

from blip_core.evaluation.common import Evaluation, Processes, Run
from blip_core.evaluation.grounding import evaluate_grounding
from blip_core.evaluation.predictions import (
    evaluate_answers,
    evaluate_captions,
    evaluate_classes,
    evaluate_matches,
    evaluate_nlvr,
)
from blip_core.evaluation.presets import PRESETS, Preset, loading_options
from blip_core.evaluation.ranking import evaluate_retrieval

__all__ = [
    "PRESETS",
    "Evaluation",
    "Preset",
    "Processes",
    "Run",
    "evaluate_answers",
    "evaluate_captions",
    "evaluate_classes",
    "evaluate_grounding",
    "evaluate_matches",
    "evaluate_nlvr",
    "evaluate_retrieval",
    "loading_options",
]
