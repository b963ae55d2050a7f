"""Lesson 19: networks that classify texts, from a bag of words to a bidirectional LSTM with attention.

Each embeds the tokens and then scores the embedded text. `Attributions` calls the two steps separately, to follow the
score along a line of embeddings. The networks of the language models are in `plcourse.nlp.gpt` and `plcourse.nlp.lstm`.

Shapes: B texts, T tokens, E embedding, F filters of a width, H hidden of both directions, K classes.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from plcourse.nlp.lstm import read_forwards

_PRIME = 1_000_003  # hashes an n-gram to one number, below 2^63 for three tokens of 2^20


class TextNetwork(nn.Module, ABC):
    """Embeds the tokens of texts, and scores the classes of embedded texts.

    Attributes:
        vocab_size: the number of tokens that have an embedding.
        embedding: the embedding of each token.
    """

    vocab_size: int
    embedding: nn.Embedding

    def forward(self, tokens_BT: Tensor, length_B: Tensor) -> Tensor:
        """Maps tokens int64 [B, T] and lengths int64 [B] to scores [B, K], whatever the padding."""
        return self.score(self.embed(tokens_BT), length_B)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Maps tokens to embeddings [B, T, E]."""
        return self.embedding(tokens_BT)

    @abstractmethod
    def score(self, embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
        """Maps embedded texts to scores [B, K]."""


class EmbeddingBag(TextNetwork):
    """The mean of the embeddings of all words and n-grams, and a linear layer (fastText, Joulin et al. 2016).

    N-grams need no vocabulary: a hash maps each to one of ``buckets`` rows, so that some n-grams have the same row
    (arXiv 1607.01759, section 2.2).

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

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The sum of the embeddings of each word and of the n-grams that end with it, [B, T, E]."""
        embedded_BTE, code_BT = self.words(tokens_BT), tokens_BT
        for back in range(1, self.ngrams):
            before_BT = functional.pad(tokens_BT, (back, 0))[:, : tokens_BT.shape[1]]
            code_BT = code_BT * _PRIME + before_BT
            runs_BTE = self.runs(torch.remainder(code_BT, self.buckets))
            embedded_BTE = embedded_BTE + runs_BTE * (before_BT > 0).unsqueeze(-1)
        return embedded_BTE

    def score(self, embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
        """The scores [B, K] of the mean over the tokens of each text."""
        mask_BT1 = mask_of(embedded_BTE, length_B).unsqueeze(-1)
        mean_BE = (embedded_BTE * mask_BT1).sum(dim=1) / length_B.unsqueeze(-1)
        return self.head(self.dropout(mean_BE))


class TextCNN(TextNetwork):
    """Convolutions that look for phrases, max pooling over the text, and a linear layer (Kim 2014, arXiv 1408.5882).

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

    def score(self, embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
        """The scores [B, K] of the largest response of each filter."""
        mask_BT = mask_of(embedded_BTE, length_B)
        embedded_BET = (self.dropout(embedded_BTE) * mask_BT.unsqueeze(-1)).transpose(1, 2)
        largest = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            response_BFT = convolution(functional.pad(embedded_BET, (width - 1, width - 1)))
            # window t ends with token t, so the last window with a token of the text is length + width - 2
            place_T = torch.arange(response_BFT.shape[2], device=length_B.device)
            inside_B1T = (place_T < (length_B + width - 1).unsqueeze(-1)).unsqueeze(1)
            largest.append(response_BFT.relu().masked_fill(~inside_B1T, 0.0).amax(dim=2))
        return self.head(self.dropout(torch.cat(largest, dim=1)))


class BiLSTM(TextNetwork):
    """An LSTM in each direction, whose states are averaged with learned weights, and a linear layer.

    The weights are those of hierarchical attention networks (Yang et al. 2016, equations 5 to 7), over words. The
    backward LSTM reads each text from its last token on, never padding: the tokens are reversed before and after it.

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

    def score(self, embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
        """The scores [B, K] of the weighted mean of the states."""
        embedded_BTE = self.dropout(embedded_BTE)
        reversal_BT = _reversal(embedded_BTE.shape[1], length_B)
        there_BTH, _ = read_forwards(self.forwards, embedded_BTE)
        back_BTH, _ = read_forwards(self.backwards, _take(embedded_BTE, reversal_BT))
        states_BTH = torch.cat([there_BTH, _take(back_BTH, reversal_BT)], dim=-1)
        weight_BT = self.attention(states_BTH).squeeze(-1)
        weight_BT = weight_BT.masked_fill(~mask_of(embedded_BTE, length_B), float("-inf")).softmax(dim=-1)
        pooled_BH = (states_BTH * weight_BT.unsqueeze(-1)).sum(dim=1)
        return self.head(self.dropout(pooled_BH))


def mask_of(embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
    """True for the tokens of each text, False for padding, bool [B, T]."""
    place_T = torch.arange(embedded_BTE.shape[1], device=length_B.device)
    return place_T < length_B.unsqueeze(-1)


def _reversal(n: int, length_B: Tensor) -> Tensor:
    """The positions that reverse the first ``length`` of n tokens and keep the others, int64 [B, n]."""
    place_T = torch.arange(n, device=length_B.device)
    reversed_BT = length_B.unsqueeze(-1) - 1 - place_T
    return torch.where(reversed_BT >= 0, reversed_BT, place_T)


def _take(values_BTE: Tensor, place_BT: Tensor) -> Tensor:
    # not gather: the reference runtime that verifies exports supports none beyond 64 positions
    return values_BTE[torch.arange(values_BTE.shape[0], device=place_BT.device).unsqueeze(-1), place_BT]
