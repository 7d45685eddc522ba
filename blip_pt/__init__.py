"""BLIP in PyTorch."""

from blip_core.engines import ENGINES

ENGINES["pt"].require("blip_pt")

from typing import TYPE_CHECKING

from blip_core import BlipConfig, BlipTextConfig, BlipVisionConfig, GenerationConfig
from blip_core.lazy import lazy_names
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

if TYPE_CHECKING:
    from blip_core import BlipImageProcessor, BlipProcessor, BlipTokenizer

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

# Processors need Pillow and tokenizers, which models do without: they are imported when they are first used.
__getattr__, __dir__ = lazy_names(
    __name__, dict.fromkeys(["BlipImageProcessor", "BlipProcessor", "BlipTokenizer"], "blip_core")
)
