"""Tokens and the transformer that relates them (Dosovitskiy et al., arXiv 2010.11929), published key names."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_transunet.model.resnet import OUT_CHANNELS, ResNetStem
from napari_transunet.model.variants import CNN_STRIDE, Variant

_NORM_EPS = 1e-6
_FEW_TOKENS = 512
"""Up to so many, attention is computed plainly for gradients on a CPU: PyTorch's own takes five times as long then."""


class Embeddings(nn.Module):
    """An image as tokens: (B, 3, H, W) -> (B, N, hidden) with N = (H / patch)·(W / patch), and the CNN's skips.

    With `corners` (B, 2) the images are crops of whole ones, and these the row and the column of the first token of
    each in the whole grid.
    """

    def __init__(self, variant: Variant, grid: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self._grid = grid
        self.hybrid_model: ResNetStem | None = ResNetStem() if variant.hybrid else None
        inputs, kernel = (OUT_CHANNELS, variant.patch // CNN_STRIDE) if variant.hybrid else (3, variant.patch)
        self.patch_embeddings = nn.Conv2d(inputs, variant.hidden, kernel, stride=kernel)
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid[0] * grid[1], variant.hidden))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, corners: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        skips: list[Tensor] = []
        if self.hybrid_model is not None:
            x, skips = self.hybrid_model(x)
        patches = self.patch_embeddings(x)
        tokens = patches.flatten(2).transpose(1, 2)
        return self.dropout(tokens + self._positions(corners, patches.shape[-2:])), skips

    def _positions(self, corners: Tensor | None, size: Sequence[int]) -> Tensor:
        """The embeddings (B, h·w, hidden) of crops of h·w tokens, or (1, N, hidden), those of the whole grid."""
        if corners is None:
            return self.position_embeddings
        rows, columns = (
            corners[:, axis, None] + torch.arange(side, device=corners.device)
            for axis, side in enumerate(size)
        )
        grid = self.position_embeddings[0].unflatten(0, self._grid)
        return grid[rows[:, :, None], columns[:, None]].flatten(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention: (B, N, hidden) -> (B, N, hidden)."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, N, hidden) -> (B, heads, N, hidden / heads)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._by_head(part(x)) for part in (self.query, self.key, self.value))
        if x.requires_grad and x.device.type == "cpu" and x.shape[1] <= _FEW_TOKENS:
            attended = _attention(query, key) @ value
        else:
            attended = functional.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2))

    def probabilities(self, x: Tensor) -> Tensor:
        """What each token attends to: (B, N, hidden) -> (B, heads, N, N), rows sum to 1."""
        return _attention(self._by_head(self.query(x)), self._by_head(self.key(x)))


def _attention(query: Tensor, key: Tensor) -> Tensor:
    """Softmax(q kᵀ / √d): twice (B, heads, N, d) -> (B, heads, N, N)."""
    return torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, hidden: int, width: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, width)
        self.fc2 = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.fc1, self.fc2):
            # Where there is nothing to fill, drawing normal numbers would still import all of torch's compiler.
            if not layer.weight.is_meta:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(functional.gelu(self.fc1(x)))
        return self.dropout(self.fc2(x))


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, variant: Variant, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(variant.hidden, eps=_NORM_EPS)
        self.ffn_norm = nn.LayerNorm(variant.hidden, eps=_NORM_EPS)
        self.ffn = FeedForward(variant.hidden, variant.mlp, dropout)
        self.attn = Attention(variant.hidden, variant.heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))

    def attention(self, x: Tensor) -> Tensor:
        """The attention probabilities that `forward` would use: (B, N, hidden) -> (B, heads, N, N)."""
        return self.attn.probabilities(self.attention_norm(x))


class Encoder(nn.Module):
    """All blocks and the final norm: (B, N, hidden) -> (B, N, hidden)."""

    def __init__(self, variant: Variant, dropout: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Block(variant, dropout) for _ in range(variant.blocks))
        self.encoder_norm = nn.LayerNorm(variant.hidden, eps=_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layer:
            x = block(x)
        return self.encoder_norm(x)

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """Attention probabilities of every block: (B, N, hidden) -> one (B, heads, N, N) a block."""
        maps = []
        for block in self.layer:
            maps.append(cast("Block", block).attention(x))
            x = block(x)
        return maps


class Transformer(nn.Module):
    """Embeddings and encoder together: (B, 3, H, W) -> (B, N, hidden), and the CNN's skips; `corners` as there."""

    def __init__(self, variant: Variant, grid: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self.embeddings = Embeddings(variant, grid, dropout)
        self.encoder = Encoder(variant, dropout)

    def forward(self, x: Tensor, corners: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        tokens, skips = self.embeddings(x, corners)
        return self.encoder(tokens), skips
