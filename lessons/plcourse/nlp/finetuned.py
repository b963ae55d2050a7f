"""Lesson 19: a pretrained language model, fine-tuned as a classifier.

A language model learns which words go together from texts without labels. Its network without the last layer reads a
text (Dai and Le 2015, arXiv 1511.01432), and a new layer scores the classes from the last state and from the mean and
maximum of all states (concat pooling, Howard and Ruder 2018, arXiv 1801.06146, section 3.3).

    plcourse fit -c nlp/word_lstm --data.init_args.source imdb --data.init_args.train_size 20000
    plcourse fit -c nlp/sentiment_finetuned --then test,predict

Shapes: B texts, T tokens, E embedding, H features, K classes.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from plcourse.data.provenance import trainings_of
from plcourse.errors import UserError
from plcourse.nlp.networks import TextNetwork, mask_of
from plcourse.nlp.tokenizers import END
from plcourse.runs.run import Run, runs_root
from plcourse.training.checkpoint import load
from plcourse.training.leak_check import learn


class LanguageModelClassifier(TextNetwork):
    """The network of a language model, and a linear layer on its pooled states.

    Args:
        encoder: `LSTMLanguageModel` or `GPT`; its last layer is removed.
        num_classes: K.
        dropout: dropout of the pooled features, 0 to below 1.
    """

    def __init__(self, encoder: nn.Module, num_classes: int = 2, dropout: float = 0.5) -> None:
        super().__init__()
        language_model: Any = encoder
        language_model.head = nn.Identity()
        self.encoder, self.vocab_size = language_model, language_model.vocab_size
        # one position is for the end token before a text
        self.longest = None if language_model.context is None else language_model.context - 1
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(3 * language_model.features_size, num_classes)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The language model's embedding of each token, [B, T, E]."""
        return self.encoder.embedding(tokens_BT)

    def score(self, embedded_BTE: Tensor, length_B: Tensor) -> Tensor:
        """The scores [B, K] of embedded texts, each preceded by an end token as in the language model's training."""
        start_B1E = self.embed(torch.full_like(length_B, END).unsqueeze(1))
        states_BTH = self.encoder.read(torch.cat([start_B1E, embedded_BTE], dim=1))[0][:, 1:]
        mask_BT1 = mask_of(states_BTH, length_B).unsqueeze(-1)
        # not gather: the reference runtime that verifies exports supports none beyond 64 positions
        place_T = torch.arange(states_BTH.shape[1], device=length_B.device)
        last_BT1 = (place_T == length_B.unsqueeze(-1) - 1).unsqueeze(-1)
        last_BH = (states_BTH * last_BT1).sum(dim=1)
        mean_BH = (states_BTH * mask_BT1).sum(dim=1) / length_B.unsqueeze(-1)
        largest_BH = states_BTH.masked_fill(~mask_BT1, torch.finfo(states_BTH.dtype).min).amax(dim=1)
        return self.head(self.dropout(torch.cat([last_BH, mean_BH, largest_BH], dim=1)))


def take_over(network: nn.Module, run: str, model: pl.LightningModule | None = None) -> dict[str, Any]:
    """Copies the weights of a trained language model into a classifier, and returns the state of its tokenizer.

    Args:
        network: a `LanguageModelClassifier`.
        run: a run of a `LanguageModel` by folder or name, for its best checkpoint; or a ``.ckpt`` file.
        model: the model that contains the classifier; it records which texts the language model was trained on.

    Raises:
        UserError: the network has no encoder, there is no such run, or its network differs from the encoder.
    """
    if not isinstance(network, LanguageModelClassifier):
        raise UserError(
            f"pretrained={run} needs a LanguageModelClassifier as the network, not {type(network).__name__}"
        )
    path = Path(run) if run.endswith(".ckpt") else Run.load(run, runs_root()).checkpoint("best")
    checkpoint = load(path)
    if "LanguageData" not in checkpoint:
        raise UserError(f"pretrained={run}: {path} is not a checkpoint of a language model")
    weights = {
        name.removeprefix("network."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("network.") and not name.startswith("network.head.")
    }
    own = network.encoder.state_dict()
    for name in [*weights, *own]:
        there, here = (tuple(state[name].shape) if name in state else None for state in (weights, own))
        if there != here:
            raise UserError(
                f"pretrained={run}: {name} is {there or 'missing'} in that run and {here or 'missing'} in the encoder; "
                "give the encoder the class and sizes of that run's model.network"
            )
    network.encoder.load_state_dict(weights)
    if model is not None:
        learn(model, trainings_of(checkpoint, path.parent))
    return checkpoint["LanguageData"]["tokenizer"]
