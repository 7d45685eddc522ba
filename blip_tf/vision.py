"""The vision transformer (ViT) that turns pictures into image embeddings.

Shapes: B pictures, N patches, T = N + 1 tokens (the class token first), W width, H heads, D = W / H.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import keras
import tensorflow as tf
from tensorflow import Tensor

from blip_core import BlipVisionConfig, BlipVisionOutput, bicubic_matrix
from blip_core.calls import called_as_in_transformers
from blip_core.checks import check_pixel_values
from blip_tf.base import TFBlipPreTrainedModel, type_name
from blip_tf.model_methods import checkpointed
from blip_tf.nn import (
    ACTIVATIONS,
    Layer,
    LayerNorm,
    Linear,
    PatchEmbedding,
    activated,
    attention,
    drop_path,
    merge_heads,
    split_heads,
)


class VisionEmbeddings(Layer):
    """Pictures -> embeddings of the class token and of the patches, with position embeddings added."""

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.config = config
        shapes = (1, 1, config.hidden_size), (1, config.num_positions, config.hidden_size)
        self.class_embedding = self.add_weight(name="class_embedding", shape=shapes[0], initializer="zeros")
        self.position_embedding = self.add_weight(name="position_embedding", shape=shapes[1], initializer="zeros")
        self.patch_embedding = PatchEmbedding(config.num_channels, config.hidden_size, config.patch_size)

    def positions(self, height: int | None, width: int | None) -> Tensor:
        """Position embeddings (1, T, W) for pictures of any size, in pixels: the grid is resized bicubically."""
        side, patch = self.config.image_size // self.config.patch_size, self.config.patch_size
        positions = tf.convert_to_tensor(self.position_embedding)
        if height is None or width is None or (height // patch, width // patch) == (side, side):
            return positions
        rows, columns = (tf.cast(bicubic_matrix(side, size // patch), positions.dtype) for size in (height, width))
        grid = tf.reshape(positions[0, 1:], (side, side, -1))  # (side, side, W)
        grid = tf.einsum("ij,kl,jlw->ikw", rows, columns, grid)
        return tf.concat([positions[:, :1], tf.reshape(grid, (1, -1, grid.shape[-1]))], axis=1)  # (1, T, W)

    def call(self, pixel_values: Tensor) -> Tensor:
        patches = self.patch_embedding(pixel_values)  # (B, N, W)
        first = tf.repeat(tf.convert_to_tensor(self.class_embedding), tf.shape(patches)[0], axis=0)
        return tf.concat([first, patches], axis=1) + self.positions(*pixel_values.shape[2:])  # (B, T, W)


class VisionAttention(Layer):
    """Self-attention with one matrix product for queries, keys and values."""

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = Linear(config.hidden_size, config.hidden_size)

    def call(self, x: Tensor, output_attentions: bool = False, training: bool = False) -> tuple[Tensor, Tensor | None]:
        parts = tf.split(self.qkv(x), 3, axis=-1)
        query, key, value = (split_heads(part, self.heads) for part in parts)  # (B, H, T, D)
        dropout = self.dropout if training else 0.0
        context, probabilities = attention(query, key, value, None, dropout, output_attentions)
        return self.projection(merge_heads(context)), probabilities  # (B, T, W)


class VisionMLP(Layer):
    """The feed-forward network of a layer."""

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def call(self, x: Tensor) -> Tensor:
        return self.fc2(activated(self.fc1, x, self.activation))


class VisionLayer(Layer):
    """A pre-norm transformer layer."""

    def __init__(self, config: BlipVisionConfig, layer: int):
        super().__init__()
        self.gradient_checkpointing = False
        self.drop_path = config.drop_path_rate * layer / max(config.num_hidden_layers - 1, 1)
        self.layer_norm1 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def call(self, x: Tensor, output_attentions: bool = False, training: bool = False) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.self_attn(
            self.layer_norm1(x), output_attentions=output_attentions, training=training
        )
        x = x + drop_path(attended, self.drop_path, training)
        return x + drop_path(self.mlp(self.layer_norm2(x)), self.drop_path, training), probabilities  # (B, T, W)


class VisionEncoder(Layer):
    """The stack of transformer layers."""

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.gradient_checkpointing = False
        self.layers = [VisionLayer(config, layer) for layer in range(config.num_hidden_layers)]

    def checkpoint_last(self, count: int) -> None:
        """Recompute the activations of the last `count` layers in the backward pass: the original's `ckpt_layer`."""
        for layer in self.layers[-count:]:
            assert isinstance(layer, VisionLayer)
            layer.gradient_checkpointing = True

    def call(
        self, x: Tensor, output_hidden_states: bool = False, output_attentions: bool = False, training: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        hidden_states, attentions = [x], []
        for layer in self.layers:
            x, probabilities = checkpointed(self, layer, x, output_attentions=output_attentions, training=training)
            if output_hidden_states:
                hidden_states.append(x)
            attentions.append(probabilities)
        return (
            x,
            tuple(hidden_states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )


@keras.saving.register_keras_serializable("blip")
class TFBlipVisionModel(TFBlipPreTrainedModel):
    """Pictures -> image embeddings. Source: the ViT of the original, with a LayerNorm after the last layer."""

    config: BlipVisionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: BlipVisionConfig, *, initialize: bool = True):
        super().__init__(config)
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if initialize:
            self.initialize()

    @cached_property
    def encoding_graph(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Pictures of the configured size -> embeddings (B, T, W) and the pooled ones (B, W), for all batches.

        It is compiled when first used; replace layers, by adapters for example, before that.
        """
        config = self.config
        pictures = tf.TensorSpec((None, config.num_channels, config.image_size, config.image_size), self.compute_dtype)

        def encode(pixel_values: Tensor) -> tuple[Tensor, Tensor]:
            output = self(pixel_values)
            return output.last_hidden_state, output.pooler_output

        return tf.function(encode, input_signature=[pictures], autograph=False)

    @called_as_in_transformers
    def call(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool = False,
    ) -> BlipVisionOutput:
        """Encode pictures.

        Args:
            pixel_values: Pictures (B, channels, height, width), float, normalised by `BlipImageProcessor`.
            interpolate_pos_encoding: Accept pictures of another size than `config.image_size`.
            output_hidden_states, output_attentions: Return these of all layers as well.
            training: Use dropout and stochastic depth, as `fit` does.

        Returns:
            `last_hidden_state` (B, T, W) and `pooler_output` (B, W), a second LayerNorm of the class token.

        Raises:
            ValueError: If the shape, the size or the type is wrong.
        """
        check_pixel_values(pixel_values.shape, type_name(pixel_values), self.config, interpolate_pos_encoding)
        pixel_values = tf.cast(pixel_values, self.compute_dtype)
        more = interpolate_pos_encoding or output_hidden_states or output_attentions or training
        if tf.executing_eagerly() and not more and not tf.config.functions_run_eagerly():
            states, pooled = self.encoding_graph(pixel_values)  # takes three quarters of the time
            return BlipVisionOutput(last_hidden_state=states, pooler_output=pooled)
        x, hidden_states, attentions = self.encoder(
            self.embeddings(pixel_values),  # (B, T, W)
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            training=training,
        )
        x = self.post_layernorm(x)
        return BlipVisionOutput(
            last_hidden_state=x,
            pooler_output=self.post_layernorm(x[:, 0]),
            hidden_states=hidden_states,
            attentions=attentions,
        )
