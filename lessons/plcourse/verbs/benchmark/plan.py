"""Reads the arguments of a scaling benchmark, and plans the jobs that it measures. No torch.

A *job* is one way to train the same global batch: a number of ranks with a number of threads each. A *stretch* is what
one job does in one round; a job of several ranks has a second one, in which the ranks do not exchange their gradients.
"""

from dataclasses import dataclass
from pathlib import Path

from plcourse.console.flags import as_flags
from plcourse.console.line_parser import LineParser
from plcourse.errors import UserError
from plcourse.runs.run import runs_root

PAIRS = 9
WARMUP = 20
_ENDLESS = 10_000_000  # steps; schedules need to know the end
_REFUSED = ("--run", "--ckpt_path", "--then", "--allow_untrained", "--print_config", "--help_all")


@dataclass(frozen=True)
class ScalingCommand:
    """One invocation of `plcourse benchmark scaling`."""

    arguments: list[str]  # the config and everything else that `fit` understands
    world_sizes: tuple[int, ...] | None  # numbers of ranks, ascending from 1; None to choose them for the machine
    pairs: int  # rounds; each measures every job once
    steps: int | None  # training steps of a stretch; None for as many as one rank takes in a second
    warmup: int  # steps that each job trains before the first round
    json: str | None  # a second file for the result; `-` prints it
    root: Path  # the root of all runs


@dataclass(frozen=True)
class Job:
    """One way to train the global batch."""

    ranks: int
    threads: int  # torch's threads in each
    device: str  # `cpu` or `cuda`

    @property
    def label(self) -> str:
        """Its name in tables."""
        if self.device == "cuda":
            return f"{self.ranks} GPU{'s' * (self.ranks > 1)}"
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"1 process, {threads}" if self.ranks == 1 else f"{self.ranks} ranks, {threads} each"

    @property
    def folder(self) -> str:
        """Its folder, relative to the benchmark's."""
        return f"jobs/{self.ranks}x{self.threads}"


@dataclass(frozen=True)
class Stretch:
    """What one job does in one round."""

    job: int  # the job's number
    exchange: bool = True  # whether its ranks exchange gradients


@dataclass(frozen=True)
class ScalingSetup:
    """The config to measure, and what the jobs need to know of it and of the machine."""

    name: str
    config: str  # the complete config as YAML
    permissions: list[str]  # flags such as `--trust=my_models`
    device: str  # `cpu` or `cuda`
    device_name: str | None  # the GPU's name; None on a CPU
    available: int  # cores or GPUs
    global_batch: int  # samples of a step over all ranks
    strategy: object  # the config's `trainer.strategy`


def scaling_parser() -> LineParser:
    """Returns the parser of `plcourse benchmark scaling`."""
    parser = LineParser("benchmark scaling", "-c NAME_OR_PATH [flags]")
    add = parser.add_argument
    world_sizes = "numbers of ranks to measure; default 1, 2, 4, ... and all cores or GPUs"
    add("--world_sizes", metavar="1,2", help=world_sizes)
    pairs = f"rounds, each of which runs every job once; default {PAIRS}; an interval needs 6"
    add("--pairs", default=str(PAIRS), metavar="N", help=pairs)
    add("--steps", metavar="N", help="training steps of a job in a round; default what one rank does in a second")
    warmup = f"steps of each job before the first round; default {WARMUP}"
    add("--warmup", default=str(WARMUP), metavar="N", help=warmup)
    add("--json", metavar="FILE|-", help="also write the numbers to a file; - prints them instead of the table")
    parser.add_runs_root()
    return parser


def read_command(arguments: list[str]) -> ScalingCommand:
    """Reads the arguments of `plcourse benchmark scaling`; a flag without effect on a benchmark is a UserError."""
    args, rest = scaling_parser().parse_known_args(arguments)
    flags = [word.partition("=")[0] for word in rest]
    if "-c" not in flags and "--config" not in flags:
        raise UserError("plcourse benchmark scaling needs -c NAME_OR_PATH, such as -c ddp/one_process")
    if refused := next((flag for flag in flags if flag in _REFUSED), None):
        raise UserError(f"plcourse benchmark scaling: {refused} has no effect: it trains from fresh weights, and stops")
    if args.json not in (None, "-") and not (args.json.endswith(".json") and Path(args.json).parent.is_dir()):
        raise UserError(f"--json is {args.json!r}; give - or a file that ends with .json, in a folder that exists")
    sizes = [] if args.world_sizes is None else [word.strip() for word in args.world_sizes.strip("[]").split(",")]
    if not all(word.isdecimal() and int(word) for word in sizes):
        raise UserError(f"--world_sizes is {args.world_sizes!r}; it must be a list of numbers of ranks such as 1,2,4")
    return ScalingCommand(
        rest,
        tuple(sorted({1, *map(int, sizes)})) if sizes else None,  # everything is measured against one rank
        _count("--pairs", args.pairs),
        None if args.steps is None else _count("--steps", args.steps),
        _count("--warmup", args.warmup),
        args.json,
        runs_root(args.runs_root),
    )


def jobs_of(world_sizes: tuple[int, ...] | None, device: str, available: int) -> list[Job]:
    """Lists the jobs: the ranks of each world size and, on a CPU, one process with as many threads.

    Without world sizes, they are 1, 2, 4, ... and all `available` cores or GPUs; more than these are a UserError.
    """
    what = "GPU" if device == "cuda" else "core"
    if world_sizes is None:
        world_sizes = tuple(sorted({available, *(2**power for power in range(available.bit_length()))}))
    if world_sizes[-1] > available:
        has = f"this machine has {available} {what}{'s' * (available > 1)}"
        raise UserError(f"--world_sizes {world_sizes[-1]}: {has}; ranks on the same {what} would wait for each other")
    ranks = [Job(n, 1, device) for n in world_sizes]
    threads = [Job(1, n, device) for n in world_sizes if n > 1 and device == "cpu"]
    return sorted([*ranks, *threads], key=lambda job: (job.ranks * job.threads, job.ranks))


def stretches_of(jobs: list[Job]) -> list[Stretch]:
    """Returns the stretches of a round."""
    silent = [Stretch(at, exchange=False) for at, job in enumerate(jobs) if job.ranks > 1]
    return [*(Stretch(at) for at in range(len(jobs))), *silent]


def job_flags(job: Job, global_batch: int, strategy: object) -> list[str]:
    """Returns the flags that turn a fit of the config into this job, without an end and without validation.

    The config's strategy is kept for several ranks. A batch that they cannot divide equally is a UserError.
    """
    if global_batch % job.ranks:
        batch = f"a step has {global_batch} samples (batch_size times devices of the config)"
        remedy = f"choose a --data.init_args.batch_size that makes it a multiple of {job.ranks}"
        raise UserError(f"{batch}, which {job.ranks} ranks cannot divide equally; {remedy}")
    if job.ranks == 1:
        strategy = "auto"
    elif strategy == "auto":
        arguments: dict[str, object] = {"gradient_as_bucket_view": True, "timeout": "0:01:00"}
        if job.device == "cpu":
            arguments["process_group_backend"] = "gloo"
        strategy = {"class_path": "pytorch_lightning.strategies.DDPStrategy", "init_args": arguments}
    return as_flags(
        {
            "trainer.accelerator": job.device,
            "trainer.devices": job.ranks,
            "trainer.strategy": strategy,
            "trainer.max_epochs": -1,
            "trainer.max_steps": _ENDLESS,
            "trainer.min_epochs": None,
            "trainer.limit_val_batches": 0,
            "trainer.num_sanity_val_steps": 0,
            "data.init_args.batch_size": global_batch // job.ranks,
        }
    )


def _count(flag: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UserError(f"{flag} is {text!r}; it must be a whole number, 1 or more")
    return int(text)
