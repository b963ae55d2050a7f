"""What each sentiment network scores over seeds, beside TF-IDF on the same split, and what it costs.

python scripts/measure_sentiment.py [--sources rotten_tomatoes imdb] [--models bag cnn lstm] [--seeds 3]
"""

import argparse
import statistics
import tempfile
import time

import torch

import plcourse
from plcourse.core.checkpoint import load

MODELS = ("bag", "cnn", "lstm")


def main() -> None:
    """Runs one seed after the other and prints a row each, then a row for each model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", nargs="+", default=["rotten_tomatoes", "imdb"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = ["| texts | model | accuracy | TF-IDF | difference (95 %, first seed) | training, s | parameters |"]
    lines.append("|---|---|---|---|---|---|---|")
    for source in options.sources:
        for model in options.models:
            rows = [one(source, model, seed) for seed in range(options.seeds)]
            accuracy = [row["accuracy"] for row in rows]
            first = rows[0]
            lines.append(
                f"| {source} | {model} | {statistics.mean(accuracy):.4f} "
                f"({min(accuracy):.4f} to {max(accuracy):.4f}) | "
                f"{first['tfidf_accuracy']:.4f} | {first['minus_tfidf']:+.4f} [{first['minus_tfidf_low']:+.4f}, "
                f"{first['minus_tfidf_high']:+.4f}] | {statistics.median(row['seconds'] for row in rows):.0f} | "
                f"{first['parameters']:,.0f} |"
            )
    print("\n" + "\n".join(lines))


def one(source: str, model: str, seed: int) -> dict[str, float]:
    """Trains and tests one network; the seconds are those of the fit, data and validation included."""
    with tempfile.TemporaryDirectory() as root:
        overrides = {
            "seed_everything": seed,
            "data.init_args.source": source,
            "trainer.enable_progress_bar": False,
        }
        start = time.perf_counter()
        run = plcourse.run("fit", f"nlp/sentiment_{model}", overrides, runs_root=root)
        seconds = time.perf_counter() - start
        run.test()
        weights = load(run.path / "checkpoints" / "best.ckpt")["state_dict"]
        scores = {name.removeprefix("test/"): value for name, value in run.eval("test")["metrics"].items()}
    scores["seconds"] = seconds
    scores["parameters"] = sum(value.numel() for name, value in weights.items() if name.startswith("network."))
    print(f"# {source} {model} seed {seed}: {scores['accuracy']:.4f} in {seconds:.0f} s", flush=True)
    return scores


if __name__ == "__main__":
    main()
