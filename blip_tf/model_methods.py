"""Methods of every model that programs call beside loading and running it: embeddings, counts, checkpointing."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipConfig
from blip_core.checks import check_checkpointing, new_vocab_size
from blip_core.generation.transition_scores import transition_scores
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.initial_values import resized_rows
from blip_tf.nn import Embedding, TiedLinear, dropout_seed, next_seed, to_array


class ModelMethods(keras.Model):
    """What `TFBlipPreTrainedModel` has beside loading and saving."""

    config: Any
    embeddings: Any
    config_class: type[AnyConfig] = BlipConfig
    """The class of its configuration."""
    name_or_path = ""
    """Where `from_pretrained` loaded it from."""
    supports_gradient_checkpointing = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if row := HEADS.get(cls.__name__.removeprefix("TF")):
            cls.config_class = row.config

    @classmethod
    def _from_config(cls, config: AnyConfig) -> Any:
        """Make a model, as programs for transformers do."""
        return cls(copy.deepcopy(config))

    def _every_layer(self) -> list[Any]:
        """The layers, with those in layers."""
        return list(self._flatten_layers())

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
            left_out |= {id(layer.weight) for layer in self._every_layer() if isinstance(layer, Embedding)}
        weights = self.trainable_weights if only_trainable else self.weights
        return sum(math.prod(weight.shape) for weight in weights if id(weight) not in left_out)

    def get_input_embeddings(self) -> Any:
        """Return the embeddings of words, in a vision model those of patches and positions.

        Returns:
            The layer; of an encoder and a decoder the encoder's.
        """
        found = next(
            (layer.word_embeddings for layer in self._every_layer() if hasattr(layer, "word_embeddings")), None
        )
        return self.embeddings if found is None else found

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the layer that `get_input_embeddings` returns.

        Args:
            value: A layer of the same kind; a projection to the vocabulary that is tied has its weight from then on.
        """
        holder = next((layer for layer in self._every_layer() if hasattr(layer, "word_embeddings")), None)
        if holder is None:
            self.embeddings = value
        else:
            holder.word_embeddings = value
        self.tie_weights()

    def get_output_embeddings(self) -> Any:
        """Return the projection to the vocabulary, None where the model has none."""
        return next((layer.predictions.decoder for layer in self._every_layer() if hasattr(layer, "predictions")), None)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> Any:
        """Make the model know more words, or fewer, in all of its parts; tied weights stay so.

        Args:
            new_num_tokens: The new size of the vocabulary, such as `len(tokenizer)`; the old one unless given.
            pad_to_multiple_of: Round it up to a multiple.
            mean_resizing: New words begin as the mean of the old ones, else drawn as all weights are at first.

        Returns:
            The embeddings of words.

        Raises:
            ValueError: If a number is not whole and above 0.
        """
        layers = self._every_layer()
        tables = {
            id(layer.word_embeddings): layer.word_embeddings for layer in layers if hasattr(layer, "word_embeddings")
        }
        old = self.get_input_embeddings().weight.shape[0]
        count = new_vocab_size(new_num_tokens, pad_to_multiple_of, old)
        noise = np.random.default_rng(int(tf.random.uniform((), maxval=2**62, dtype=tf.int64)))
        scale = getattr(self.config, "initializer_range", 0.02)

        def resized(weight: keras.Variable) -> np.ndarray:
            return resized_rows(np.asarray(weight.value, np.float32), count, mean_resizing, scale, noise)

        heads = [layer.predictions for layer in layers if hasattr(layer, "predictions")]
        for head in heads:
            if isinstance(head.decoder, TiedLinear):
                head.decoder._untrack_variable(head.decoder.weight)
                head.decoder._untrack_variable(head.decoder.bias)
            else:
                columns = np.asarray(head.decoder.weight.value, np.float32)  # (width, words)
                rows = resized_rows(np.ascontiguousarray(columns.T), count, mean_resizing, scale, noise)
                replace_weight(head.decoder, "weight", rows.T)
            bias = np.asarray(head.bias.value, np.float32)
            replace_weight(head, "bias", np.pad(bias, (0, max(count - old, 0)))[:count])
        for table in tables.values():
            replace_weight(table, "weight", resized(table.weight))
        for part in layers:
            if isinstance(part, ModelMethods):
                getattr(part.config, "text_config", part.config).vocab_size = count
        self.tie_weights()
        for part in layers:
            if hasattr(part, "decoding_graphs"):  # they hold the weights that they were traced with
                part.decoding_graphs = type(part.decoding_graphs)(part)
        self.vocab_size = count
        return self.get_input_embeddings()

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Count the bytes of the weights.

        Args:
            return_buffers: Count what is stored beside them as well, such as queues.
        """
        queues = {id(self.get_parameter(row.name)) for row in self.table() if "queue" in row.name}
        weights = [weight for weight in self.weights if return_buffers or id(weight) not in queues]
        return sum(math.prod(weight.shape) * tf.as_dtype(weight.dtype).size for weight in weights)

    @classmethod
    def can_generate(cls) -> bool:
        """Say whether the model has `generate`."""
        return hasattr(cls, "generate")

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Any = None, attention_mask: Tensor | None = None, **others: Any
    ) -> dict[str, Any]:
        """Give the keywords of a call that continues texts; with `past_key_values` it reads their last token alone.

        Args:
            input_ids: Texts so far (B, L).
            past_key_values: Those of the last call.
            attention_mask: (B, L), 1 for tokens and 0 for padding.
            **others: Further keywords of the call.

        Returns:
            The keywords.
        """
        given = {"attention_mask": attention_mask, "past_key_values": past_key_values, **others}
        ids = input_ids if past_key_values is None else input_ids[:, -1:]
        return {"input_ids": ids, **{name: value for name, value in given.items() if value is not None}}

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
        return any(getattr(module, "gradient_checkpointing", False) for module in self._every_layer())

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
        for module in self._every_layer():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Do what `gradient_checkpointing_enable` does; its name in transformers from 5.20 on."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """Undo `gradient_checkpointing_enable`."""
        for module in self._every_layer():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = False


def replace_weight(layer: keras.layers.Layer, name: str, value: np.ndarray) -> None:
    """Give a layer a weight of another shape in place of its own."""
    old = getattr(layer, name)
    layer._tracker.unlock()
    layer._untrack_variable(old)
    weight = layer.add_weight(name=name, shape=value.shape, initializer="zeros", trainable=old.trainable)
    weight.assign(tf.cast(value, weight.dtype))
    setattr(layer, name, weight)


CHECKPOINTING = ()
"""Options of recomputing activations."""


def checkpointed(encoder: keras.layers.Layer, layer: keras.layers.Layer, x: Tensor, **options: Any) -> Any:
    """Call a layer, with gradient checkpointing where its encoder or the layer itself asks for it."""
    wanted = encoder.gradient_checkpointing or getattr(layer, "gradient_checkpointing", False)
    if not (wanted and options["training"]):
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
