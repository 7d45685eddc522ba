"""BLIP without a framework: configurations, processors, the weight table, checkpoints, generation, inference.

The names below are imported when they are first used, so that `import blip_core` and `blip --help` take no time.
"""

from typing import TYPE_CHECKING

from blip_core.lazy import lazy_names

if TYPE_CHECKING:
    from blip_core.config import BlipConfig, BlipTextConfig, BlipVisionConfig
    from blip_core.generation import GenerationConfig, GenerationOutput
    from blip_core.inference.answerer import Answerer
    from blip_core.inference.captioner import Captioner
    from blip_core.inference.classifier import Classifier
    from blip_core.inference.explainer import Explainer
    from blip_core.inference.labels import label_texts
    from blip_core.inference.matcher import Matcher
    from blip_core.outputs import (
        BlipFeaturesOutput,
        BlipForClassificationOutput,
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
    from blip_core.search.searcher import Searcher

__version__ = "0.2.0"
__all__ = [
    "Answerer",
    "BlipConfig",
    "BlipFeaturesOutput",
    "BlipForClassificationOutput",
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
    "Captioner",
    "Classifier",
    "Explainer",
    "GenerationConfig",
    "GenerationOutput",
    "Matcher",
    "ModelOutput",
    "Searcher",
    "bicubic_matrix",
    "label_texts",
]
# The module of each name; what is not listed is in `outputs`.
_MODULES = {
    "BlipConfig": "config",
    "BlipTextConfig": "config",
    "BlipVisionConfig": "config",
    "GenerationConfig": "generation",
    "GenerationOutput": "generation",
    "BlipImageProcessor": "processing.image_processor",
    "BlipProcessor": "processing.processor",
    "BlipTokenizer": "processing.tokenizer",
    "bicubic_matrix": "parameters.position_embeddings",
    "label_texts": "inference.labels",
    "Answerer": "inference.answerer",
    "Captioner": "inference.captioner",
    "Classifier": "inference.classifier",
    "Explainer": "inference.explainer",
    "Matcher": "inference.matcher",
    "Searcher": "search.searcher",
}

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{_MODULES.get(name, 'outputs')}" for name in __all__})
