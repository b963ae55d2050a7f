"""Plans and folders of sweeps that have yet to run."""

from pathlib import Path

from plcourse.verbs.sweep.command import read_command
from plcourse.verbs.sweep.plan import SweepPlan
from plcourse.verbs.sweep.sweep import ResolvedConfig, Sweep

ARMS = ("--arms", "ddp/one_process", "ddp/two_processes")


def plan_of(*arguments: str) -> SweepPlan:
    plan = read_command(list(arguments)).plan
    assert plan is not None
    return plan


def made(plan: SweepPlan, runs: Path) -> Sweep:
    text = "# made by hand\nseed_everything: 0\ntrainer:\n  max_epochs: 1\n"
    return Sweep.create(plan, [ResolvedConfig(text, 1) for _ in plan.arms_and_points()], runs, threads=1)
