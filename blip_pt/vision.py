"""The vision transformer (ViT) that turns pictures into image embeddings.

Shapes: B pictures, N patches, T = N + 1 tokens (the class token first), W width, H heads, D = W / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blip_core import BlipVisionConfig, BlipVisionOutput, bicubic_matrix
from blip_core.checks import check_pixel_values
from blip_pt.base import BlipPreTrainedModel, checkpointed, type_name
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


class VisionAttention(nn.Module):
    """Self-attention with one matrix product for queries, keys and values."""

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))  # (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        context, probabilities = attention(query, key, value, None, dropout, output_attentions)
        return self.projection(merge_heads(context)), probabilities  # (B, T, W)


class VisionMLP(nn.Module):
    """The feed-forward network of a block."""

    def __init__(self, config: BlipVisionConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(activated(self.fc1, x, self.activation))


class VisionBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: BlipVisionConfig, layer: int):
        super().__init__()
        self.drop_path = config.drop_path_rate * layer / max(config.num_hidden_layers - 1, 1)
        self.norm1 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = VisionAttention(config)
        self.norm2 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.attention(self.norm1(x), output_attentions)
        x = x + drop_path(attended, self.drop_path, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, self.training), probabilities  # (B, T, W)


class BlipVisionModel(BlipPreTrainedModel):
    """Pictures -> image embeddings. Source: the ViT of the original, with a LayerNorm after the last block."""

    config: BlipVisionConfig

    def __init__(self, config: BlipVisionConfig, *, initialize: bool = True):
        super().__init__(config)
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, config.num_positions, config.hidden_size))
        self.patch_embedding = PatchEmbedding(config.num_channels, config.hidden_size, config.patch_size)
        self.blocks = nn.ModuleList(VisionBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.post_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if initialize:
            self.initialize()

    def positions(self, height: int, width: int) -> Tensor:
        """Position embeddings (1, T, W) for pictures of any size, in pixels: the grid is resized bicubically."""
        side, patch = self.config.image_size // self.config.patch_size, self.config.patch_size
        if (height // patch, width // patch) == (side, side):
            return self.position_embedding
        rows, columns = (torch.from_numpy(bicubic_matrix(side, size // patch)) for size in (height, width))
        grid = self.position_embedding[0, 1:].unflatten(0, (side, side))  # (side, side, W)
        grid = torch.einsum("ij,kl,jlw->ikw", rows.to(grid), columns.to(grid), grid)
        return torch.cat([self.position_embedding[:, :1], grid.flatten(0, 1)[None]], dim=1)  # (1, T, W)

    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BlipVisionOutput:
        """Encode pictures: float (B, channels, height, width), normalised as `BlipImageProcessor` does.

        `interpolate_pos_encoding` takes pictures of another size than `config.image_size`. Returns embeddings
        (B, T, W). Raises `ValueError` for a wrong shape or size.
        """
        check_pixel_values(pixel_values.shape, type_name(pixel_values), self.config, interpolate_pos_encoding)
        patches = self.patch_embedding(pixel_values.to(self.dtype))  # (B, N, W)
        x = torch.cat([self.class_embedding.expand(len(patches), -1, -1), patches], dim=1)  # (B, T, W)
        x = x + self.positions(*pixel_values.shape[2:])
        hidden_states, attentions = [x], []
        for block in self.blocks:
            x, probabilities = checkpointed(self, block, x, output_attentions)
            if output_hidden_states:
                hidden_states.append(x)
            attentions.append(probabilities)
        x = self.post_layernorm(x)
        return BlipVisionOutput(
            last_hidden_state=x,
            pooler_output=self.post_layernorm(x[:, 0]),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
