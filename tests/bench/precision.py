"""What half precision and int8 change: image embeddings, tokens and matching scores at base size, against float32.

    python -m tests.bench.precision

Random weights, the photographs and texts of `speed.py`. Differences are the greatest absolute one over the greatest
absolute value. Random weights make tokens nearly as likely as each other: trained ones keep more of theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import blip_pt
from tests.bench.speed_data import CACHE, HEADS, prepare

WAYS = ("float32", "bfloat16", "int8")


def load(name: str, way: str) -> Any:
    """A model in one of the precisions."""
    kind = getattr(blip_pt, HEADS[name])
    if way == "int8":
        return kind.from_pretrained(CACHE / name).quantize()
    return kind.from_pretrained(CACHE / name, dtype=way)


def results(way: str) -> dict[str, np.ndarray]:
    """Embeddings, tokens of captions and their log-probabilities, and matching probabilities."""
    given = {name: torch.from_numpy(array) for name, array in np.load(CACHE / "inputs.npz").items()}
    captioner = load("captioner", way)
    with torch.inference_mode():
        embeds = captioner.vision_model(given["pixel_values"]).last_hidden_state
        captions = captioner.generate(
            image_embeds=embeds, min_new_tokens=20, max_new_tokens=20, return_dict_in_generate=True
        )
        logits = captioner(image_embeds=embeds, input_ids=FIXED[None].expand(len(embeds), -1)).logits
        matcher = load("matcher", way)
        texts = {"input_ids": given["text_ids"], "attention_mask": given["text_mask"]}
        scores = matcher(given["pixel_values"][:1], **texts).itm_score.softmax(-1)[:, 1]
    found = {"embeddings": embeds, "tokens": captions.sequences, "log_probs": logits.log_softmax(-1), "itm": scores}
    return {name: value.float().numpy() for name, value in found.items()}


FIXED = torch.tensor([30522, 1037, 2417, 2452, 2006, 1996, 2795, 2503, 2019, 2214, 4950])


def main() -> None:
    prepare()
    expected = results("float32")
    for way in WAYS[1:]:
        found = results(way)
        embeddings = np.abs(expected["embeddings"] - found["embeddings"]).max() / np.abs(expected["embeddings"]).max()
        same = (expected["tokens"] == found["tokens"])[:, 1:]
        likeliest = (expected["log_probs"].argmax(-1) == found["log_probs"].argmax(-1)).mean()
        log_probs = np.abs(expected["log_probs"] - found["log_probs"]).max()
        itm = np.abs(expected["itm"] - found["itm"]).max()
        order = np.corrcoef(expected["itm"], found["itm"])[0, 1]
        print(
            f"{way}: embeddings differ by {embeddings:.1e}; of a caption's tokens {same.mean():.0%} are the same, of "
            f"the likeliest tokens after the same text {likeliest:.0%}, log-probabilities differ by up to "
            f"{log_probs:.2f}; matching probabilities differ by up to {itm:.3f}, correlation {order:.4f}"
        )


if __name__ == "__main__":
    main()
