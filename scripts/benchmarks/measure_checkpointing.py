"""Measures what activation checkpointing saves and costs: lesson 12's ResNet with and without it, in turns.

Each measurement is a separate process with a few training steps. It reports the peak resident memory above that before
the steps, and the median time of a step. On a GPU, with --device cuda, the memory is what torch allocated.

    python scripts/benchmarks/measure_checkpointing.py
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch.nn import functional

from plcourse.ddp.networks import ResNet

MIB = 2**20
WIDTHS, SIZE = (16, 32, 64), 28  # the main job's network and images


def measure(recompute: bool, blocks: int, batch: int, steps: int, device: str) -> dict[str, float]:
    """Returns memory in MiB and seconds per step, measured in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = ResNet(widths=WIDTHS, blocks=blocks, recompute=recompute).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    image, label = torch.randn(batch, 1, SIZE, SIZE, device=device), torch.randint(10, (batch,), device=device)
    small = functional.cross_entropy(network(image[:2]), label[:2])
    small.backward()  # loads libraries and makes gradients before the memory is read
    before = peak(device)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=False)
        functional.cross_entropy(network(image), label).backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"memory": peak(device) - before, "seconds": statistics.median(seconds)}


def peak(device: str) -> float:
    """Returns the peak memory so far, in MiB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures in turns and prints medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements")
    parser.add_argument("--blocks", type=int, default=3, help="residual blocks per stage")
    parser.add_argument("--batch", type=int, default=128, help="samples per step")
    parser.add_argument("--steps", type=int, default=5, help="steps per measurement")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--only", choices=("kept", "recomputed"), help="make one measurement in this process and print it as JSON"
    )
    options = parser.parse_args()
    settings = (options.blocks, options.batch, options.steps, options.device)
    if options.only:
        print(json.dumps(measure(options.only == "recomputed", *settings)))
        return
    arguments = [f"--{name}={getattr(options, name)}" for name in ("blocks", "batch", "steps", "device")]
    found: dict[str, list[dict[str, float]]] = {"kept": [], "recomputed": []}
    for _ in range(options.rounds):
        for only, results in found.items():
            command = [sys.executable, __file__, "--only", only, *arguments]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout))
    print(f"{options.blocks} blocks per stage, batch {options.batch}, {options.rounds} rounds, {options.device}")
    for only, results in found.items():
        memory, seconds = (statistics.median(result[key] for result in results) for key in ("memory", "seconds"))
        print(f"{only:10} {memory:6.0f} MiB, {seconds * 1e3:7.1f} ms a step")
    for key in ("memory", "seconds"):
        ratios = [b[key] / a[key] for a, b in zip(found["kept"], found["recomputed"], strict=True)]
        print(f"recomputed / kept, {key}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
