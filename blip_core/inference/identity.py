"""Hashes of models: what results depend on, so that stored results are compared only with their like."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol

from blip_core.engines import engine_of
from blip_core.parameters.heads import head_of
from blip_core.processing.processor import BlipProcessor


class Digest(Protocol):
    """A hash of `hashlib` that is being made."""

    def update(self, data: Any, /) -> None: ...


def identity(model: Any, processor: BlipProcessor) -> str:
    """What a model's results depend on, as a hash of its weights and settings and of those of its processor.

    It is 32 hexadecimal digits, the same in every engine.
    """
    settings = [model.config.to_dict(), processor.image_processor.to_dict(), processor.tokenizer.get_vocab()]
    if head_of(model).generates:
        settings.append(model.generation_config.to_dict())
    text = json.dumps(settings, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    hash_weights(digest, model)
    return digest.hexdigest()


def hash_weights(digest: Digest, model: Any, beginnings: tuple[str, ...] = ("",)) -> None:
    """Add to a hash the names and values of a model's weights whose names begin so; the same in every engine."""
    for name, array in engine_of(model).weights(model, beginnings):
        digest.update(name.encode())
        digest.update(array.data)
