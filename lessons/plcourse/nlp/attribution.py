"""Lesson 19: which words a prediction rests on.

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365, equation 1) average the gradient of the predicted
class's score along a straight line of embeddings, from a baseline text of unknown tokens to the text itself. The
attribution of token t, with embedding e_t and baseline b_t, is

    a_t = (e_t - b_t) . mean over s in (0, 1) of d score / d e_t  at  b + s (e - b)

The attributions sum to the score of the text minus that of the baseline (completeness, proposition 1). With finitely
many steps the sum deviates; the deviation is reported beside each text.

Shapes: B texts, T tokens, E embedding.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from plcourse.console import say
from plcourse.errors import UserError
from plcourse.nlp.data import TextData
from plcourse.nlp.networks import TextNetwork
from plcourse.nlp.tokenizers import UNKNOWN
from plcourse.training.metrics import probabilities
from plcourse.training.variant import results_folder


@dataclass(frozen=True)
class Attribution:
    """Integrated gradients of B texts.

    Attributes:
        values: [B, T], the attribution of each token; 0 for padding.
        score: [B], the score of the predicted class.
        baseline: [B], the score of the same class for the baseline.
    """

    values: Tensor
    score: Tensor
    baseline: Tensor

    @property
    def gap(self) -> Tensor:
        """[B], the deviation from completeness, which tends to 0 with many steps."""
        return (self.values.sum(dim=1) - (self.score - self.baseline)).abs()


def integrated_gradients(network: nn.Module, tokens_BT: Tensor, length_B: Tensor, steps: int = 32) -> Attribution:
    """Attributes the largest score, relative to the mean of the others, to the tokens.

    Args:
        network: has ``embed`` (tokens to [B, T, E]) and ``score`` (embeddings and lengths to [B, K]).
        tokens_BT: int64, padded.
        length_B: int64.
        steps: midpoints along the line, 1 or more.
    """
    net = cast(TextNetwork, network)  # or any other network with these two methods
    with torch.inference_mode(False), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        tokens_BT, length_B = tokens_BT.clone(), length_B.clone()
        unknown_BT = torch.where(tokens_BT > 0, UNKNOWN, tokens_BT)
        end_BTE, start_BTE = net.embed(tokens_BT).detach(), net.embed(unknown_BT).detach()
        label_B = probabilities(net.score(end_BTE, length_B)).argmax(dim=1)
        total_BTE = torch.zeros_like(end_BTE)
        for step in range(steps):
            at_BTE = (start_BTE + (step + 0.5) / steps * (end_BTE - start_BTE)).requires_grad_()
            margin_B = _margin(net.score(at_BTE, length_B), label_B)
            total_BTE += torch.autograd.grad(margin_B.sum(), at_BTE)[0]
        values_BT = ((end_BTE - start_BTE) * total_BTE).sum(dim=-1) / steps
        ends = [_margin(net.score(each, length_B), label_B).detach() for each in (end_BTE, start_BTE)]
    return Attribution(values_BT * (tokens_BT > 0), *ends)


def _margin(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    """The score of a class minus the mean of the other scores."""
    own_B = logits_BK.gather(1, label_B.unsqueeze(1)).squeeze(1)
    return own_B - (logits_BK.sum(dim=1) - own_B) / (logits_BK.shape[1] - 1)


class Attributions(pl.Callback):
    """Explains the first predictions by the words they rest on.

    Prints the words with the largest attributions and writes all of them to ``plots/attributions.html``, a
    self-contained page.

    Args:
        texts: predictions to explain, 0 or more.
        steps: midpoints of the integral, 1 or more.
        words: words to print per text, 1 or more.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, texts: int = 10, steps: int = 32, words: int = 5) -> None:
        if texts < 0 or steps < 1 or words < 1:
            raise ValueError(f"texts={texts}, steps={steps}, words={words}: must be at least 0, 1 and 1")
        self.texts, self.steps, self.words = texts, steps, words
        self._rows: list[str] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins a new page.

        Raises:
            UserError: the network does not expose its embeddings.
        """
        network = pl_module.network
        if self.texts and not (hasattr(network, "embed") and hasattr(network, "score")):
            raise UserError(
                f"Attributions needs a network with `embed` and `score`, which {type(network).__name__} lacks; "
                "remove the callback"
            )
        self._rows = []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explains texts on rank 0 until enough have been explained."""
        left = self.texts - len(self._rows)
        if left <= 0 or not trainer.is_global_zero:
            return
        data: TextData = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
        tokens_BT, length_B = batch["text"][:left], batch["length"][:left]
        found = integrated_gradients(cast(nn.Module, pl_module.network), tokens_BT, length_B, self.steps)
        for row, n in enumerate(length_B.tolist()):
            words = [data.tokenizer.decode([token]).strip() or "?" for token in tokens_BT[row, :n].tolist()]
            values = found.values[row, :n].tolist()
            label = int(outputs["label"][row])
            name, probability = data.label_names[label], float(outputs["probability"][row, label])
            number = int(batch["label"][row]) if "label" in batch else -1
            true = None if number < 0 else data.label_names[number]
            explained = float(found.score[row] - found.baseline[row])
            gap = f"completeness within {float(found.gap[row]):.1e} of {explained:.3g}"
            first = sorted(range(n), key=lambda i: -abs(values[i]))[: self.words]
            largest = ", ".join(f"{words[i]} {values[i]:+.2f}" for i in first)
            said = f"{name} {probability:.3f}{'' if true is None else f', true {true}'}"
            say(f"{batch['id'][row]}: {said}; {largest}; {gap}")
            verdict = "" if true is None else f"; true label {true}, {'right' if true == name else 'wrong'}"
            fact = f"predicted {name} with probability {probability:.3f}{verdict}; {gap}"
            title = f'<h2>{html.escape(str(batch["id"][row]))}</h2>\n<p class="fact">{html.escape(fact)}</p>'
            self._rows.append(f"<article>{title}\n<p>{marked(words, values)}</p></article>")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the page on rank 0."""
        if trainer.is_global_zero and self._rows:
            path = results_folder(trainer) / "plots" / "attributions.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            page = Template(Path(__file__).with_name("attributions.html").read_text(encoding="utf-8"))
            path.write_text(page.substitute(rows="\n".join(self._rows)), encoding="utf-8")


def marked(words: Sequence[str], values: Sequence[float]) -> str:
    """Words as HTML: blue supports the predicted class, red and underlined opposes it, stronger for larger values."""
    largest = max(map(abs, values), default=0.0) or 1.0
    spans = []
    for word, value in zip(words, values, strict=True):
        side, strength = "for" if value > 0 else "against", abs(value) / largest
        faint = " faint" if strength < 0.1 else ""
        style = f'style="--s: {strength:.2f}" title="{value:+.4f}"'
        spans.append(f'<span class="{side}{faint}" {style}>{html.escape(word)}</span>')
    return " ".join(spans)
