"""Measures how fast nlp/tinyshakespeare learns on this machine, against nanoGPT's settings for a CPU.

Both hold out the last tenth of the text and are scored on all of it. The peer is a plain loop in this file with the
settings of nanoGPT's README for a CPU: 4 layers of width 128, context 64, batches of 12, 2,000 steps, AdamW with a
warm-up of 100 steps and a cosine from 1e-3 to 1e-4, learned positions, GELU, no dropout, no compilation. Seconds are
those of training; for the config, they include its one validation. Processor seconds of all threads show how much of
the time another program took.

    python scripts/benchmarks/measure_char_lm.py tinyshakespeare.txt [--steps 800 1200] [--rounds 1] [--threads 2]
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import plcourse

CONTEXT, BATCH, STEPS, WARMUP, WIDTH, LAYERS, HEADS = 64, 12, 2000, 100, 128, 4, 4


class PeerBlock(nn.Module):
    """Attention and a feed-forward network as in GPT-2, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x_BTE: Tensor) -> Tensor:
        n_rows, n_tokens, _ = x_BTE.shape
        qkv_3BNTD = self.qkv(self.norms[0](x_BTE)).view(n_rows, n_tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed_BNTD = functional.scaled_dot_product_attention(*qkv_3BNTD.unbind(0), is_causal=True)
        x_BTE = x_BTE + self.out(mixed_BNTD.transpose(1, 2).reshape(n_rows, n_tokens, WIDTH))
        return x_BTE + self.down(functional.gelu(self.up(self.norms[1](x_BTE))))


class Peer(nn.Module):
    """A GPT-2 of the size that nanoGPT trains on a CPU."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(PeerBlock() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if last else 0.02)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTE = self.tokens(tokens_BT) + self.places.weight[: tokens_BT.shape[1]]
        return self.head(self.norm(self.blocks(x_BTE)))


def peer(path: Path, seed: int) -> tuple[float, float]:
    """Trains the peer; returns validation loss in nats per character, and seconds of training."""
    text = path.read_text(encoding="utf-8")
    symbols = sorted(set(text))
    codes = torch.from_numpy(np.array([symbols.index(c) for c in symbols])[np.searchsorted(symbols, list(text))])
    cut = int(0.9 * len(codes))
    train_N, val_N = codes[:cut], codes[cut:]
    torch.manual_seed(seed)
    model = Peer(len(symbols))
    decayed = [each for each in model.parameters() if each.dim() == 2]
    others = [each for each in model.parameters() if each.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    place_T = torch.arange(CONTEXT)
    start = time.perf_counter()
    for step in range(STEPS):
        decay = (step - WARMUP) / (STEPS - WARMUP)
        rate = 1e-3 * (step + 1) / (WARMUP + 1) if decay < 0 else 1e-4 + 9e-4 * (1 + math.cos(math.pi * decay)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(train_N) - CONTEXT, (BATCH,))[:, None] + place_T
        loss = functional.cross_entropy(model(train_N[rows]).flatten(0, 1), train_N[rows + 1].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - start
    n = (len(val_N) - 1) // CONTEXT * CONTEXT
    x_BT, y_BT = val_N[:n].view(-1, CONTEXT), val_N[1 : n + 1].view(-1, CONTEXT)
    with torch.inference_mode():
        parts = [
            functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
            for x, y in zip(x_BT.split(256), y_BT.split(256), strict=True)
        ]
    return sum(parts) / n, seconds


def suite(path: Path, seed: int, steps: int) -> tuple[float, float]:
    """Trains the packaged config with one schedule over `steps` steps, validated at the end; returns the same."""
    with tempfile.TemporaryDirectory() as root:
        overrides = {
            "seed_everything": seed,
            "data.init_args.path": str(path),
            "trainer.max_steps": steps,
            "trainer.val_check_interval": steps,
            "trainer.enable_progress_bar": False,
        }
        run = plcourse.run("fit", "nlp/tinyshakespeare", overrides, runs_root=root)
        loss = [row["value"] for row in run.metrics if row["metric"] == "val/loss"][-1]
        return loss, run.record["training_seconds"]


def main() -> None:
    """Prints one row per training, the two sides in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[800, 1200])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| training | seed | steps | val loss, nats per character | seconds | processor seconds |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    for seed in range(options.rounds):
        for name, steps in [
            *(("nlp/tinyshakespeare", steps) for steps in options.steps),
            ("nanoGPT's settings", STEPS),
        ]:
            before = time.process_time()
            ours = name.startswith("nlp/")
            loss, seconds = suite(options.path, seed, steps) if ours else peer(options.path, seed)
            used = time.process_time() - before
            print(f"| {name} | {seed} | {steps:,} | {loss:.4f} | {seconds:.1f} | {used:.1f} |", flush=True)


if __name__ == "__main__":
    main()
