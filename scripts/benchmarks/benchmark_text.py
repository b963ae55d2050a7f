"""Measures what the techniques of lesson 19 save: padding by bucketing, time and memory by a sampled loss.

Times are processor seconds on one thread, so that they can be measured on a machine with other work.

    python scripts/benchmarks/benchmark_text.py [--steps 20]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from plcourse.data import TrainSampler
from plcourse.nlp.gpt import GPT
from plcourse.nlp.language_model import LanguageModel
from plcourse.nlp.lstm import LSTMLanguageModel
from plcourse.nlp.sampled import sampled_cross_entropy
from plcourse.nlp.splits import BucketSampler, TextSplits

VOCABULARY, ROWS, LENGTH = 20_000, 32, 32


def padding() -> None:
    """Prints the fraction of padding in the training batches of Rotten Tomatoes, shuffled and bucketed."""
    splits = TextSplits("rotten_tomatoes", None, "text", "label", "raise", 0.1, 0.1, 0, None, "words", VOCABULARY, None)
    lengths = splits.dataset_of("train").lengths
    samplers = {"shuffled": TrainSampler(len(lengths), 64), "similar length": BucketSampler(lengths, 64)}
    for name, sampler in samplers.items():
        batches = [lengths[batch] for batch in sampler.batches(0)]
        padded = sum(len(batch) * batch.max() for batch in batches)
        print(f"| batches of 64, {name} | {1 - lengths.sum() / padded:.1%} padding |")


def step_of(model: LSTMLanguageModel, tokens_BT: torch.Tensor, sampled: int | None) -> Callable[[], None]:
    """One training step with AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    target_N = tokens_BT[:, 1:].flatten()

    def step() -> None:
        features_NE = model.read(model.embedding(tokens_BT[:, :-1]))[0].flatten(0, 1)
        if sampled is None:
            loss = torch.nn.functional.cross_entropy(model.head(features_NE), target_N)
        else:
            loss = sampled_cross_entropy(features_NE, target_N, model.head.weight, model.head.bias, sampled)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(call: Callable[[], object], times: int) -> float:
    """Returns the median processor seconds of a call."""
    call()
    taken = []
    for _ in range(times):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def main() -> None:
    """Prints one row per measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    padding()
    tokens_BT = torch.from_numpy(np.random.default_rng(0).integers(3, VOCABULARY, (ROWS, LENGTH + 1)))
    for name, sampled in (("all words", None), ("1,024 sampled words", 1024)):
        model = LSTMLanguageModel(VOCABULARY, 100, 128)
        taken = seconds(step_of(model, tokens_BT, sampled), options.steps)
        scores = ROWS * LENGTH * ((sampled or VOCABULARY) + (sampled is not None)) * 4 / 2**20
        print(f"| step over {ROWS * LENGTH:,} words, {name} | {taken * 1e3:.0f} ms, {scores:.0f} MiB of scores |")
    network = LanguageModel(GPT(128, 128, 3, 4, 128)).network.eval()
    prompt_BT = torch.randint(3, 128, (1, 100))
    with torch.inference_mode():
        _, past = network(prompt_BT)
        for name, call in (
            ("its keys and values kept", lambda: network(prompt_BT[:, -1:], past)),
            ("all tokens read again", lambda: network(torch.cat([prompt_BT, prompt_BT[:, -1:]], 1))),
        ):
            print(f"| GPT's next character after 100, {name} | {seconds(call, options.steps) * 1e3:.1f} ms |")


if __name__ == "__main__":
    main()
