"""Where texts begin and how their tokens are counted, on whichever side the padding is.

Shapes: B texts, L tokens, W width. Masks are (B, L), 1 for tokens and 0 for padding. Without one, or with one for each
token (B, L, L), all tokens are real. Each function is the same for a text alone and in any batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def real_tokens(mask: Tensor | None) -> Tensor | None:
    """What a mask says of tokens, bool (B, L); None if all are real."""
    return None if mask is None or mask.ndim != 2 else mask.ne(0)


def first_tokens(real: Tensor) -> Tensor:
    """The places (B,) of the first token that is True in each row of (B, L); 0 where none is."""
    return real.long().cumsum(1).eq(0).sum(1) % real.shape[1]


def token_positions(mask: Tensor | None, length: int, device: torch.device) -> Tensor:
    """Positions (B, L) or (L,) that count the real tokens of each text; padding has its own place as its position."""
    places, real = torch.arange(length, device=device), real_tokens(mask)
    return places if real is None else torch.where(real, real.long().cumsum(1) - 1, places)


def first_states(states: Tensor, mask: Tensor | None) -> Tensor:
    """The states (B, W), of (B, L, W), of each text's first token."""
    real = real_tokens(mask)
    return states[:, 0] if real is None else states[torch.arange(states.shape[0]), first_tokens(real)]


def begin_with(token: int | None, input_ids: Tensor, mask: Tensor | None) -> Tensor:
    """Replace the first token of texts (B, L), unless `token` is None."""
    if token is None:
        return input_ids
    real, places = real_tokens(mask), torch.arange(input_ids.shape[1], device=input_ids.device)
    return input_ids.masked_fill(places == (0 if real is None else first_tokens(real)[:, None]), token)


def answer_mask(labels: Tensor) -> Tensor:
    """The mask of answers (B, L) that are given as labels alone, 0 for padding on the left.

    An answer begins at its first label that is not -100. Where each begins with -100, and the longest with just one, it
    stands in the place of `[DEC]`, as in the labels of the processor.
    """
    before = labels.ne(-100).cumsum(1).eq(0).sum(1)  # (B,) how often -100 comes first
    begin = before - before.min().eq(1).long()
    return torch.arange(labels.shape[1], device=labels.device) >= begin[:, None]
