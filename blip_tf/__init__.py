"""BLIP in TensorFlow, on Keras 3."""

import blip_tf.environment  # noqa: F401  # first, before anything loads Keras

# isort: split
from blip_core import (
    BlipConfig,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
    BlipTokenizer,
    BlipVisionConfig,
    GenerationConfig,
)
from blip_tf.answering import TFBlipForQuestionAnswering
from blip_tf.captioning import TFBlipForConditionalGeneration
from blip_tf.contrastive import TFBlipModel
from blip_tf.retrieval import TFBlipForImageTextRetrieval
from blip_tf.text import TFBlipTextLMHeadModel, TFBlipTextModel
from blip_tf.vision import TFBlipVisionModel

__all__ = [
    "BlipConfig",
    "BlipImageProcessor",
    "BlipProcessor",
    "BlipTextConfig",
    "BlipTokenizer",
    "BlipVisionConfig",
    "GenerationConfig",
    "TFBlipForConditionalGeneration",
    "TFBlipForImageTextRetrieval",
    "TFBlipForQuestionAnswering",
    "TFBlipModel",
    "TFBlipTextLMHeadModel",
    "TFBlipTextModel",
    "TFBlipVisionModel",
]
