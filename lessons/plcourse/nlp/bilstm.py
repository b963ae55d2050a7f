"""Lesson 19: a bidirectional LSTM with attention over the words.

The LSTM of Hochreiter and Schmidhuber (1997) reads in both directions; its states are averaged with learned weights
(Yang et al. 2016, "Hierarchical Attention Networks", equations 5 to 7, at the level of words).

Shapes: B texts, T tokens, E embedding, H hidden of both directions, K classes.
"""

import torch
from torch import Tensor, nn

from plcourse.nlp.embedding_bag import mask_of
from plcourse.nlp.recurrent import read_forwards


class BiLSTM(nn.Module):
    """Embedding, bidirectional LSTM, attention pooling, linear layer.

    The backward direction starts at the last token of each text: its tokens are reversed before and after, so that it
    reads no padding before a token.

    Args:
        vocab_size: the tokenizer's size or more.
        num_classes: K.
        embedding: E.
        hidden: hidden size of each direction.
        dropout: dropout of embeddings and of the pooled state, 0 to below 1.
    """

    def __init__(
        self,
        vocab_size: int = 20_000,
        num_classes: int = 2,
        embedding: int = 64,
        hidden: int = 64,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.forwards = nn.LSTM(embedding, hidden, batch_first=True)
        self.backwards = nn.LSTM(embedding, hidden, batch_first=True)
        self.attention = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * hidden, num_classes)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens_BT: Tensor, length_B: Tensor) -> Tensor:
        """Maps tokens int64 [B, T] and lengths int64 [B] to scores [B, K], whatever the padding."""
        return self.score(self.embed(tokens_BT), length_B)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The embedding of each token, [B, T, E]."""
        return self.embedding(tokens_BT)

    def score(self, embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
        """The scores [B, K] of embedded texts."""
        embedded_BTE = self.dropout(embedded_BTE)
        turn_BT = _turned(embedded_BTE.shape[1], length_B)
        there_BTH, _ = read_forwards(self.forwards, embedded_BTE)
        back_BTH, _ = read_forwards(self.backwards, _take(embedded_BTE, turn_BT))
        states_BTH = torch.cat([there_BTH, _take(back_BTH, turn_BT)], dim=-1)
        weight_BT = self.attention(states_BTH).squeeze(-1)
        weight_BT = weight_BT.masked_fill(~mask_of(embedded_BTE, length_B), float("-inf")).softmax(dim=-1)
        pooled_BH = (states_BTH * weight_BT.unsqueeze(-1)).sum(dim=1)
        return self.head(self.dropout(pooled_BH))


def _turned(n: int, length_B: Tensor) -> Tensor:
    """The positions that reverse the first ``length`` of n tokens and keep the others, int64 [B, n]."""
    place_T = torch.arange(n, device=length_B.device)
    turned_BT = length_B.unsqueeze(-1) - 1 - place_T
    return torch.where(turned_BT >= 0, turned_BT, place_T)


def _take(values_BTE: Tensor, place_BT: Tensor) -> Tensor:
    # not gather: the reference runtime that verifies exports supports none beyond 64 positions
    return values_BTE[torch.arange(values_BTE.shape[0], device=place_BT.device).unsqueeze(-1), place_BT]
