"""The LightningCLI of the suite, and what the verbs fit, validate, test and predict do around it.

It keeps LightningCLI's grammar whole and adds what everyone otherwise writes again: a fresh folder per run, one-line
errors, configs that can name only known classes, ranks that are watched over, and evaluation by a run's name.
"""

import json
import logging
import os
import re
import shlex
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.distributed.constants import default_pg_timeout

from plcourse.catalog import short_class_name
from plcourse.cli.cli_errors import Explainer
from plcourse.cli.continuing import changed, is_finished
from plcourse.cli.from_data import take_from_data
from plcourse.cli.request import EVALUATIONS, Request, read_request
from plcourse.cli.session import Session, is_first_process
from plcourse.console import say
from plcourse.errors import RunFailed, UserError, first_line
from plcourse.files import write_text
from plcourse.processes import launch
from plcourse.runs import allowlist, log_files
from plcourse.runs.changes import Change, nothing_left
from plcourse.runs.configs import short_class_names
from plcourse.runs.evaluations import relative_to_run, save_evaluation
from plcourse.runs.next_steps import what_next
from plcourse.runs.prediction_writer import PredictionWriter
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.runs.round_trip import register_types, repeatable
from plcourse.runs.run import Run, runs_below
from plcourse.runs.run_names import named_runs, settle
from plcourse.runs.variants import environment_flags, hide_newest, show_newest, variant_of
from plcourse.training.baselines import find_baselines
from plcourse.training.callbacks import Coverage
from plcourse.training.checkpoint import load
from plcourse.training.few_steps import few_steps
from plcourse.training.loops import PredictLoop
from plcourse.training.progress import RunProgress, table
from plcourse.training.trainer import Trainer
from plcourse.training.tuning import refuse_tuners, tune, tuners
from plcourse.training.variant import AS_TRAINED, Variant, predictions_folder

_STAGES = {"validate": "val", "test": "test"}


class CourseParser(LightningArgumentParser):
    """Lightning's parser, whose errors are one line and whose flags are never guessed from a prefix.

    Attributes:
        explainer: turns errors into one line; set for each parse, and shared by the parsers of nested classes, which
            jsonargparse makes on its own.
    """

    explainer = Explainer()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """A config as text, in which classes of the suite have their catalog names."""
        text = super().dump(*args, **kwargs)
        return re.sub(
            r"""(?<=class_path)("?: ?"?)([\w.]+)""", lambda found: found[1] + short_class_name(found[2]), text
        )

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raises a `UserError` in place of usage and traceback."""
        raise CourseParser.explainer.explain(message, [action.dest for action in self._actions]) from ex


class CourseCLI(LightningCLI):
    """LightningCLI for one request.

    Only the parser of the verb in hand is built. Models configure their own optimizers, so the automatic
    ``configure_optimizers`` is off.

    Args:
        request: what was asked for; `plcourse.cli.request.read_request` makes it.
    """

    trainer: Trainer

    def __init__(self, request: Request) -> None:
        self.request = request
        self.run_folder: Run | None = request.run
        self.change: Change | None = None
        self.trains = True  # whether a fit has anything left to train
        self.variant = AS_TRAINED
        CourseParser.explainer = Explainer(request.verb, request.sources)
        register_types()
        super().__init__(
            save_config_callback=None,
            trainer_class=Trainer,
            seed_everything_default=0,
            parser_class=CourseParser,
            auto_configure_optimizers=False,
            args=[request.parsed_as, *_aliases(request.arguments)],
        )

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]  (static there)
        """The one verb of this request, and the arguments of its Trainer method that are decided elsewhere."""
        skip = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        return {self.request.parsed_as: skip | {"weights_only", "verbose", "return_predictions"}}

    def setup_parser(self, add_subcommands: bool, main_kwargs: Any, subparser_kwargs: Any) -> None:
        """Builds the parser, and tells the explainer of errors which flags there are."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        actions = self._parser(self.request.parsed_as)._actions
        CourseParser.explainer.flags = [action.dest for action in actions if action.dest != "help"]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses without LightningCLI's warning about sys.argv, which this suite never hands on."""
        CourseParser.explainer.check_top_level()
        self.config = parser.parse_args(args)
        allowlist.check_downloads(self.config[self.request.parsed_as], self.request.trusted)

    def _parse_ckpt_path(self) -> None:
        """Left out: what a checkpoint file says about classes must not steer what gets imported."""

    def instantiate_classes(self) -> None:
        """Left to `_work`: with several processes only the ranks build models."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with the run's logger, table and bar."""
        run = self.run_folder
        assert run is not None
        self.table = TidyLogger(run.path / "metrics.csv")
        self.coverage = Coverage()
        settings = self._get(self.config_init, "trainer")
        if settings.get("barebones"):
            raise UserError(
                "trainer.barebones forbids the table, bar and checkpoints of a run; use plcourse.Trainer for it"
            )
        settings["default_root_dir"] = str(run.path)
        settings["logger"] = self._loggers(settings.get("logger"), run) if self.request.verb == "fit" else False
        if settings.get("enable_model_summary") is None:
            settings["enable_model_summary"] = False  # a line says the size; the table is there for the asking
        self.recorder = RunRecorder(run, self.table, self.change)
        extra: list[Any] = [self.recorder]
        if settings.get("enable_progress_bar") is not False:
            extra.append(RunProgress())
        trainer: Any = self._instantiate_trainer({**settings, **kwargs}, extra)
        trainer.cache_dir = self.request.root / "cache"
        if self.change is not None and self.change.touches_callbacks:
            own = trainer.arguments["callbacks"]
            trainer.changed_callbacks = [(own[place], name) for place, name in self.change.of_callbacks]
        trainer.variant = self.variant
        return trainer

    def _loggers(self, chosen: Any, run: Run) -> list[Logger]:
        if chosen in (None, True):
            chosen = [TensorBoardLogger(run.path, name="tensorboard", version="", default_hp_metric=False)]
        more = list(chosen) if isinstance(chosen, list | tuple) else [chosen] if chosen else []
        if self.request.continues and is_first_process() and log_files.on_disk(more):
            log_files.resume(more, run, self._resumed_step())
        return [self.table, *more]

    def _resumed_step(self) -> int:
        if self.request.checkpoint is None:
            return 0
        loops = load(self.request.checkpoint).get("loops", {})
        return int(loops.get("fit_loop", {}).get("epoch_loop.state_dict", {}).get("_batches_that_stepped", 0))

    def resolved(self) -> tuple[str, int]:
        """The complete config as YAML, with the runs that its names mean, and how many processes it takes."""
        config = self.config[self.request.parsed_as]
        self.request.named = named_runs(config, self.request.root, self.request.run if self.request.continues else None)
        settle(config, self.request.named)
        return repeatable(self._parser(self.request.parsed_as), config), _processes(config.trainer)

    def _run_subcommand(self, subcommand: str) -> None:
        """Opens the run's folder, does the work in this process or in several, and records how it ended."""
        config = self.config[subcommand]
        take_from_data(config, self.request)
        if self.request.checkpoint is None and config.get("ckpt_path"):
            self.request.checkpoint = Path(config.ckpt_path)
        if subcommand != "fit":
            refuse_tuners(config, subcommand)
        text, processes = self.resolved()
        _check_nodes(config.trainer)
        self.change = changed(self.request, self._parser(subcommand), text)
        if is_finished(self.request, self.change):
            self._say_nothing_left()
            if not self.request.then:
                return
            self.request.continues = self.trains = False
        session = Session(self.request, text, config.get("seed_everything"), self.change)
        self.run_folder = session.run
        settle(config, self.request.named)
        if self.request.run is not None and subcommand in EVALUATIONS:
            self.variant = variant_of(self.request.run, text, self.request.checkpoint, self.request.trusted)
        session.run.variant = self.variant.name
        with session.recording():
            if processes > 1:
                launch.supervise(
                    processes, lambda rank: self._work(self.request.verb), timeout=_timeout(config.trainer)
                )
            else:
                self._work(self.request.verb)
        if subcommand == "fit" and self.trains and is_first_process():
            say("\n".join(what_next(session.run, self.request.then, self.request.trusted)))

    def _work(self, verb: str) -> None:
        """What each process does: builds the model, the data and the trainer, then runs the verbs in turn."""
        if verb == "fit" and self.trains:
            self._tune()
        self._set_seed()
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(first_line(_root(error))) from error
        if verb in ("export", "latency"):
            self._export(verb)
            return
        if verb != "fit":
            self._evaluate(verb, self.request.checkpoint)
            return
        checkpoint = self.request.checkpoint
        if self.trainer.is_global_zero:
            size = ""  # a model that builds layers when the data are known has no size yet
            if not is_overridden("configure_model", self.model):
                size = f"{sum(parameter.numel() for parameter in self.model.parameters()):,} parameters, "
            say(f"{type(self.model).__name__}, {size}{self.trainer.world_size} process(es)")
        if self.trains:
            with self._told_of_another_model(checkpoint):
                self.trainer.fit(self.model, self.datamodule, ckpt_path=checkpoint, weights_only=True)
            if self.request.continues and not self.recorder.began:
                self._say_nothing_left()
            elif self.trainer.is_global_zero:
                self._say_few_steps()
        for following in [verb for verb in self.request.then if verb != "export"]:
            keeper = self.trainer.run_checkpoint
            best = Path(keeper.best_model_path) if keeper is not None and keeper.best_model_path else None
            if not self.trains and self.run_folder is not None:
                self.table.active, best = False, self.run_folder.checkpoint("best")
            self._evaluate(following, best)

    def _say_few_steps(self) -> None:
        """Says so where the training was too short for a network to learn much."""
        run, trainer = self.run_folder, self.trainer
        assert run is not None
        n_train = getattr(getattr(trainer.train_dataloader, "plan", None), "n", None)
        n_train = n_train or (run.record.get("data") or {}).get("n_train", 0)  # of one fold, where there are folds
        advice = few_steps(self.config[self.request.verb].as_dict(), n_train, trainer.world_size)
        if advice is not None:
            more = shlex.join(environment_flags(run.root, self.request.trusted))
            words = f"plcourse fit -c {shlex.quote(str(run.config_path))} {advice.flags} {more}"
            say(f"{advice.what}; try\n  {words.rstrip()}")

    def _say_nothing_left(self) -> None:
        """Says so, or refuses a change that no step was left for."""
        run = self.request.run or self.run_folder
        assert run is not None
        stopped = hasattr(self, "trainer") and self.trainer.should_stop
        line = nothing_left(run, self.config[self.request.verb].trainer.as_dict(), stopped)
        if self.change is not None:
            raise UserError(f"{line}; {self.change} would have no effect")
        say(line)

    def _tune(self) -> None:
        """Lets Lightning's tuners choose their settings before the run is built, and records what they chose."""
        config, run = self.config[self.request.verb], self.run_folder
        if run is None or not tuners(config):
            return

        def build() -> Any:
            self._set_seed()
            return self.parser.instantiate_classes(self.config)[self.request.verb]

        found = tune(config, build, run.path, self.request.checkpoint)
        if is_first_process():
            write_text(run.config_path, self.resolved()[0])
            run.update(tuned={key: [before, after] for key, before, after in found})
            for key, before, after in found:
                say(f"tuned: {key} {before} -> {after}")

    def _export(self, verb: str) -> None:
        from plcourse.export.verb import export, latency  # only here, since it is a lesson's

        run = self.run_folder
        assert run is not None
        work = export if verb == "export" else latency
        work(run, self.trainer, self.model, self.datamodule, self.request.checkpoint, self.request.export)

    def _evaluate(self, verb: str, checkpoint: Path | None) -> None:
        run, trainer = self.run_folder, self.trainer
        assert run is not None
        started = time.monotonic()
        trainer.callbacks.append(self.coverage)
        arguments = {"datamodule": self.datamodule, "ckpt_path": checkpoint, "weights_only": True}
        try:
            if verb == "predict":
                with self._told_of_another_model(checkpoint):
                    self._predict(run, arguments)
                return
            evaluate, loop = {
                "test": (trainer.test, trainer.test_loop),
                "validate": (trainer.validate, trainer.validate_loop),
            }[verb]
            with self._told_of_another_model(checkpoint):
                metrics = evaluate(self.model, verbose=False, **arguments)
        finally:
            trainer.callbacks.remove(self.coverage)
        if trainer.is_global_zero:
            scores = {name: value for result in metrics for name, value in result.items()}
            stage, seconds = _STAGES[verb], time.monotonic() - started
            coverage = self.coverage.report
            findings, lines = {**loop.findings, **trainer.training_samples.findings}, list(loop.lines)
            whole = coverage is not None and coverage["seen"] == coverage["expected"]
            if stage == "test" and whole and (baselines := find_baselines(self.datamodule, scores)) is not None:
                findings["baselines"], lines = baselines.section(), [*baselines.lines(), *lines]
            report = save_evaluation(
                run.path, stage, scores, coverage, checkpoint, trainer.world_size, seconds, findings, self.variant
            )
            _say_scores(stage, report["metrics"], coverage, self.variant)
            for line in lines:
                say(line)

    @contextmanager
    def _told_of_another_model(self, checkpoint: Path | None) -> Iterator[None]:
        """Turns torch's list of the weights that do not fit into one line."""
        try:
            yield
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise UserError(
                f"{checkpoint} was written by another model than {type(self.model).__name__} as configured"
            ) from error

    def _predict(self, run: Run, arguments: dict[str, Any]) -> None:
        trainer, loop = self.trainer, self.trainer.predict_loop
        assert isinstance(loop, PredictLoop)
        config = self.config[self.request.verb].as_dict()
        if not self.variant.name and trainer.is_global_zero:
            hide_newest(run.path)
        loop.settings = _prediction_settings(config)
        loop.facts = {
            "settings": dict(self.variant.settings),
            "trust": list(self.variant.trust),
            "checkpoint": relative_to_run(arguments["ckpt_path"], run.path),
            "inputs": short_class_names(config.get("data")),
        }
        if loop.writes_predictions:
            trainer.predict(self.model, return_predictions=False, **arguments)
        else:
            writer = PredictionWriter(predictions_folder(run.path, self.variant.name), facts=loop.facts)
            trainer.callbacks.append(writer)
            trainer.predict(self.model, return_predictions=False, **arguments)
            trainer.callbacks.remove(writer)
            if trainer.is_global_zero:
                say(f"predictions in {writer.folder}: {writer.said}")
        if self.variant.name and trainer.is_global_zero:
            show_newest(run.path, self.variant.name)
        if self.request.strict and loop.quarantined:
            raise RunFailed(f"--strict: inputs that could not be read: {loop.quarantined}")


class Resolver(CourseCLI):
    """Parses a request and runs nothing: for its complete config, and for its mistakes."""

    @classmethod
    def of(cls, request: Request) -> "Resolver":
        """Parses, with the classes let in that the request trusts."""
        allowlist.install(request.trusted)
        return cls(request)

    def _run_subcommand(self, subcommand: str) -> None:
        """Completes the config."""
        take_from_data(self.config[subcommand], self.request)


def carry_out(verb: str, arguments: list[str]) -> Run | None:
    """Does what ``plcourse VERB ARGUMENTS`` does, and returns the record of its run.

    Args:
        verb: fit, validate, test, predict or export.
        arguments: everything after the verb.

    Returns:
        The run whose folder it wrote into.

    Raises:
        UserError: a bad request; RunFailed: a run that could not be finished; Interrupted: one that a signal ended.
    """
    request = read_request(verb, ["--help" if word == "--help_all" else word for word in arguments])
    allowlist.install(request.trusted)
    quieten()
    with runs_below(request.root):
        run = CourseCLI(request).run_folder
    if "export" in request.then and run is not None and is_first_process():
        # after the job, since it takes one process however many there were
        root = [f"--runs_root={request.root}", *(f"--trust={module}" for module in request.trusted)]
        carry_out("export", [f"--run={run.path}", *root, *request.export.flags()])
    return run


def latency(arguments: list[str]) -> None:
    """Carries out ``plcourse benchmark latency ARGUMENTS``."""
    carry_out("latency", arguments)


def _aliases(arguments: list[str]) -> list[str]:
    # --optimizer and --lr_scheduler mean the model's own arguments of these names, which own the optimizer here.
    renamed = []
    for word in arguments:
        name = word.split("=", 1)[0].split(".", 1)[0]
        if name in ("--optimizer", "--lr_scheduler"):
            word = "--model.init_args." + word.removeprefix("--")
        renamed.append(word)
    return renamed


def _processes(trainer: Any) -> int:
    """How many processes this command is to start and watch over; 1 where it is one of several already."""
    if (
        "LOCAL_RANK" in os.environ
        or "SLURM_NTASKS" in os.environ
        or not launch.can_fork()
        or trainer.get("fast_dev_run") is None
    ):
        return 1
    strategy = trainer.get("strategy")
    name = strategy if isinstance(strategy, str) else strategy.get("class_path", "").rpartition(".")[2]
    if name not in ("auto", "ddp", "DDPStrategy", "FSDPStrategy", "fsdp") and not name.startswith("ddp_find_unused"):
        return 1
    devices = trainer.get("devices")
    accelerator = str(trainer.get("accelerator"))
    on_gpus = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if isinstance(devices, list):
        return len(devices)
    if str(devices).lstrip("-").isdecimal():
        count = int(devices)
        return count if count > 0 else max(1, torch.cuda.device_count())
    if devices == "auto":
        return max(1, torch.cuda.device_count()) if on_gpus else 1
    return len([part for part in str(devices).split(",") if part.strip()])


def _check_nodes(trainer: Any) -> None:
    """Refuses to wait for nodes that nobody has started."""
    nodes = int(trainer.get("num_nodes") or 1)
    if nodes > 1 and "LOCAL_RANK" not in os.environ and "SLURM_NTASKS" not in os.environ:
        raise UserError(
            f"trainer.num_nodes is {nodes}: start it on each node with torchrun --nnodes {nodes} ... -m plcourse, or "
            "take this machine alone with --trainer.num_nodes 1"
        )


def _timeout(trainer: Any) -> float:
    """Seconds that a rank waits for the others in a collective: DDPStrategy's ``timeout``, else torch's default."""
    strategy = trainer.get("strategy")
    arguments = {} if isinstance(strategy, str) else strategy.get("init_args") or {}
    return arguments.get("timeout", default_pg_timeout).total_seconds()


def quieten() -> None:
    """Leaves out what Lightning says that the suite says better, or that is no one's concern."""
    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # a profile is asked for
    # The suite's own loader decides about workers; small data in memory is fastest without any.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning 2.6 still asks torch 2.15 in the old way; it works until it does not, and then loudly.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
    # A short fit logs less often than every 50 steps on purpose.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")


def _root(error: BaseException) -> BaseException:
    """The error that a constructor raised, beneath what jsonargparse says of the types that it tried."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _prediction_settings(config: dict[str, Any]) -> str:
    """What a config says of model, data and seed, which tells one prediction from another."""
    parts = {key: short_class_names(config.get(key)) for key in ("model", "data", "seed_everything") if key in config}
    return json.dumps(parts, sort_keys=True, default=str)


def _say_scores(stage: str, scores: dict[str, float], coverage: dict[str, int] | None, variant: Variant) -> None:
    seen = ": which samples were seen is unknown, since batches carry no ids"
    if coverage:
        seen = f": {coverage['seen']} of {coverage['expected']} seen, {coverage['twice']} twice"
    asked = f" ({variant.said}; in eval/{variant.file_stem(stage)}.json)" if variant.settings else ""
    say("\n".join([f"{stage}{seen}{asked}", *table(scores)]))
