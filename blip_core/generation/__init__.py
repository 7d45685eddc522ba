"""Generation search on NumPy logits, the same for every framework: greedy, beam search, sampling, beam sampling."""

from blip_core.generation.config import GenerationConfig
from blip_core.generation.decoding import DecodingSession, GenerationOutput, generate

__all__ = ["DecodingSession", "GenerationConfig", "GenerationOutput", "generate"]
