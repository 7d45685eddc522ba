"""What half precision and int8 change, against float32, in PyTorch.

    python -m tests.bench.precisions

First the shipped model, with the 96 drawings of `tests/data/emoji`: its captions, answers, and matching of each drawing
with each name. Then base size, with the photographs and texts of `speed.py`, and random weights, which make tokens
nearly as likely as each other: trained ones keep more of theirs. Differences are the greatest absolute one over the
greatest absolute value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

import blip_pt
from blip_core import BlipProcessor
from blip_core.datasets import clean_caption
from tests.bench.speed_data import CACHE, HEADS, ROOT, prepare

WAYS = ("float32", "bfloat16", "int8")
EMOJI = ROOT / "tests" / "data" / "emoji"
QUESTIONS = ("what is it?", "what group is it of?", "what color is it mostly?")
FIXED = torch.tensor([30522, 1037, 2417, 2452, 2006, 1996, 2795, 2503, 2019, 2214, 4950])


def load(head: str, way: str, name: Any = None) -> Any:
    """A model in one of the precisions."""
    kind = getattr(blip_pt, head)
    if way == "int8":
        return kind.from_pretrained(name, dtype="float32").quantize()
    return kind.from_pretrained(name, dtype=way)


def shipped(way: str) -> dict[str, np.ndarray]:
    """The shipped model's captions, answers and matching probabilities."""
    names = [clean_caption(entry["name"]) for entry in json.loads((EMOJI / "names.json").read_text()).values()]
    drawn = [Image.open(EMOJI / file).convert("RGBA") for file in json.loads((EMOJI / "names.json").read_text())]
    pictures = [Image.alpha_composite(Image.new("RGBA", d.size, "white"), d).convert("RGB") for d in drawn]
    processor = BlipProcessor.from_pretrained()
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    texts = processor(text=names, return_tensors="pt")
    answerer, matcher = (load(head, way) for head in ("BlipForQuestionAnswering", "BlipForImageTextRetrieval"))
    found: dict[str, Any] = {"captions": words(processor, load("BlipForConditionalGeneration", way).generate(pixels))}
    with torch.inference_mode():
        embeds = matcher.vision_model(pixels).last_hidden_state
        scores = [matcher(image_embeds=one[None], **texts).itm_score.softmax(-1)[:, 1] for one in embeds]
        found["scores"] = torch.stack(scores).float().numpy()
    asked = [processor(text=[question] * len(pixels), return_tensors="pt") for question in QUESTIONS]
    found["answers"] = np.concatenate([words(processor, answerer.generate(pixels, **one)) for one in asked])
    return found | {"truth": np.array(names)}


def words(processor: BlipProcessor, tokens: torch.Tensor) -> np.ndarray:
    return np.array([text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)])


def base(way: str) -> dict[str, np.ndarray]:
    """Embeddings, tokens of captions and their log-probabilities, and matching probabilities at base size."""
    given = {name: torch.from_numpy(array) for name, array in np.load(CACHE / "inputs.npz").items()}
    captioner, matcher = (load(HEADS[name], way, CACHE / name) for name in ("captioner", "matcher"))
    with torch.inference_mode():
        embeds = captioner.vision_model(given["pixel_values"]).last_hidden_state
        captions = captioner.generate(image_embeds=embeds, min_new_tokens=20, max_new_tokens=20)
        logits = captioner(image_embeds=embeds, input_ids=FIXED[None].expand(len(embeds), -1)).logits
        texts = {"input_ids": given["text_ids"], "attention_mask": given["text_mask"]}
        scores = matcher(given["pixel_values"][:1], **texts).itm_score.softmax(-1)[:, 1]
    found = {"embeddings": embeds, "tokens": captions, "log_probs": logits.log_softmax(-1), "scores": scores}
    return {name: value.float().numpy() for name, value in found.items()}


def say_shipped(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> str:
    best = np.mean(found["scores"].argmax(1) == np.arange(len(found["scores"])))
    return (
        f"of 96 captions {np.mean(expected['captions'] == found['captions']):.1%} are the same and "
        f"{np.mean(found['captions'] == found['truth']):.1%} right, of 288 answers "
        f"{np.mean(expected['answers'] == found['answers']):.1%} are the same; matching probabilities differ by up to "
        f"{np.abs(expected['scores'] - found['scores']).max():.3f}, on average by "
        f"{np.abs(expected['scores'] - found['scores']).mean():.1e}; the best of 96 names is right for {best:.1%}"
    )


def say_base(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> str:
    embeddings = np.abs(expected["embeddings"] - found["embeddings"]).max() / np.abs(expected["embeddings"]).max()
    likeliest = (expected["log_probs"].argmax(-1) == found["log_probs"].argmax(-1)).mean()
    return (
        f"embeddings differ by {embeddings:.1e}; of a caption's tokens "
        f"{(expected['tokens'] == found['tokens'])[:, 1:].mean():.0%} are the same, of the likeliest tokens after the "
        f"same text {likeliest:.0%}, log-probabilities differ by up to "
        f"{np.abs(expected['log_probs'] - found['log_probs']).max():.2f}; matching probabilities differ by up to "
        f"{np.abs(expected['scores'] - found['scores']).max():.3f}, "
        f"correlation {np.corrcoef(expected['scores'], found['scores'])[0, 1]:.4f}"
    )


Say = Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], str]


def main() -> None:
    prepare()
    parts: tuple[tuple[str, Callable[[str], dict[str, np.ndarray]], Say], ...] = (
        ("shipped model", shipped, say_shipped),
        ("base size", base, say_base),
    )
    for name, results, say in parts:
        expected = results(WAYS[0])
        for way in WAYS:
            print(f"{name}, {way}: {say(expected, results(way))}", flush=True)


if __name__ == "__main__":
    main()
