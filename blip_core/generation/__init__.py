"""Generation search on NumPy logits, the same for every framework: greedy, beam search, sampling, beam sampling."""

from blip_core.generation.batch import DecodingSession, GenerationOutput, generate
from blip_core.generation.options import GenerationConfig

__all__ = ["DecodingSession", "GenerationConfig", "GenerationOutput", "generate"]
