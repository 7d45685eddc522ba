"""BLIP in PyTorch."""

from blip_core.engines import ENGINES

ENGINES["pt"].require("blip_pt")

from blip_core import (
    BlipConfig,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
    BlipTokenizer,
    BlipVisionConfig,
    GenerationConfig,
)
from blip_pt.answering import BlipForQuestionAnswering
from blip_pt.captioning import BlipForConditionalGeneration
from blip_pt.classification import BlipForClassification
from blip_pt.contrastive import BlipModel
from blip_pt.language_model import BlipTextLMHeadModel
from blip_pt.nlvr import BlipForNLVR
from blip_pt.pretraining import BlipForPreTraining
from blip_pt.retrieval import BlipForImageTextRetrieval
from blip_pt.text import BlipTextModel
from blip_pt.vision import BlipVisionModel

__all__ = [
    "BlipConfig",
    "BlipForClassification",
    "BlipForConditionalGeneration",
    "BlipForImageTextRetrieval",
    "BlipForNLVR",
    "BlipForPreTraining",
    "BlipForQuestionAnswering",
    "BlipImageProcessor",
    "BlipModel",
    "BlipProcessor",
    "BlipTextConfig",
    "BlipTextLMHeadModel",
    "BlipTextModel",
    "BlipTokenizer",
    "BlipVisionConfig",
    "BlipVisionModel",
    "GenerationConfig",
]
