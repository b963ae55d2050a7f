"""The Trainer, its loops, and what keeps a training run exact: checkpoints, signals, random states."""
