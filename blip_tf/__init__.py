"""BLIP in TensorFlow, on Keras 3."""

# What Keras runs on must be settled before anything imports it.
import os

from blip_core.engines import ENGINES

ENGINES["tf"].require("blip_tf")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # remarks on the machine are no errors
os.environ["KERAS_BACKEND"] = chosen = os.environ.get("KERAS_BACKEND") or "tensorflow"
if chosen == "tensorflow":
    import keras

    chosen = keras.backend.backend()  # another one where Keras was imported before
if chosen != "tensorflow":
    raise ImportError(
        f"blip_tf needs Keras on TensorFlow, but it runs on {chosen!r}; "
        "set KERAS_BACKEND=tensorflow before Python starts."
    )

from typing import TYPE_CHECKING

from blip_core import BlipConfig, BlipTextConfig, BlipVisionConfig, GenerationConfig
from blip_core.lazy import lazy_names
from blip_tf.answering import TFBlipForQuestionAnswering
from blip_tf.captioning import TFBlipForConditionalGeneration
from blip_tf.classification import TFBlipForClassification
from blip_tf.contrastive import TFBlipModel
from blip_tf.language_model import TFBlipTextLMHeadModel
from blip_tf.nlvr import TFBlipForNLVR
from blip_tf.pretraining import TFBlipForPreTraining
from blip_tf.retrieval import TFBlipForImageTextRetrieval
from blip_tf.text import TFBlipTextModel
from blip_tf.vision import TFBlipVisionModel

if TYPE_CHECKING:
    from blip_core import BlipImageProcessor, BlipProcessor, BlipTokenizer

__all__ = [
    "BlipConfig",
    "BlipImageProcessor",
    "BlipProcessor",
    "BlipTextConfig",
    "BlipTokenizer",
    "BlipVisionConfig",
    "GenerationConfig",
    "TFBlipForClassification",
    "TFBlipForConditionalGeneration",
    "TFBlipForImageTextRetrieval",
    "TFBlipForNLVR",
    "TFBlipForPreTraining",
    "TFBlipForQuestionAnswering",
    "TFBlipModel",
    "TFBlipTextLMHeadModel",
    "TFBlipTextModel",
    "TFBlipVisionModel",
]

# Processors need Pillow and tokenizers, which models do without: they are imported when they are first used.
__getattr__, __dir__ = lazy_names(
    __name__, dict.fromkeys(["BlipImageProcessor", "BlipProcessor", "BlipTokenizer"], "blip_core")
)
