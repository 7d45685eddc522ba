"""Methods of every model that trainers and adapters call: counting weights, and gradient checkpointing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core.checks import check_checkpointing
from blip_core.generation.transition_scores import transition_scores
from blip_tf.nn import Embedding, dropout_seed, next_seed, to_array


class ModelMethods(keras.Model):
    """What `TFBlipPreTrainedModel` has beside loading and saving."""

    supports_gradient_checkpointing = True

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the weights, those of adapters included; tied ones once, queues of features not at all.

        Args:
            only_trainable: Count those alone that training changes.
            exclude_embeddings: Leave out the embeddings of words and of their positions.

        Returns:
            The number of single values.
        """
        left_out = {id(self.get_parameter(row.name)) for row in self.table() if "queue" in row.name}
        if exclude_embeddings:
            left_out |= {id(layer.weight) for layer in self._flatten_layers() if isinstance(layer, Embedding)}
        weights = self.trainable_weights if only_trainable else self.weights
        return sum(math.prod(weight.shape) for weight in weights if id(weight) not in left_out)

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
        return tf.convert_to_tensor(found)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether any part of the model recomputes its activations."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self._flatten_layers())

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute each layer's activations in the backward pass, not keep them: less memory, more time.

        Args:
            gradient_checkpointing_kwargs: None; the options are PyTorch's.
            every_n_layers: 1, every layer.
            offload: False.

        Raises:
            ValueError: If an option is unknown, or a value is one that is not offered here.
        """
        check_checkpointing(gradient_checkpointing_kwargs or {}, CHECKPOINTING, every_n_layers, offload)
        for module in self._flatten_layers():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Do what `gradient_checkpointing_enable` does; its name in transformers from 5.20 on."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Undo `gradient_checkpointing_enable`."""
        for module in self._flatten_layers():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = False


CHECKPOINTING = ()
"""Options of recomputing activations."""


def checkpointed(encoder: keras.layers.Layer, layer: keras.layers.Layer, x: Tensor, **options: Any) -> Any:
    """Call a layer, with gradient checkpointing where its encoder asks for it."""
    if not (encoder.gradient_checkpointing and options["training"]):
        return layer(x, **options)
    names = [name for name, value in options.items() if tf.is_tensor(value)]
    seed = next_seed()
    missing: list[int] = []

    @tf.recompute_grad
    def run(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        with dropout_seed(seed):
            outputs = layer(x, **{**options, **dict(zip(names, tensors, strict=True))})
        missing[:] = [index for index, output in enumerate(outputs) if output is None]
        return tuple(output for output in outputs if output is not None)

    outputs: list[Tensor | None] = list(run(x, *(options[name] for name in names)))
    for index in missing:
        outputs.insert(index, None)
    return tuple(outputs)
