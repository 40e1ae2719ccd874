"""The Compact Convolutional Transformer of arXiv:2104.05704, a hybrid of others to compare with.

What it computes and how its parameters are named is as in its authors' code
(github.com/SHI-Labs/Compact-Transformers), so that `load_state_dict` takes their checkpoints.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.attention import Attention
from networks.exits import ExitHead, ExitingNetwork, check_exits, layers_before
from networks.foreign import NetworkError
from networks.transformer import pooled_sequence, sinusoids, stochastic_depth

POSITIONAL = ("learnable", "sine", "none")


class CCT(ExitingNetwork):
    """Images `[B, in_channels, H, W]` → logits `[B, num_classes]`.

    Convolutions with max pooling make the tokens, Transformer layers mix them, a learned weight
    each pools them. The defaults are CCT-2/3x2 for 32×32; `L/KxC` means `num_layers`,
    `kernel_size` and `n_conv_layers`. `stride` None is kernel_size // 2 - 1, at least 1.

    `stochastic_depth` is that of the last layer, rising linearly from 0. Exits can stand after each
    layer but the last: 'layer_0', 'layer_1', ... Raises NetworkError for what builds no network.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (32, 32),
        in_channels: int = 3,
        num_classes: int = 10,
        kernel_size: int = 3,
        stride: int | None = None,
        n_conv_layers: int = 2,
        conv_channels: int = 64,  # of each convolution but the last, which has embed_dim
        embed_dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 2,
        mlp_ratio: float = 1.0,
        positional_embedding: str = "learnable",
        dropout: float = 0.0,
        attention_dropout: float = 0.1,
        stochastic_depth: float = 0.1,
        exits: Sequence[str] = (),
    ):
        super().__init__()
        for key, count, least in [
            ("kernel_size", kernel_size, 1), ("n_conv_layers", n_conv_layers, 1),
            ("conv_channels", conv_channels, 1), ("embed_dim", embed_dim, 1),
            ("num_layers", num_layers, 0), ("num_heads", num_heads, 1),
        ]:  # fmt: skip
            if count < least:
                raise NetworkError(f"should be at least {least}, not {count}", key)
        if embed_dim % num_heads:
            raise NetworkError(f"{num_heads} does not divide embed_dim {embed_dim}", "num_heads")
        if positional_embedding not in POSITIONAL:
            raise NetworkError(f"is one of {', '.join(POSITIONAL)}", "positional_embedding")
        self.num_layers = num_layers
        try:
            check_exits(exits, self.exit_places())
        except ValueError as error:
            raise NetworkError(str(error), "exits") from None
        if stride is None:
            stride = max(1, kernel_size // 2 - 1)
        widths = [in_channels, *[conv_channels] * (n_conv_layers - 1), embed_dim]
        self.tokenizer = Tokenizer(widths, kernel_size, stride)
        height, width = image_size
        self.classifier = TransformerClassifier(
            self.tokenizer.side(height) * self.tokenizer.side(width),
            embed_dim,
            num_layers,
            num_heads,
            ffn_dim=int(embed_dim * mlp_ratio),
            num_classes=num_classes,
            positional_embedding=positional_embedding,
            dropout=dropout,
            attention_dropout=attention_dropout,
            drop_path=stochastic_depth,
        )
        # One that is only looked at has no values: drawing them would import TorchDynamo, 1.4 s.
        if not self.classifier.fc.weight.is_meta:
            self.apply(_initialise)
        if exits:
            heads = {p: ExitHead(embed_dim, num_classes, over_tokens=True) for p in exits}
            self.exits = nn.ModuleDict(heads)

    def exit_places(self) -> list[str]:
        return [f"layer_{i}" for i in range(self.num_layers - 1)]

    def span(self, after: str, to: str, stream: Tensor, *pooled: Tensor) -> tuple[Tensor, ...]:
        if after == "image":
            stream = self.classifier.begin(self.tokenizer(stream))  # [B, N, embed_dim]
        for block in list(self.classifier.blocks)[layers_before(after) : layers_before(to)]:
            stream = block(stream)
        if to != "head":
            return self.exits[to](stream), stream
        return (self.classifier.end(stream),)


class Tokenizer(nn.Module):
    """Convolution, ReLU, max pooling by two, as often as said: `[B, C, H, W]` → `[B, N, C]`."""

    def __init__(self, widths: Sequence[int], kernel: int, stride: int):
        super().__init__()
        padding = max(1, kernel // 2)
        self.conv_layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, kernel, stride, padding, bias=False),
                    nn.ReLU(),
                    nn.MaxPool2d(3, 2, 1),
                )
                for before, after in itertools.pairwise(widths)
            )
        )
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def side(self, pixels: int) -> int:
        """Height or width of the map that an image's becomes. Raises NetworkError at none."""
        for _ in self.conv_layers:
            pixels = (pixels + 2 * self.padding - self.kernel) // self.stride + 1
            pixels = (pixels - 1) // 2 + 1
            if pixels < 1:
                raise NetworkError("leaves nothing of such small images", "kernel_size")
        return pixels

    def forward(self, images: Tensor) -> Tensor:
        return self.conv_layers(images).permute(0, 2, 3, 1).flatten(1, 2)


class TransformerClassifier(nn.Module):
    """Tokens `[B, N, embed_dim]` → `begin` → each of `blocks` → `end` → logits.

    There is no `forward`: between two layers a network may be left.
    """

    def __init__(
        self,
        num_tokens: int,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        *,
        ffn_dim: int,
        num_classes: int,
        positional_embedding: str,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
    ):
        super().__init__()
        self.positional_emb: Tensor | None = None
        if positional_embedding == "learnable":
            self.positional_emb = nn.Parameter(torch.zeros(1, num_tokens, embed_dim))
        elif positional_embedding == "sine":
            del self.positional_emb
            self.register_buffer("positional_emb", sinusoids(num_tokens, embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                embed_dim,
                num_heads,
                ffn_dim,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path * i / max(1, num_layers - 1),
            )
            for i in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.attention_pool = nn.Linear(embed_dim, 1)
        self.fc = nn.Linear(embed_dim, num_classes)

    def begin(self, tokens: Tensor) -> Tensor:
        if self.positional_emb is not None:
            tokens = tokens + self.positional_emb
        return self.dropout(tokens)

    def end(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        return self.fc(pooled_sequence(tokens, self.attention_pool))


class EncoderBlock(nn.Module):
    """A Transformer layer whose second branch is added to the normed tokens, not to the stream."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        *,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
    ):
        super().__init__()
        self.pre_norm = nn.LayerNorm(embed_dim)
        self.self_attn = Attention(
            embed_dim,
            num_heads,
            embed_dim // num_heads,
            dropout,
            attention_dropout=attention_dropout,
            qkv_bias=False,
        )
        self.norm1 = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, ffn_dim)
        self.activation = nn.GELU()
        self.dropout1 = nn.Dropout(dropout)
        self.linear2 = nn.Linear(ffn_dim, embed_dim)
        self.dropout2 = nn.Dropout(dropout)
        self.drop_path = stochastic_depth(drop_path) if drop_path else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.self_attn(self.pre_norm(tokens)))
        tokens = self.norm1(tokens)
        hidden = self.dropout1(self.activation(self.linear1(tokens)))  # [B, N, ffn_dim]
        return tokens + self.drop_path(self.dropout2(self.linear2(hidden)))


def _initialise(module: nn.Module) -> None:
    """As its authors begin."""
    match module:
        case nn.Conv2d():
            nn.init.kaiming_normal_(module.weight)
        case nn.Linear():
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        case TransformerClassifier(positional_emb=nn.Parameter() as positions):
            nn.init.trunc_normal_(positions, std=0.2)
