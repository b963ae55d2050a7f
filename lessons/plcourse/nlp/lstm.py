"""Lesson 19: an LSTM language model (Hochreiter and Schmidhuber 1997; with forget gates, Gers et al. 2000).

Each window can start from the state of the one before it, so distant tokens matter although gradients reach back one
window only.

Shapes: B rows, T tokens, V vocabulary, E embedding, H hidden, N layers.
"""

import torch
from torch import Tensor, nn

from plcourse.nlp.recurrent import State, read_forwards


class LSTMLanguageModel(nn.Module):
    """Embedding, LSTM, and scores of the next token from each state.

    Args:
        vocab_size: V, the tokenizer's size or more.
        embedding: E.
        hidden: H.
        layers: N.
        dropout: dropout of embeddings, between layers and of the last states, 0 to below 1.
    """

    context = None  # unlimited: the state carries the past

    def __init__(
        self, vocab_size: int = 128, embedding: int = 64, hidden: int = 256, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.vocab_size, self.features_size = vocab_size, hidden
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, vocab_size)
        nn.init.normal_(self.embedding.weight, std=0.1)  # few steps cannot change torch's std of 1
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_ih"):  # the forget gates start open (Jozefowicz et al. 2015)
                nn.init.ones_(parameter.data[hidden : 2 * hidden])

    def forward(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Scores of the next token [B, T, V], and the state after the last token, two of [N, B, H]."""
        features_BTH, state = self.features(tokens_BT, state)
        return self.head(features_BTH), state

    def features(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The input of the last layer [B, T, H], and the state after the last token."""
        return self.read(self.embed(tokens_BT), state)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The embedding of each token, [B, T, E]."""
        return self.embedding(tokens_BT)

    def read(self, embedded_BTE: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """`features` of embedded tokens."""
        states_BTH, state = read_forwards(self.lstm, self.dropout(embedded_BTE), state)
        return self.dropout(states_BTH), state

    def detached(self, state: State) -> State:
        """The state without its gradient history."""
        hidden_NBH, cell_NBH = state
        return hidden_NBH.detach(), cell_NBH.detach()


def to_cpu(state: State) -> list[Tensor]:
    """A state as a list of tensors, which a `weights_only` load accepts."""
    return [part.detach().cpu().clone() for part in state]


def from_cpu(state: list[Tensor], device: torch.device) -> State:
    """The inverse of `to_cpu`."""
    hidden_NBH, cell_NBH = (part.to(device) for part in state)
    return hidden_NBH, cell_NBH
