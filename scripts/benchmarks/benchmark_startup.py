"""Measures how long commands take that do not need torch, as whole processes: the median of ten runs each.

These are the verbs that only look, and running verbs with a mistake, which are answered before torch is imported.

python scripts/benchmarks/benchmark_startup.py
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOOKS = (["-h"], ["--version"], ["ls"], ["cat", "ddp/two_processes"], ["fit", "-h"])
FILES = {
    "syntax.yaml": "trainer: {max_epochs: 1\n",
    "key.yaml": "trainer: {max_epoch: 1}\n",
    "nested_key.yaml": "model: {class_path: GAN, init_args: {generator: {class_path: MLP, init_args: {x: 1}}}}\n",
}
MISTAKES = (
    ["fitt", "-c", "ddp/mlp"],
    ["fit", "-c", "ddp/mpl"],
    ["fit", "-c", "ddp/mlp", "--trainer.max_epoch=3"],
    *(["fit", "-c", name] for name in FILES),
    ["sweep", "--arms", "key.yaml"],
    ["doctor", "-c", "key.yaml"],
    ["benchmark", "latency", "--run", "nowhere"],
)
WITHOUT_TORCH = """
import sys
from plcourse.__main__ import main
try:
    main(sys.argv[1:])
finally:
    assert "torch" not in sys.modules
"""


def main() -> None:
    """Times the commands in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    program = shutil.which("plcourse", path=str(Path(sys.executable).parent)) or "plcourse"
    commands = {" ".join(words): words for words in (*LOOKS, *MISTAKES)}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            (Path(folder) / name).write_text(text)
        for turn in range(rounds + 1):
            for name, words in commands.items():
                start = time.perf_counter()
                done = subprocess.run([program, *words], capture_output=True, cwd=folder)
                if turn:  # the first is a warm-up
                    seconds[name].append(time.perf_counter() - start)
                assert done.returncode == (2 if words in MISTAKES else 0), done.stderr.decode()
        for name, words in commands.items():
            looked = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, cwd=folder)
            assert b"AssertionError" not in looked.stderr, f"plcourse {name} imports torch"
    for name, values in seconds.items():
        print(f"plcourse {name:42} {statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
