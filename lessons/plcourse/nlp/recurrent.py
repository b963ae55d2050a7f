"""Lesson 19: an LSTM that can be exported for texts of any length.

torch's exporters decompose `nn.LSTM` and freeze the number of tokens of the example. During tracing, the recurrence is
expressed as a scan over time, which is an ONNX operator as well; otherwise it is `nn.LSTM`.

Shapes: B rows, T tokens, E inputs, H hidden, N layers.
"""

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


def read_forwards(lstm: nn.LSTM, x_BTE: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """The states at each token [B, T, H], and after the last, two of [N, B, H].

    Args:
        lstm: a unidirectional LSTM with ``batch_first``.
        x_BTE: the inputs.
        state: the initial state, two of [N, B, H]; None for zeros.
    """
    if not torch.compiler.is_exporting():
        return lstm(x_BTE, state)
    behind: list[State] = []
    for layer in range(lstm.num_layers):
        zero_BH = torch.zeros(1, lstm.hidden_size, dtype=x_BTE.dtype, device=x_BTE.device).repeat(x_BTE.shape[0], 1)
        start = (zero_BH, zero_BH.clone()) if state is None else (state[0][layer], state[1][layer])
        x_BTE, last = _layer(lstm, layer, x_BTE, start)
        behind.append(last)
    hidden_NBH, cell_NBH = (torch.stack([last[i] for last in behind]) for i in (0, 1))
    return x_BTE, (hidden_NBH, cell_NBH)


def _layer(lstm: nn.LSTM, layer: int, x_BTE: Tensor, start: State) -> tuple[Tensor, State]:
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

    last, states_TBH = scan(step, start, gates_TBG)
    return states_TBH.transpose(0, 1), last
