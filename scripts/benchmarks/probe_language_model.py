"""Measures what a language model knows about sentiment before it sees a label: a linear probe on its features.

The probe is a logistic regression (Alain and Bengio 2016, arXiv 1610.01644) on means over a text's words: of the
embeddings, of the rows of the last layer, of the states, and for comparison of random embeddings of the same size. C is
chosen on the validation part of Rotten Tomatoes.

    python scripts/benchmarks/probe_language_model.py [nlp/word_lstm/latest]
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from plcourse.nlp.data import TextData
from plcourse.nlp.lstm import LSTMLanguageModel
from plcourse.nlp.splits import TokenDataset
from plcourse.nlp.tokenizers import END
from plcourse.runs.run import Run, runs_root
from plcourse.training.checkpoint import load

C = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)


def main() -> None:
    """Prints one row for each kind of feature."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", default="nlp/word_lstm/latest", help="a run of nlp/word_lstm with one layer")
    options = parser.parse_args()
    checkpoint = load(Run.load(options.run, runs_root()).checkpoint("best"))
    network = network_of(checkpoint["state_dict"])
    data = TextData(source="rotten_tomatoes", max_length=None)
    data.load_state_dict({"tokenizer": checkpoint["LanguageData"]["tokenizer"], "label_names": data.label_names})
    parts = {part: data.splits.dataset_of(part) for part in ("train", "val", "test")}

    torch.manual_seed(0)
    random = torch.randn_like(network.embedding.weight)
    features: dict[str, Callable[[Tensor], Tensor]] = {
        "embeddings": lambda tokens_T: network.embedding.weight[tokens_T],
        "rows of the last layer": lambda tokens_T: network.head.weight[tokens_T],
        "states": lambda tokens_T: states(network, tokens_T),
        "random embeddings": lambda tokens_T: random[tokens_T],
    }
    print("| mean over words of | validation | test |\n|---|---|---|")
    for name, feature in features.items():
        val, test = probe(parts, feature)
        print(f"| {name} | {val:.3f} | {test:.3f} |", flush=True)


def network_of(weights: dict[str, Any]) -> LSTMLanguageModel:
    """Builds the network of a checkpoint's ``state_dict``, with the sizes of its weights."""
    own = {name.removeprefix("network."): value for name, value in weights.items() if name.startswith("network.")}
    (vocab_size, embedding), hidden = own["embedding.weight"].shape, own["lstm.weight_hh_l0"].shape[1]
    network = LSTMLanguageModel(vocab_size, embedding, hidden)
    network.load_state_dict(own)
    return network.eval()


def states(network: LSTMLanguageModel, tokens_T: Tensor) -> Tensor:
    """Returns the state at each word, [T, H]; the text follows an end token, as in training."""
    return network.read(network.embedding(torch.cat([torch.tensor([END]), tokens_T]).unsqueeze(0)))[0][0, 1:]


@torch.inference_mode()
def probe(parts: dict[str, TokenDataset], feature: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Returns validation and test accuracy of the regression whose C is best in validation."""
    x = {
        part: np.stack([feature(torch.from_numpy(each).long()).mean(dim=0).numpy() for each in texts.tokens])
        for part, texts in parts.items()
    }
    y = {part: texts.labels.numpy() for part, texts in parts.items()}
    models = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in C]
    fitted = [model.fit(x["train"], y["train"]) for model in models]
    best = max(fitted, key=lambda model: model.score(x["val"], y["val"]))
    return best.score(x["val"], y["val"]), best.score(x["test"], y["test"])


if __name__ == "__main__":
    main()
