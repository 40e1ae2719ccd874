"""The Transformer half: positions, attention with two equal paths, pre-norm layers, pooling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from networks.args import ACTIVATIONS
from networks.attention import Attention


class PositionalEncoding(nn.Module):
    """Add a position to each token of `[B, N, C]`: learned, or sinusoidal (arXiv:1706.03762)."""

    def __init__(self, num_tokens: int, dim: int, kind: str = "learnable"):
        super().__init__()
        if kind == "learnable":
            self.embedding = small_noise(num_tokens, dim)
        else:
            self.register_buffer("embedding", sinusoids(num_tokens, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.embedding


def sinusoids(num_tokens: int, dim: int) -> Tensor:
    """Sines and cosines of each position, `[1, N, C]` (arXiv:1706.03762)."""
    position = torch.arange(num_tokens)[:, None]
    rate = torch.exp(-math.log(10_000.0) * torch.arange(0, dim, 2) / dim)
    table = torch.zeros(1, num_tokens, dim)
    table[0, :, 0::2] = torch.sin(position * rate)
    table[0, :, 1::2] = torch.cos(position * rate)[:, : dim // 2]
    return table


def small_noise(num_tokens: int, dim: int) -> nn.Parameter:
    """Normal noise of deviation 0.02, `[1, N, C]`, for what is learned beside the tokens."""
    values = torch.empty(1, num_tokens, dim)
    # A network that is only looked at has no values: drawing them would import TorchDynamo, 1.6 s.
    return nn.Parameter(values if values.is_meta else torch.randn(values.shape) * 0.02)


def stochastic_depth(drop_path: float) -> nn.Module:
    """Drops a branch for whole images with probability `drop_path` (arXiv:1603.09382)."""
    from torchvision.ops import StochasticDepth  # a second of importing, which few networks need

    return StochasticDepth(drop_path, "row")


def mean_over_tokens(tokens: Tensor) -> Tensor:
    """`[B, N, C]` → `[B, C]`.

    The axis is dropped afterwards: what OpenVINO (seen in 2026.4) makes of a reduction that drops
    it, a factor and a rounding, as NNCF puts them after it, gives wrong values.
    """
    return tokens.mean(dim=1, keepdim=True).squeeze(1)


def pooled_sequence(tokens: Tensor, score: nn.Module) -> Tensor:
    """`[B, N, C]` → `[B, C]` by learned weights over the tokens (arXiv:2104.05704)."""
    weights = score(tokens).softmax(dim=1)  # [B, N, 1]
    return (weights * tokens).sum(dim=1, keepdim=True).squeeze(1)


class EncoderLayer(nn.Module):
    """Pre-norm Transformer layer (arXiv:2002.04745) with stochastic depth on both branches."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        ffn_dim: int,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = Attention(embed_dim, num_heads, head_dim, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.activation = ACTIVATIONS[activation]()
        self.fc2 = nn.Linear(ffn_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = stochastic_depth(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens)))
        hidden = self.activation(self.fc1(self.norm2(tokens)))  # [B, N, ffn_dim]
        return tokens + self.drop_path(self.dropout(self.fc2(hidden)))


class TokenTransformer(nn.Module):
    """Tokens `[B, N, embed_dim]` → `begin` → each of `layers` → `end` → `[B, embed_dim]`.

    There is no `forward`: between two layers a network may be left.
    """

    def __init__(self, num_tokens: int, args: dict[str, Any]):
        super().__init__()
        dim, layers = args["embed_dim"], args["num_layers"]
        self.pooling = args["pooling"]
        if self.pooling == "class_token":
            self.class_token = small_noise(1, dim)
            num_tokens += 1
        self.position = PositionalEncoding(num_tokens, dim, args["positional_encoding"])
        self.layers = nn.Sequential(
            *(
                EncoderLayer(
                    dim,
                    args["num_heads"][i],
                    args["head_dim"][i],
                    args["ffn_dim"][i],
                    activation=args["ffn_activation"],
                    dropout=args["dropout"],
                    drop_path=args["stochastic_depth"] * (i + 1) / layers,
                )
                for i in range(layers)
            )
        )
        self.norm = nn.LayerNorm(dim)
        if self.pooling == "sequence":
            self.score = nn.Linear(dim, 1)

    def begin(self, tokens: Tensor) -> Tensor:
        """What the first layer takes: `[B, N, C]`, one token more with a class token."""
        if self.pooling == "class_token":
            class_token = self.class_token.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([class_token, tokens], dim=1)  # [B, 1+N, C]
        return self.position(tokens)

    def end(self, tokens: Tensor) -> Tensor:
        """What the last layer gives → `[B, C]`."""
        tokens = self.norm(tokens)
        if self.pooling == "class_token":
            return tokens[:, 0]
        if self.pooling == "sequence":
            return pooled_sequence(tokens, self.score)
        return mean_over_tokens(tokens)
