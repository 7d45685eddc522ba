"""The vision transformer (ViT) that turns pictures into image embeddings.

Shapes: B pictures, N patches, T = N + 1 tokens (the class token first), W width, H heads, D = W / H.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from blip_core import BlipVisionConfig, BlipVisionOutput, bicubic_matrix
from blip_core.calls import called_as_in_transformers
from blip_core.checks import check_pixel_values
from blip_pt.base import BlipPreTrainedModel, type_name
from blip_pt.model_methods import checkpointed
from blip_pt.nn import (
    ACTIVATIONS,
    LayerNorm,
    Linear,
    PatchEmbedding,
    activated,
    attention,
    drop_path,
    merge_heads,
    split_heads,
)


class VisionEmbeddings(nn.Module):
    """Pictures -> embeddings of the class token and of the patches, with position embeddings added."""

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.config = config
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, config.num_positions, config.hidden_size))
        patch = config.patch_size
        self.patch_embedding = PatchEmbedding(config.num_channels, config.hidden_size, kernel_size=patch, stride=patch)

    def positions(self, height: int, width: int) -> Tensor:
        """Position embeddings (1, T, W) for pictures of any size, in pixels: the grid is resized bicubically."""
        side, patch = self.config.image_size // self.config.patch_size, self.config.patch_size
        if (height // patch, width // patch) == (side, side):
            return self.position_embedding
        rows, columns = (torch.from_numpy(bicubic_matrix(side, size // patch)) for size in (height, width))
        grid = torch.unflatten(self.position_embedding[0, 1:], 0, (side, side))  # (side, side, W)
        grid = torch.einsum("ij,kl,jlw->ikw", rows.to(grid), columns.to(grid), grid)
        return torch.cat([self.position_embedding[:, :1], grid.flatten(0, 1)[None]], dim=1)  # (1, T, W)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = (
            self.patch_embedding(pixel_values.to(self.class_embedding.dtype)).flatten(2).transpose(1, 2)
        )  # (B, N, W)
        x = torch.cat([self.class_embedding.expand(patches.shape[0], -1, -1), patches], dim=1)  # (B, T, W)
        return x + self.positions(*pixel_values.shape[2:])


class VisionAttention(nn.Module):
    """Self-attention with one matrix product for queries, keys and values."""

    eager = False  # whether attention is computed as where its probabilities are wanted

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))  # (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        context, probabilities = attention(query, key, value, None, dropout, output_attentions or self.eager)
        return self.projection(merge_heads(context)), probabilities  # (B, T, W)


class VisionMLP(nn.Module):
    """The feed-forward network of a layer."""

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(activated(self.fc1, x, self.activation))


class VisionLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: BlipVisionConfig, layer: int):
        super().__init__()
        self.gradient_checkpointing = False
        self.drop_path = config.drop_path_rate * layer / max(config.num_hidden_layers - 1, 1)
        self.layer_norm1 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.self_attn(self.layer_norm1(x), output_attentions)
        x = x + drop_path(attended, self.drop_path, self.training)
        return x + drop_path(self.mlp(self.layer_norm2(x)), self.drop_path, self.training), probabilities  # (B, T, W)


class VisionEncoder(nn.Module):
    """The stack of transformer layers."""

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.gradient_checkpointing = False
        self.layers = nn.ModuleList(VisionLayer(config, layer) for layer in range(config.num_hidden_layers))

    def checkpoint_last(self, count: int) -> None:
        """Recompute the activations of the last `count` layers in the backward pass: the original's `ckpt_layer`."""
        for layer in self.layers[-count:]:
            assert isinstance(layer, VisionLayer)
            layer.gradient_checkpointing = True

    def forward(
        self, x: Tensor, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        hidden_states, attentions = [x], []
        for layer in self.layers:
            x, probabilities = checkpointed(self, layer, x, output_attentions)
            if output_hidden_states:
                hidden_states.append(x)
            attentions.append(probabilities)
        return (
            x,
            tuple(hidden_states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )


class BlipVisionModel(BlipPreTrainedModel):
    """Pictures -> image embeddings. Source: the ViT of the original, with a LayerNorm after the last layer."""

    config: BlipVisionConfig
    main_input_name = "pixel_values"
    __call__: Callable[..., BlipVisionOutput]

    def __init__(self, config: BlipVisionConfig, *, initialize: bool = True):
        super().__init__(config)
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if initialize:
            self.initialize()

    @called_as_in_transformers
    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BlipVisionOutput:
        """Encode pictures.

        Args:
            pixel_values: Pictures (B, channels, height, width), float, normalised by `BlipImageProcessor`.
            interpolate_pos_encoding: Accept pictures of another size than `config.image_size`.
            output_hidden_states, output_attentions: Return these of all layers as well.

        Returns:
            `last_hidden_state` (B, T, W) and `pooler_output` (B, W), a second LayerNorm of the class token.

        Raises:
            ValueError: If the shape, the size or the type is wrong.
        """
        check_pixel_values(pixel_values.shape, type_name(pixel_values), self.config, interpolate_pos_encoding)
        x, hidden_states, attentions = self.encoder(
            self.embeddings(pixel_values), output_hidden_states, output_attentions
        )
        x = self.post_layernorm(x)
        return BlipVisionOutput(
            last_hidden_state=x,
            pooler_output=self.post_layernorm(x[:, 0]),
            hidden_states=hidden_states,
            attentions=attentions,
        )
