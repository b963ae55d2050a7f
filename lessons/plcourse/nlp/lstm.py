"""Lesson 19: an LSTM language model (Hochreiter and Schmidhuber 1997; with forget gates, Gers et al. 2000).

Each window can start from the state at the end of the previous one. Distant tokens then matter, although gradients
reach back one window only.

Shapes: B rows, T tokens, V vocabulary, E embedding, H hidden, N layers.
"""

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


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
        features_BTH, state = self.read(self.embedding(tokens_BT), state)
        return self.head(features_BTH), state

    def read(self, embedded_BTE: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The input of the last layer [B, T, H], and the state after the last token."""
        states_BTH, state = read_forwards(self.lstm, self.dropout(embedded_BTE), state)
        return self.dropout(states_BTH), state

    def detached(self, state: State) -> State:
        """The state without its gradient history."""
        hidden_NBH, cell_NBH = state
        return hidden_NBH.detach(), cell_NBH.detach()


def read_forwards(lstm: nn.LSTM, x_BTE: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Runs an LSTM so that it can be exported for texts of any length.

    torch's exporters decompose `nn.LSTM` and freeze the number of tokens of the example. During an export, the
    recurrence is therefore expressed as a scan over time, which is an ONNX operator too.

    Args:
        lstm: a unidirectional LSTM with ``batch_first``.
        x_BTE: the inputs.
        state: the initial state, two of [N, B, H]; None for zeros.

    Returns:
        The states at each token [B, T, H], and the state after the last token, two of [N, B, H].
    """
    if not torch.compiler.is_exporting():
        return lstm(x_BTE, state)
    ends: list[State] = []
    for layer in range(lstm.num_layers):
        zero_BH = torch.zeros(1, lstm.hidden_size, dtype=x_BTE.dtype, device=x_BTE.device).repeat(x_BTE.shape[0], 1)
        start = (zero_BH, zero_BH.clone()) if state is None else (state[0][layer], state[1][layer])
        x_BTE, end = _scan_layer(lstm, layer, x_BTE, start)
        ends.append(end)
    hidden_NBH, cell_NBH = (torch.stack([end[i] for end in ends]) for i in (0, 1))
    return x_BTE, (hidden_NBH, cell_NBH)


def _scan_layer(lstm: nn.LSTM, layer: int, x_BTE: Tensor, start: State) -> tuple[Tensor, State]:
    from torch._higher_order_ops.scan import scan  # the only loop of variable length in torch.export

    of_input, of_hidden, bias_input, bias_hidden = (
        getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    gates_TBG = (x_BTE @ of_input.t() + bias_input + bias_hidden).transpose(0, 1)

    def step(carried: State, gates_BG: Tensor) -> tuple[State, Tensor]:
        hidden_BH, cell_BH = carried
        enter_BH, forget_BH, new_BH, leave_BH = (gates_BG + hidden_BH @ of_hidden.t()).chunk(4, -1)
        cell_BH = forget_BH.sigmoid() * cell_BH + enter_BH.sigmoid() * new_BH.tanh()
        hidden_BH = leave_BH.sigmoid() * cell_BH.tanh()
        return (hidden_BH, cell_BH), hidden_BH.clone()

    end, states_TBH = scan(step, start, gates_TBG)
    return states_TBH.transpose(0, 1), end
