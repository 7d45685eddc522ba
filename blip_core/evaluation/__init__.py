"""How good a model of either framework is on a data set: captions, answers, retrieval, NLVR."""

from blip_core.evaluation.common import Evaluation, Processes
from blip_core.evaluation.predictions import evaluate_answers, evaluate_captions, evaluate_nlvr
from blip_core.evaluation.ranking import evaluate_retrieval

__all__ = [
    "Evaluation",
    "Processes",
    "evaluate_answers",
    "evaluate_captions",
    "evaluate_nlvr",
    "evaluate_retrieval",
]
