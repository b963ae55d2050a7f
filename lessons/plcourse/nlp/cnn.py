"""Lesson 19: a CNN that looks for phrases anywhere in the text (Kim 2014, arXiv 1408.5882, CNN-rand).

Shapes: B texts, T tokens, E embedding, F filters of a width, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from plcourse.nlp.embedding_bag import mask_of


class TextCNN(nn.Module):
    """Convolutions of several widths, max pooling over the text, linear layer.

    Every window that contains a token of the text counts; positions outside the text are zero.

    Args:
        vocab_size: the tokenizer's size or more.
        num_classes: K.
        embedding: E.
        widths: words per window, with a set of filters for each width.
        filters: F.
        dropout: dropout of embeddings and of the pooled features, 0 to below 1.
    """

    def __init__(
        self,
        vocab_size: int = 20_000,
        num_classes: int = 2,
        embedding: int = 64,
        widths: tuple[int, ...] = (3, 4, 5),
        filters: int = 64,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.convolutions = nn.ModuleList([nn.Conv1d(embedding, filters, width) for width in widths])
        self.widths = tuple(widths)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(filters * len(widths), num_classes)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens_BT: Tensor, length_B: Tensor) -> Tensor:
        """Maps tokens int64 [B, T] and lengths int64 [B] to scores [B, K], whatever the padding."""
        return self.score(self.embed(tokens_BT), length_B)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The embedding of each token, [B, T, E]."""
        return self.embedding(tokens_BT)

    def score(self, embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
        """The scores [B, K] of embedded texts."""
        mask_BT = mask_of(embedded_BTE, length_B)
        embedded_BET = (self.dropout(embedded_BTE) * mask_BT.unsqueeze(-1)).transpose(1, 2)
        largest = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            answer_BFT = convolution(functional.pad(embedded_BET, (width - 1, width - 1)))
            # window t ends with token t, so the last window with a token of the text is length + width - 2
            place_T = torch.arange(answer_BFT.shape[2], device=length_B.device)
            inside_B1T = (place_T < (length_B + width - 1).unsqueeze(-1)).unsqueeze(1)
            largest.append(answer_BFT.relu().masked_fill(~inside_B1T, 0.0).amax(dim=2))
        return self.head(self.dropout(torch.cat(largest, dim=1)))
