"""Lesson 19: a language model as a classifier, which asks under which class the text is most likely.

It combines a class-conditional language model p(x | y) with Bayes' rule (Yogatama et al. 2017, arXiv 1703.01898,
section 2.2):

    p(y | x)  is proportional to  p(y) p(x | y),    log p(x | y) = sum over t of log p(x_t | x_1 ... x_t-1, y)

Training never compares classes; it makes each text likely under its own class.

    plcourse fit -c nlp/generative_classifier --then test,predict

Shapes: B texts, T tokens, E embedding, H hidden, V vocabulary, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from plcourse.nlp.lstm import read_forwards
from plcourse.nlp.networks import mask_of
from plcourse.nlp.tokenizers import END


class ClassConditionalLSTM(nn.Module):
    """An LSTM language model shared by all classes, with an output vector and bias per class.

    This is the paper's shared model: the next word is scored from the state and the class vector v_y. A linear layer
    of both is the sum of a layer of each, so the large one is computed once for all classes.

    Args:
        vocab_size: V, the tokenizer's size or more.
        num_classes: K.
        embedding: E.
        hidden: H.
        class_embedding: size of v_y.
        dropout: dropout of embeddings and states, 0 to below 1.
        prior: p(y), K numbers above 0; None for equally likely classes.

    Raises:
        ValueError: the prior has another length or a number that is not above 0.
    """

    log_prior: Tensor

    def __init__(
        self,
        vocab_size: int = 5_000,
        num_classes: int = 2,
        embedding: int = 64,
        hidden: int = 64,
        class_embedding: int = 16,
        dropout: float = 0.3,
        prior: list[float] | None = None,
    ) -> None:
        super().__init__()
        if prior is not None and (len(prior) != num_classes or min(prior) <= 0):
            raise ValueError(f"prior={prior} is not a list of {num_classes} numbers above 0")
        self.vocab_size, self.num_classes = vocab_size, num_classes
        self.embedding = nn.Embedding(vocab_size, embedding)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.classes = nn.Embedding(num_classes, class_embedding)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, vocab_size)
        self.class_head = nn.Linear(class_embedding, vocab_size, bias=False)
        self.class_bias = nn.Parameter(torch.zeros(num_classes, vocab_size))
        chance_K = torch.tensor(prior or [1.0] * num_classes)
        self.register_buffer("log_prior", (chance_K / chance_K.sum()).log())

    def forward(self, tokens_BT: Tensor, length_B: Tensor) -> Tensor:
        """log p(x, y) of each class [B, K], whose softmax is p(y | x), whatever the padding."""
        shared_BTV = self._shared(tokens_BT)
        offset_KV = self.class_head(self.classes.weight) + self.class_bias
        scores = [_log_likelihood(shared_BTV + offset_V, tokens_BT, length_B) for offset_V in offset_KV.unbind(0)]
        return torch.stack(scores, dim=1) + self.log_prior

    def loss(self, tokens_BT: Tensor, length_B: Tensor, label_B: Tensor) -> Tensor:
        """The mean of -ln p(token | class of its text), in nats per token, with equal weight for each text."""
        offset_BV = self.class_head(self.classes(label_B)) + self.class_bias[label_B]
        logits_BTV = self._shared(tokens_BT) + offset_BV.unsqueeze(1)
        return -(_log_likelihood(logits_BTV, tokens_BT, length_B) / length_B).mean()

    def _shared(self, tokens_BT: Tensor) -> Tensor:
        """The part of the scores that all classes share [B, T, V]; an end token precedes the first token."""
        before_BT = functional.pad(tokens_BT, (1, 0), value=END)[:, : tokens_BT.shape[1]]
        states_BTH, _ = read_forwards(self.lstm, self.dropout(self.embedding(before_BT)))
        return self.head(self.dropout(states_BTH))


def _log_likelihood(logits_BTV: Tensor, tokens_BT: Tensor, length_B: Tensor) -> Tensor:
    """log p(x | y) of the scores under one class [B]."""
    rows_B1 = torch.arange(tokens_BT.shape[0], device=tokens_BT.device).unsqueeze(-1)
    places_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    # not gather: the reference runtime that verifies exports supports none beyond 64 words
    log_p_BT = logits_BTV.log_softmax(dim=-1)[rows_B1, places_T, tokens_BT]
    return (log_p_BT * mask_of(tokens_BT, length_B)).sum(dim=1)
