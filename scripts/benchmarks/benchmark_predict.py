"""Measures prediction: rows per second and memory of the streaming loop, of a naive writer and of no writer.

All three compute the same columns of the same rows with a small MLP on a generated table, in batches of 65,536 rows:

- plain: a torch loop that keeps nothing, the lower bound;
- streaming: the suite's Trainer with `StreamingPredictLoop`, which commits and publishes Parquet shards;
- naive: Lightning's Trainer with a callback that writes one table per batch with Arrow's defaults.

    python scripts/benchmarks/benchmark_predict.py             # speed, in turns
    python scripts/benchmarks/benchmark_predict.py --memory    # peak memory of 1 and of 32 million rows
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch

import plcourse
from plcourse.cli import quieten
from plcourse.ddp.networks import MLP
from plcourse.evaluation.data import EvaluationData
from plcourse.evaluation.model import Classifier
from plcourse.evaluation.streaming_loop import StreamingPredictLoop
from plcourse.runs.prediction_writer import PredictionWriter

BATCH = 65_536
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
}


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(MLP(in_features=16, num_classes=4, hidden=(32,)), num_classes=4)


def data(rows: int) -> EvaluationData:
    return EvaluationData("generated", rows=rows, eval_batch_size=BATCH, val_size=1000, test_size=1000)


def plain(rows: int, folder: Path) -> float:
    """Predicts without a writer and without a Trainer."""
    model, loader = classifier().eval(), data(rows).predict_dataloader()
    start = time.perf_counter()
    with torch.inference_mode():
        for index, batch in enumerate(loader):
            model.predict_step(batch, index)
    return time.perf_counter() - start


def streaming(rows: int, folder: Path) -> float:
    """Predicts with the suite."""

    def loop(trainer: pl.Trainer) -> StreamingPredictLoop:
        return StreamingPredictLoop(trainer, output_dir=str(folder))

    return seconds_of(plcourse.Trainer(predict_loop=loop, **QUIET), rows)


def naive(rows: int, folder: Path) -> float:
    """Predicts with Lightning's Trainer and writes one table per batch."""
    writer = PredictionWriter(folder, [f"class_{k}" for k in range(4)])
    return seconds_of(pl.Trainer(callbacks=[writer], **QUIET), rows)


def seconds_of(trainer: pl.Trainer, rows: int) -> float:
    model, module = classifier(), data(rows)
    start = time.perf_counter()
    trainer.predict(model, datamodule=module, return_predictions=False)
    return time.perf_counter() - start


WAYS = {"plain": plain, "streaming": streaming, "naive": naive}


def rows_on_disk(folder: Path) -> int:
    return sum(pq.ParquetFile(path).metadata.num_rows for path in folder.glob("*.parquet"))


def speed(rows: int, rounds: int) -> None:
    """Times the three in turns and prints medians; the first round is not counted."""
    per_second: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way, run in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds = run(rows, Path(folder) / "predictions")
                if way != "plain":
                    assert rows_on_disk(Path(folder) / "predictions") == rows, way
            if turn:
                per_second[way].append(rows / seconds / 1e6)
    print(f"{rows:,} rows, batches of {BATCH:,}, {torch.get_num_threads()} threads, {rounds} rounds")
    for way, values in per_second.items():
        print(f"{way:9} {spread(values)} million rows a second")
    for other in ("naive", "plain"):
        ratios = [a / b for a, b in zip(per_second["streaming"], per_second[other], strict=True)]
        print(f"streaming / {other}: {spread(ratios)}")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def memory(sizes: list[int]) -> None:
    """Prints the peak memory of one process for each number of rows."""
    peaks = []
    for rows in sizes:
        command = [sys.executable, __file__, "--peak", str(rows)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]))
        print(f"{rows:,} rows: {peaks[-1]:.1f} MiB at most")
    print(f"growth: {peaks[-1] - peaks[0]:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000, help="rows per run")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after one to warm up")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of speed")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 32_000_000], help="rows for --memory")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    quieten()
    if options.peak:
        with tempfile.TemporaryDirectory() as folder:
            streaming(options.peak, Path(folder))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elif options.memory:
        memory(options.sizes)
    else:
        speed(options.rows, options.rounds)


if __name__ == "__main__":
    main()
