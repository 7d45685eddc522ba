"""Methods of every model that trainers and adapters call: counting weights, and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blip_core.checks import check_checkpointing
from blip_core.generation.transition_scores import transition_scores
from blip_pt.nn import QuantizedLinear, to_array


class ModelMethods(nn.Module):
    """What `BlipPreTrainedModel` has beside loading and saving."""

    supports_gradient_checkpointing = True

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the weights, those of adapters included; tied ones once, queues of features not at all.

        Args:
            only_trainable: Count those alone that training changes.
            exclude_embeddings: Leave out the embeddings of words and of their positions.

        Returns:
            The number of single values.
        """
        tables = [layer.weight for layer in self.modules() if isinstance(layer, nn.Embedding)]
        left_out = {id(weight) for weight in tables} if exclude_embeddings else set()
        weights = [weight for weight in self.parameters() if weight.requires_grad or not only_trainable]
        count = sum(weight.numel() for weight in weights if id(weight) not in left_out)
        rounded = [layer.weight_int8 for layer in self.modules() if isinstance(layer, QuantizedLinear)]
        return count + (0 if only_trainable else sum(weight.numel() for weight in rounded))

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """Give the score by which each new token of `generate` was chosen, see `transition_scores` of `blip_core`.

        Args:
            sequences, scores, beam_indices: Those of a `GenerationOutput`; its `logits` do as `scores`, too.
            normalize_logits: Make log-probabilities of the scores.

        Returns:
            float32 (texts, new tokens); 0 after the end.
        """
        beams = None if beam_indices is None else to_array(beam_indices)
        tables = [to_array(step) for step in scores]
        found = transition_scores(to_array(sequences), tables, beams, normalize_logits)
        return torch.from_numpy(found).to(sequences.device)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether any part of the model recomputes its activations."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute each layer's activations in the backward pass, not keep them: less memory, more time.

        Args:
            gradient_checkpointing_kwargs: Options of `torch.utils.checkpoint.checkpoint`; `use_reentrant` is False
                unless given.
            every_n_layers: 1, every layer.
            offload: False.

        Raises:
            ValueError: If an option is unknown, or a value is one that is not offered here.
        """
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        check_checkpointing(options, CHECKPOINTING, every_n_layers, offload)
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                cast(Any, module).gradient_checkpointing = True
                cast(Any, module).checkpointing_options = options

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Do what `gradient_checkpointing_enable` does; its name in transformers from 5.20 on."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Undo `gradient_checkpointing_enable`."""
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                cast(Any, module).gradient_checkpointing = False


CHECKPOINTING = ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "context_fn")
"""Options of `torch.utils.checkpoint.checkpoint`."""


def checkpointed(encoder: nn.Module, layer: nn.Module, *args: Any) -> Any:
    """Call a layer, with gradient checkpointing where its encoder asks for it."""
    if encoder.gradient_checkpointing and encoder.training and torch.is_grad_enabled():
        options = getattr(encoder, "checkpointing_options", {"use_reentrant": False})
        return checkpoint(layer, *args, **options)
    return layer(*args)
