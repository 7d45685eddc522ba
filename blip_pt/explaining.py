"""Which part of a picture each token of a text goes by: cross-attention, and Grad-CAM on it.

Shapes: B texts, L tokens, H heads, T image tokens (the class token first).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from blip_pt.nn import wide

Reader = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""From image embeddings (B or 1, T, width) to a score of each text (B,) and the cross-attention of each layer."""


def attention_maps(
    read: Reader, embeds: Tensor, real: Tensor | None, layer: int, method: str, grid: Sequence[int]
) -> Tensor:
    """Maps float32 (B, L, rows, columns) of what the tokens attend to in a layer, the mean over its heads.

    With `method="gradcam"` each probability of attention is weighted by the gradient of the text's score with respect
    to it, or by 0 where that is negative. `real` (B, L) is 1 for the tokens that have a map; the others' are 0.
    Source: Grad-CAM (arXiv 1610.02391) on cross-attention, as ALBEF and LAVIS compute it.
    """
    gradcam = method == "gradcam"
    with torch.inference_mode(False), torch.set_grad_enabled(gradcam):
        score, attentions = read(embeds.clone().requires_grad_(gradcam))
        maps = wide(attentions[layer])  # (B, H, L, T)
        if gradcam:
            (gradient,) = torch.autograd.grad(score.sum(), attentions[layer])
            maps = maps.detach() * wide(gradient).clamp(min=0)
    maps = maps[..., 1:].mean(dim=1)  # (B, L, patches)
    if real is not None:
        maps = maps * real[..., None]
    return torch.unflatten(maps, -1, tuple(grid)).float()
