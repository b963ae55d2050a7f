"""Lets the jobs train one at a time, a stretch each, round after round."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from statistics import fmean

from plcourse.verbs.benchmark.plan import Job, ScalingCommand, Stretch, stretches_of
from plcourse.verbs.benchmark.timed_callback import Order, RankReport

SECONDS = 1.0  # how long a stretch of one rank should take
FEWEST, MOST = 20, 1000  # steps of a stretch that nobody chose


@dataclass
class Coordinator:
    """Tells the ranks of all jobs when to train, and collects their reports.

    Each round has every stretch once and begins with a different one, so a machine that slows down slows all of them.

    Attributes:
        clock: for each stretch that exchanged gradients, its job and two fractions of a step by DDP's own clock,
            averaged over the ranks: all communication, and the part that did not overlap with computation.
    """

    jobs: list[Job]
    command: ScalingCommand  # rounds, steps and warm-up
    say: Callable[[str], None]  # shows the progress in one short line
    ends: list[list[Connection]] = field(default_factory=list)  # the ranks' ends, inherited by forks, by job and rank
    rounds: list[dict[Stretch, float]] = field(default_factory=list)  # samples per second of every stretch, by round
    reports: list[list[RankReport]] = field(default_factory=list)  # the last report of every rank, by job
    clock: list[tuple[int, float, float]] = field(default_factory=list)
    steps: int = 0  # training steps of a stretch
    flops: int | None = None  # floating-point operations of one step with the global batch; None if not counted

    def __post_init__(self) -> None:
        pipes = [[Pipe() for _ in range(job.ranks)] for job in self.jobs]
        self._ours = [[ours for ours, _ in of_job] for of_job in pipes]
        self.ends = [[theirs for _, theirs in of_job] for of_job in pipes]
        self._schedule = self._orders()
        self._waiting_for = next(self._schedule)

    @property
    def connections(self) -> list[Connection]:
        """The connections that become readable when a rank reports."""
        return [connection for of_job in self._ours for connection in of_job]

    def tick(self) -> None:
        """Reads the reports of a stretch once all ranks have sent theirs, then gives the next order."""
        while self._waiting_for is not None and all(c.poll() for c in self._ours[self._waiting_for]):
            reports = [connection.recv() for connection in self._ours[self._waiting_for]]
            self._waiting_for = self._schedule.send(reports)

    def _orders(self) -> Generator[int | None, list[RankReport], None]:
        """Yields the job that reports next, None at the end; receives its reports."""
        for at, job in enumerate(self.jobs):
            self.say(f"starting: {job.label}")
            self.reports.append((yield at))
        seconds = []
        for at, job in enumerate(self.jobs):
            self.say(f"warming up: {job.label}")
            self._give(at, Order(self.command.warmup, count=at == 0))
            self.reports[at] = yield at
            seconds.append(self.reports[at][0].seconds / self.command.warmup)
        self.flops = self.reports[0][0].flops
        self.steps = self.command.steps or min(MOST, max(FEWEST, round(SECONDS / seconds[0])))
        stretches = stretches_of(self.jobs)
        for number in range(self.command.pairs):
            self.say(f"round {number + 1} of {self.command.pairs}")
            first = number % len(stretches)
            rates = {}
            for stretch in [*stretches[first:], *stretches[:first]]:
                self._give(stretch.job, Order(self.steps, stretch.exchange))
                reports = yield stretch.job
                self.reports[stretch.job] = reports
                rates[stretch] = sum(report.samples for report in reports) / reports[0].seconds
                if times := [report.communication for report in reports if report.communication is not None]:
                    step = reports[0].seconds / self.steps
                    total, exposed = fmean(time.total for time in times), fmean(time.exposed for time in times)
                    self.clock.append((stretch.job, total / step, exposed / step))
            self.rounds.append(rates)
        for at in range(len(self.jobs)):
            self._give(at, None)
        yield None

    def _give(self, job: int, order: Order | None) -> None:
        for connection in self._ours[job]:
            connection.send(order)
