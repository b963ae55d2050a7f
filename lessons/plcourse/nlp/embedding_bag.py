"""Lesson 19: a text as a bag of its words and word pairs (fastText, Joulin et al. 2016, arXiv 1607.01759).

Shapes: B texts, T tokens, E embedding, K classes.
"""

import torch
from torch import Tensor, nn

_PRIME = 1_000_003  # hashes an n-gram to one number, below 2^63 for three tokens of 2^20


class EmbeddingBag(nn.Module):
    """The mean of the embeddings of all words and word n-grams, and a linear layer.

    N-grams need no vocabulary: a hash maps each to one of ``buckets`` rows, which some share (section 2.2).

    Args:
        vocab_size: the tokenizer's size or more.
        num_classes: K.
        embedding: E.
        ngrams: the longest n-gram in words, 1 to 3; 1 for words alone.
        buckets: rows for all n-grams of two words or more.
        dropout: dropout of the mean, 0 to below 1.

    Raises:
        ValueError: ``ngrams`` is out of range.
    """

    def __init__(
        self,
        vocab_size: int = 20_000,
        num_classes: int = 2,
        embedding: int = 16,
        ngrams: int = 2,
        buckets: int = 200_000,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= ngrams <= 3:
            raise ValueError(f"ngrams={ngrams} is not 1, 2 or 3")
        self.vocab_size, self.ngrams, self.buckets = vocab_size, ngrams, buckets
        self.words = nn.Embedding(vocab_size, embedding)
        self.runs = nn.Embedding(buckets if ngrams > 1 else 1, embedding)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embedding, num_classes)
        for table in (self.words, self.runs):
            nn.init.uniform_(table.weight, -1 / embedding, 1 / embedding)

    def forward(self, tokens_BT: Tensor, length_B: Tensor) -> Tensor:
        """Maps tokens int64 [B, T] and lengths int64 [B] to scores [B, K], whatever the padding."""
        return self.score(self.embed(tokens_BT), length_B)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The sum of the embeddings of each word and of the n-grams that end with it, [B, T, E]."""
        embedded_BTE, code_BT = self.words(tokens_BT), tokens_BT
        for back in range(1, self.ngrams):
            before_BT = nn.functional.pad(tokens_BT, (back, 0))[:, : tokens_BT.shape[1]]
            code_BT = code_BT * _PRIME + before_BT
            runs_BTE = self.runs(torch.remainder(code_BT, self.buckets))
            embedded_BTE = embedded_BTE + runs_BTE * (before_BT > 0).unsqueeze(-1)
        return embedded_BTE

    def score(self, embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
        """The scores [B, K] of the mean over the tokens of each text."""
        mask_BT1 = mask_of(embedded_BTE, length_B).unsqueeze(-1)
        mean_BE = (embedded_BTE * mask_BT1).sum(dim=1) / length_B.unsqueeze(-1)
        return self.head(self.dropout(mean_BE))


def mask_of(embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
    """True for the tokens of each text, False for padding, bool [B, T]."""
    place_T = torch.arange(embedded_BTE.shape[1], device=length_B.device)
    return place_T < length_B.unsqueeze(-1)
