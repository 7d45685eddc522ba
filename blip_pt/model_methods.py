"""Methods of every model that programs call beside loading and running it: embeddings, counts, checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from blip_core import BlipConfig
from blip_core.checks import check_checkpointing, new_vocab_size
from blip_core.generation.transition_scores import transition_scores
from blip_core.parameters.heads import HEADS, AnyConfig
from blip_core.parameters.initial_values import resized_rows
from blip_core.validators import choice
from blip_pt.nn import QuantizedLinear, to_array
from blip_pt.optimizing import PackedLinear


class ModelMethods(nn.Module):
    """What `BlipPreTrainedModel` has beside loading and saving."""

    config: Any
    embeddings: Any
    tie_weights: Any
    config_class: type[AnyConfig] = BlipConfig
    """The class of its configuration."""
    name_or_path = ""
    """Where `from_pretrained` loaded it from."""
    input_hook: Any = None
    supports_gradient_checkpointing = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if row := HEADS.get(cls.__name__.removeprefix("TF")):
            cls.config_class = row.config

    @classmethod
    def _from_config(cls, config: AnyConfig, dtype: Any = None, attn_implementation: str | None = None) -> Any:
        """Make a model, as programs for transformers do where they choose its type or attention."""
        model: Any = cls(copy.deepcopy(config))
        if attn_implementation is not None:
            model.set_attn_implementation(attn_implementation)
        return model if dtype is None else model.to(dtype)

    def _every_layer(self) -> list[Any]:
        """The modules, with those in modules."""
        return list(self.modules())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the weights, those of adapters included; tied ones once, queues of features not at all.

        Args:
            only_trainable: Count those alone that training changes.
            exclude_embeddings: Leave out the embeddings of words and of their positions.

        Returns:
            The number of single values.
        """
        tables = [layer.weight for layer in self._every_layer() if isinstance(layer, nn.Embedding)]
        left_out = {id(weight) for weight in tables} if exclude_embeddings else set()
        weights = [weight for weight in self.parameters() if weight.requires_grad or not only_trainable]
        count = sum(weight.numel() for weight in weights if id(weight) not in left_out)
        rounded = [layer.weight_int8 for layer in self._every_layer() if isinstance(layer, QuantizedLinear)]
        packed = [layer.packed for layer in self._every_layer() if isinstance(layer, PackedLinear)]
        return count + (0 if only_trainable else sum(weight.numel() for weight in (*rounded, *packed)))

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

    @torch.no_grad()
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
        tables = {
            id(layer.word_embeddings): layer.word_embeddings
            for layer in self._every_layer()
            if hasattr(layer, "word_embeddings")
        }
        old = self.get_input_embeddings().weight.shape[0]
        count = new_vocab_size(new_num_tokens, pad_to_multiple_of, old)
        noise = np.random.default_rng(int(torch.randint(2**62, (), device="cpu")))
        scale = getattr(self.config, "initializer_range", 0.02)

        def resized(weight: Tensor) -> Tensor:
            rows = resized_rows(weight.float().cpu().numpy(), count, mean_resizing, scale, noise)
            return torch.from_numpy(rows).to(weight)

        heads = [layer.predictions for layer in self._every_layer() if hasattr(layer, "predictions")]
        own = [head.decoder for head in heads if all(head.decoder.weight is not t.weight for t in tables.values())]
        for table in (*tables.values(), *own):
            table.weight.data = resized(table.weight)
        for table in tables.values():
            table.num_embeddings = count
        for head in heads:
            head.bias.data = F.pad(head.bias, (0, max(count - old, 0)))[:count].clone()
            head.decoder.out_features = count
        for part in self._every_layer():
            if isinstance(part, ModelMethods):
                getattr(part.config, "text_config", part.config).vocab_size = count
        self.tie_weights()
        self.vocab_size = count
        return self.get_input_embeddings()

    def enable_input_require_grads(self) -> None:
        """Let the embeddings of words require gradients, as adapters with gradient checkpointing need it."""
        self.disable_input_require_grads()
        hook = self.get_input_embeddings().register_forward_hook(lambda *given: given[-1].requires_grad_(True))
        self.input_hook = hook

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        if self.input_hook is not None:
            self.input_hook.remove()
        self.input_hook = None

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Count the bytes of the weights.

        Args:
            return_buffers: Count what is stored beside them as well, such as queues.
        """
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        packed = [layer.packed for layer in self._every_layer() if isinstance(layer, PackedLinear)]
        return sum(tensor.numel() * tensor.dtype.itemsize for tensor in (*tensors, *packed))

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

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Choose how attention is computed; the numbers differ by rounding.

        Args:
            attn_implementation: "sdpa", PyTorch's fused attention, or "eager", one operation after the other.

        Raises:
            ValueError: For any other.
        """
        choice("attn_implementation", attn_implementation, ("sdpa", "eager"))
        for module in self._every_layer():
            if hasattr(module, "eager"):
                module.eager = attn_implementation == "eager"
            if isinstance(module, ModelMethods):
                module.config._attn_implementation = attn_implementation

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
        return any(getattr(module, "gradient_checkpointing", False) for module in self._every_layer())

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
        for module in self._every_layer():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True
                module.checkpointing_options = options

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


CHECKPOINTING = ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "context_fn")
"""Options of `torch.utils.checkpoint.checkpoint`."""


def checkpointed(encoder: nn.Module, layer: nn.Module, *args: Any) -> Any:
    """Call a layer, with gradient checkpointing where its encoder or the layer itself asks for it."""
    wanted = encoder.gradient_checkpointing or getattr(layer, "gradient_checkpointing", False)
    if wanted and encoder.training and torch.is_grad_enabled():
        options = getattr(encoder, "checkpointing_options", {"use_reentrant": False})
        return checkpoint(layer, *args, **options)
    return layer(*args)
