"""Measures how long the verbs that only look take, as whole processes: the median of ten runs each.

python scripts/benchmarks/benchmark_startup.py
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = (["-h"], ["--version"], ["ls"], ["cat", "ddp/two_processes"], ["fit", "-h"])
LOOKS = "import sys; from plcourse.__main__ import main; main({}); assert 'torch' not in sys.modules; print('no torch')"


def main() -> None:
    """Times the commands in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    program = shutil.which("plcourse", path=str(Path(sys.executable).parent)) or "plcourse"
    seconds: dict[str, list[float]] = {" ".join(arguments): [] for arguments in COMMANDS}
    for turn in range(rounds + 1):
        for arguments in COMMANDS:
            start = time.perf_counter()
            subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first is a warm-up
                seconds[" ".join(arguments)].append(time.perf_counter() - start)
    for arguments in COMMANDS:
        looked = subprocess.run(
            [sys.executable, "-c", LOOKS.format(arguments)], capture_output=True, text=True, check=True
        )
        assert looked.stdout.endswith("no torch\n")
        values = seconds[" ".join(arguments)]
        spread = f"({min(values):.3f} to {max(values):.3f})"
        print(f"plcourse {' '.join(arguments):24} {statistics.median(values):.3f} s {spread}")


if __name__ == "__main__":
    main()
