"""What BLIP is, without a framework: configurations, processors, the weight table, checkpoints, generation."""

from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
from blip_core.generation import GenerationConfig, GenerationOutput
from blip_core.inference.labels import label_texts
from blip_core.outputs import (
    BlipFeaturesOutput,
    BlipForConditionalGenerationOutput,
    BlipForImageTextRetrievalOutput,
    BlipForNLVROutput,
    BlipForPreTrainingOutput,
    BlipForQuestionAnsweringOutput,
    BlipOutput,
    BlipRankedAnswersOutput,
    BlipTextLMOutput,
    BlipTextOutput,
    BlipTextScoresOutput,
    BlipVisionOutput,
    ModelOutput,
)
from blip_core.parameters.position_embeddings import bicubic_matrix
from blip_core.processing.image_processor import BlipImageProcessor
from blip_core.processing.processor import BlipProcessor
from blip_core.processing.tokenizer import BlipTokenizer

__version__ = "0.1.0"
__all__ = [
    "BlipConfig",
    "BlipFeaturesOutput",
    "BlipForConditionalGenerationOutput",
    "BlipForImageTextRetrievalOutput",
    "BlipForNLVROutput",
    "BlipForPreTrainingOutput",
    "BlipForQuestionAnsweringOutput",
    "BlipImageProcessor",
    "BlipOutput",
    "BlipProcessor",
    "BlipRankedAnswersOutput",
    "BlipTextConfig",
    "BlipTextLMOutput",
    "BlipTextOutput",
    "BlipTextScoresOutput",
    "BlipTokenizer",
    "BlipVisionConfig",
    "BlipVisionOutput",
    "GenerationConfig",
    "GenerationOutput",
    "ModelOutput",
    "bicubic_matrix",
    "label_texts",
]
