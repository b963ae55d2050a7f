"""Lesson 19: a small GPT, causal self-attention in residual blocks (Vaswani et al. 2017; Radford et al. 2019).

As in current models, each part is preceded by RMS normalization (Xiong et al. 2020), positions enter by rotating
queries and keys (Su et al. 2021, arXiv 2104.09864, equation 34), there are no biases, and the embedding is shared with
the last layer (Press and Wolf 2017). The residual projections start at zero, so every block starts as the identity
(Zhang et al. 2019, arXiv 1901.09321).

Shapes: B rows, T new tokens, S past and new tokens, V vocabulary, E width, N heads, D = E / N.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

Past = list[tuple[Tensor, Tensor]]


class GPT(nn.Module):
    """A decoder-only transformer.

    Args:
        vocab_size: V, the tokenizer's size or more.
        context: the maximum number of tokens that a prediction attends to.
        layers: number of blocks.
        heads: N; E / N must be even.
        width: E.
        dropout: dropout of the embedding and of each residual, 0 to below 1.

    Raises:
        ValueError: the width is not an even multiple of the heads.
    """

    def __init__(
        self,
        vocab_size: int = 128,
        context: int = 128,
        layers: int = 3,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width={width} is not an even multiple of heads={heads}")
        self.vocab_size, self.context, self.features_size = vocab_size, context, width
        self.embedding = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, context, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(self, tokens_BT: Tensor, state: Past | None = None) -> tuple[Tensor, Past]:
        """Scores of the next token [B, T, V], and the keys and values of all tokens so far."""
        features_BTE, past = self.read(self.embedding(tokens_BT), state)
        return self.head(features_BTE), past

    def read(self, embedded_BTE: Tensor, state: Past | None = None) -> tuple[Tensor, Past]:
        """The input of the last layer [B, T, E], and the keys and values of all tokens so far."""
        x_BTE, past = self.dropout(embedded_BTE), []
        for i, block in enumerate(self.blocks):
            x_BTE, kept = block(x_BTE, state[i] if state is not None else None)
            past.append(kept)
        return self.norm(x_BTE), past


class Block(nn.Module):
    """A residual block: attention, then a feed-forward network.

    Args:
        width: E.
        heads: N.
        context: the maximum number of positions.
        dropout: dropout of each residual.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, heads: int, context: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.context = heads, context
        self.norm_attention, self.norm_feed_forward = nn.RMSNorm(width), nn.RMSNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.from_heads = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        for last in (self.from_heads, self.down):
            nn.init.zeros_(last.weight)
        half = width // heads // 2
        angle_TD = torch.arange(context)[:, None] * 10_000 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle_TD.cos(), persistent=False)
        self.register_buffer("sin", angle_TD.sin(), persistent=False)

    def forward(self, x_BTE: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The output [B, T, E], and the keys and values [B, N, S, D] of all tokens so far."""
        added_BTE, kept = self._attend(self.norm_attention(x_BTE), past)
        x_BTE = x_BTE + self.dropout(added_BTE)
        hidden_BTF = functional.relu(self.up(self.norm_feed_forward(x_BTE))).square()
        return x_BTE + self.dropout(self.down(hidden_BTF)), kept

    def _attend(self, x_BTE: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        n_rows, n_tokens, width = x_BTE.shape
        qkv_3BNTD = self.to_qkv(x_BTE).view(n_rows, n_tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query_BNTD, key_BNSD, value_BNSD = qkv_3BNTD.unbind(0)
        start = past[0].shape[2] if past is not None else 0
        query_BNTD, key_BNSD = self._rotated(query_BNTD, start), self._rotated(key_BNSD, start)
        if past is not None:
            key_BNSD, value_BNSD = torch.cat([past[0], key_BNSD], 2), torch.cat([past[1], value_BNSD], 2)
            if n_tokens > 1:
                raise ValueError(f"{n_tokens} tokens follow cached ones; pass one token at a time")
        mixed_BNTD = functional.scaled_dot_product_attention(query_BNTD, key_BNSD, value_BNSD, is_causal=past is None)
        return self.from_heads(mixed_BNTD.transpose(1, 2).reshape(n_rows, n_tokens, width)), (key_BNSD, value_BNSD)

    def _rotated(self, x_BNTD: Tensor, start: int) -> Tensor:
        cos_TD, sin_TD = (each[start : start + x_BNTD.shape[2]] for each in (self.cos, self.sin))
        even_BNTD, odd_BNTD = x_BNTD.chunk(2, dim=-1)
        return torch.cat([even_BNTD * cos_TD - odd_BNTD * sin_TD, even_BNTD * sin_TD + odd_BNTD * cos_TD], dim=-1)
