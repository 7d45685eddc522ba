"""What the models share that write texts: the new text of each row of their output, and how sure they are of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from blip_core.generation import GenerationConfig
from blip_core.generation.generation_hooks import Hooks
from blip_core.inference.loaded_model import LoadedModel


class Written(TypedDict):
    """The fields of a `GeneratedText`."""

    text: str
    confidence: float
    log_prob: float
    tokens: list[str]
    token_log_probs: list[float]


class TextWriter(LoadedModel):
    """A model that generates texts."""

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse keywords of `generate` that cannot work, before a picture is read."""
        config = GenerationConfig.of(options.get("generation_config"), self.model.generation_config)
        names = {name: value for name, value in options.items() if name not in ("generation_config", "seed", "stream")}
        config.updated(**{"num_return_sequences": 1, **Hooks.taken_from(names)[1]})

    def _generate(self, inputs: dict[str, np.ndarray], whole: bool = False, **options: Any) -> list[Written]:
        """Generate texts and return what each row says: the new text, or the `whole` with its prompt, and scores."""
        fixed = {"num_return_sequences": 1, **options, "return_dict_in_generate": True}
        output = self._call(self.model.generate, inputs, **fixed)
        sequences, log_probs = map(self.engine.to_numpy, (output.sequences, output.token_log_probs))
        new = sequences[:, sequences.shape[1] - log_probs.shape[1] :]  # all rows have prompts of the same length
        decoded = self.processor.batch_decode(sequences if whole else new, skip_special_tokens=True)
        found: list[Written] = []
        for text, ids, row in zip(decoded, new, log_probs, strict=True):
            real = ~np.isnan(row)
            found.append({
                "text": text.strip(),
                "confidence": float(np.exp(row[real].mean())),
                "log_prob": float(row[real].sum()),
                "tokens": self.processor.tokenizer.convert_ids_to_tokens(ids[real].tolist()),
                "token_log_probs": row[real].tolist(),
            })  # fmt: skip
        return found
