"""BLIP as OpenVINO's notebooks run it: transformers' parts, converted by `openvino.convert_model`, and a plain loop.

The parts are the vision encoder, the text encoder and the text decoder with the keys and values of the tokens so far;
those of the picture are computed again in each step, as there. `convert` needs transformers and PyTorch, running does
not.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np

SEPARATOR, HEADS, WIDTH = 102, 12, 64


def convert(checkpoint: Path, folder: Path, head: str) -> None:
    """Convert the parts of a model of transformers and save them."""
    import openvino
    import torch
    import transformers

    torch.set_grad_enabled(False)
    model = getattr(transformers, head).from_pretrained(checkpoint, attn_implementation="eager").eval()
    folder.mkdir(exist_ok=True)
    vision, config = model.config.vision_config, model.config.text_config
    pixels = torch.zeros(1, 3, vision.image_size, vision.image_size)
    states, seen = torch.zeros(1, 5, config.hidden_size), torch.ones(1, 5, dtype=torch.long)
    ids, mask = torch.full((1, 3), 101), torch.ones(1, 3, dtype=torch.long)
    past = torch.zeros(1, config.num_attention_heads, 2, config.hidden_size // config.num_attention_heads)
    parts: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "vision": (_first(torch, model.vision_model, "pixel_values"), (pixels,)),
        "decoder": (
            _decoder(torch, model.text_decoder),
            (ids[:, :1], mask, states, seen, *[past] * (2 * config.num_hidden_layers)),
        ),
    }
    if hasattr(model, "text_encoder"):
        names = ("input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask")
        parts["encoder"] = (_first(torch, model.text_encoder, *names), (ids, mask, states, seen))
    for name, (module, example) in parts.items():
        graph = openvino.convert_model(module.eval(), example_input=example)
        openvino.save_model(graph, folder / f"{name}.xml", compress_to_fp16=False)


def _first(torch: Any, inner: Any, *names: str) -> Any:
    class First(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *given: Any) -> Any:
            named = {
                name: _additive(value) if "mask" in name else value for name, value in zip(names, given, strict=True)
            }
            return self.inner(**named, return_dict=False)[0]

    return First()


def _additive(mask: Any) -> Any:
    """A mask (B, S) as what is added to scores (B, 1, 1, S); transformers takes it as it is."""
    return (1.0 - mask[:, None, None].float()) * -1e9


def _decoder(torch: Any, inner: Any) -> Any:
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    named = "cache" if "cache" in inspect.signature(inner.forward).parameters else "past_key_values"

    class Past(DynamicCache):
        """Keys and values of earlier tokens, which new ones are put behind; none of a picture's."""

        def __init__(self, past: Any = ()):
            super().__init__()
            self.past, self.new = past, []

        def update(self, key: Any, value: Any, layer: int, *_: Any, **__: Any) -> Any:
            if not self.past:
                return key, value
            self.new += [torch.cat([self.past[2 * layer], key], 2), torch.cat([self.past[2 * layer + 1], value], 2)]
            return tuple(self.new[-2:])

        def get_seq_length(self, *_: Any) -> Any:
            return self.past[0].shape[2] if self.past else 0

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: Any, mask: Any, states: Any, seen: Any, *past: Any) -> Any:
            own = Past(past)
            logits = self.inner(
                input_ids=ids, attention_mask=_additive(mask), encoder_hidden_states=states,
                encoder_attention_mask=_additive(seen), use_cache=True, return_dict=True,
                **{named: EncoderDecoderCache(own, Past())},
            ).logits  # fmt: skip
            return logits[:, -1], *own.new

    return Decoder()


class Notebook:
    """The converted parts and the loop; `generate` and `vision` are called as ours are."""

    def __init__(self, folder: Path, threads: int):
        import openvino

        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32",
        }  # fmt: skip
        self.parts = {path.stem: core.compile_model(path, "CPU", settings) for path in folder.glob("*.xml")}

    def run(self, part: str, *given: Any) -> list[Any]:
        """Run a part; its outputs in order."""
        return list(self.parts[part](list(given)).values())

    def vision(self, pixel_values: np.ndarray) -> np.ndarray:
        """The embeddings of pictures."""
        return np.asarray(self.run("vision", pixel_values)[0])

    def generate(
        self, pixel_values: np.ndarray, input_ids: Any = None, attention_mask: Any = None, num_beams: int = 1,
        max_new_tokens: int = 20, **others: Any,
    ) -> np.ndarray:  # fmt: skip
        """Captions of pictures, or answers to questions about them, of exactly so many new tokens."""
        states = self.vision(pixel_values)
        seen = np.ones(states.shape[:2], np.int64)
        if input_ids is not None:
            states, seen = self.run("encoder", input_ids, attention_mask, states, seen)[0], attention_mask
        count = len(states)
        states, seen = states.repeat(num_beams, axis=0), np.repeat(seen, num_beams, axis=0)
        tokens = np.full((count * num_beams, 1), 30522)
        past = [np.zeros((len(tokens), HEADS, 0, WIDTH), np.float32)] * (len(self.parts["decoder"].inputs) - 4)
        scores = np.tile(np.r_[0.0, [-1e9] * (num_beams - 1)], count)
        for _ in range(max_new_tokens):
            mask = np.ones(tokens.shape, np.int64)
            logits, *past = self.run("decoder", tokens[:, -1:], mask, states, seen, *past)
            logits[:, SEPARATOR] = -np.inf
            if num_beams == 1:
                tokens = np.c_[tokens, logits.argmax(axis=1)]
                continue
            top = logits.max(axis=1, keepdims=True)
            log_probs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
            found = (scores[:, None] + log_probs).reshape(count, -1)
            best = np.argpartition(-found, num_beams, axis=1)[:, :num_beams]
            best = np.take_along_axis(best, np.argsort(-np.take_along_axis(found, best, 1), axis=1), 1)
            scores = np.take_along_axis(found, best, 1).ravel()
            rows = (best // logits.shape[1] + np.arange(count)[:, None] * num_beams).ravel()
            tokens = np.c_[tokens[rows], best.ravel() % logits.shape[1]]
            past = [each[rows] for each in past]
        return tokens[::num_beams]
