"""The LightningCLI of the suite: one request, carried out in the folder of a run.

It keeps LightningCLI's grammar and adds a new folder for each run, one-line errors, configs that can only name known
classes, supervised ranks, and evaluation by the name of a run.
"""

import shlex
from pathlib import Path
from typing import Any, cast

from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities.model_helpers import is_overridden

from plcourse.cli.evaluation import predict, score, weights_checked
from plcourse.cli.from_data import take_from_data
from plcourse.cli.messages import quieten
from plcourse.cli.parser import CourseParser, Explainer
from plcourse.cli.process_count import check_nodes, collective_timeout, process_count, use_own_launcher
from plcourse.cli.request import EVALUATIONS, Request, existing_checkpoint, read_request
from plcourse.cli.session import is_first_process, recorded_run, settle_process
from plcourse.cli.stock_config import adapt
from plcourse.console import say
from plcourse.data.downloads import downloads
from plcourse.errors import UserError, first_line, root_cause
from plcourse.files import write_text
from plcourse.processes.supervisor import supervise
from plcourse.runs import allowlist, log_files
from plcourse.runs.changes import Change, nothing_left
from plcourse.runs.config_yaml import importable_class_names, read_tree
from plcourse.runs.confinement import confine
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.runs.references import named_runs, settle
from plcourse.runs.round_trip import dumped, register_types, repeatable
from plcourse.runs.run import Run, runs_below
from plcourse.runs.signatures import trusting
from plcourse.runs.variants import environment_flags, variant_of, what_next
from plcourse.training.few_steps import few_steps
from plcourse.training.progress import RunProgress
from plcourse.training.trainer import Trainer
from plcourse.training.tuning import refuse_tuners, tune, tuners
from plcourse.training.variant import AS_TRAINED


class CourseCLI(LightningCLI):
    """LightningCLI for one request.

    It builds the parser of one verb only. LightningCLI's automatic ``configure_optimizers`` is off for a model that
    takes its optimizer as an argument; see `plcourse.cli.stock_config`.

    Args:
        request: what `plcourse.cli.request.read_request` has read.
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
        with downloads(request.allow_downloads):
            super().__init__(
                save_config_callback=None,
                trainer_class=Trainer,
                seed_everything_default=0,
                parser_class=CourseParser,
                auto_configure_optimizers=adapt(request),  # before the arguments are read
                args=[request.parsed_as, *request.arguments],
            )

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]  (static there)
        """Returns the one verb of this request with the arguments of its Trainer method that the suite sets itself."""
        skip = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        return {self.request.parsed_as: skip | {"weights_only", "verbose", "return_predictions"}}

    def setup_parser(self, add_subcommands: bool, main_kwargs: Any, subparser_kwargs: Any) -> None:
        """Builds the parser and gives the explainer of errors its flags."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        actions = self._parser(self.request.parsed_as)._actions
        CourseParser.explainer.flags = [action.dest for action in actions if action.dest != "help"]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses without LightningCLI's warning about sys.argv, which the suite never passes on."""
        self.config = parser.parse_args(args)
        allowlist.check_downloads(self.settings, self.request.trusted)
        refusal = CourseParser.explainer.refusal
        self.placed, self.request.outside = confine(self.settings, self.request.bounds, refusal)

    def _parse_ckpt_path(self) -> None:
        """Does nothing: the classes that a checkpoint file names must not decide what is imported."""

    def _dump_config(self) -> None:
        # Checkpoints get this as hyper_parameters, from which plain Lightning builds the model. A name such as MLP
        # could mean another library's class there; `plcourse.catalog.MLP` cannot, and survives moves as well.
        if not hasattr(self, "config_dump"):
            tree = read_tree(dumped(self._parser(self.request.parsed_as), self.settings))
            self.config_dump = importable_class_names(tree)

    def instantiate_classes(self) -> None:
        """Does nothing: `_work` builds the model, the data and the trainer, in each rank."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with the run's logger, table of metrics and progress bar."""
        run = self.run_folder
        assert run is not None
        self.table = TidyLogger(run.path / "metrics.csv")
        settings = self._get(self.config_init, "trainer")
        if settings.get("barebones"):
            raise UserError(
                "trainer.barebones is true, but a run needs a table, a progress bar and checkpoints: leave it out, or "
                "use plcourse.Trainer in Python"
            )
        settings["default_root_dir"] = str(run.path)
        settings["logger"] = self._loggers(settings.get("logger"), run) if self.request.verb == "fit" else False
        if settings.get("enable_model_summary") is None:
            settings["enable_model_summary"] = False  # one line gives the size; the table is printed on request
        self.recorder = RunRecorder(run, self.table, self.change)
        extra: list[Callback] = [self.recorder]
        if settings.get("enable_progress_bar") is not False and not _has_bar(settings.get("callbacks")):
            extra.append(RunProgress())
        trainer = cast(Trainer, self._instantiate_trainer({**settings, **kwargs}, extra))
        trainer.cache_dir = self.request.root / "cache"
        trainer.check_loaded = self.recorder.refuse_foreign
        if self.change is not None and (changed := self.change.of_callbacks) is not None:
            own = trainer.arguments["callbacks"]
            trainer.changed_callbacks = [(own[place], name) for place, name in changed]
        trainer.variant = self.variant
        return trainer

    def _loggers(self, chosen: Any, run: Run) -> list[Logger]:
        if chosen in (None, True):
            chosen = [TensorBoardLogger(run.path, name="tensorboard", version="", default_hp_metric=False)]
        more = list(chosen) if isinstance(chosen, list | tuple) else [chosen] if chosen else []
        if self.request.continues and is_first_process():
            log_files.resume(more, run, self.request.checkpoint)
        return [*more, self.table]  # the user's come first: `self.logger` and `trainer.log_dir` are the first logger's

    @property
    def settings(self) -> Namespace:
        """The parsed config of the verb."""
        return self.config[self.request.parsed_as]

    def _placed_in(self, run: Run) -> Namespace:
        """Returns the parsed config with the relative paths that are written as folders and files of the run."""
        config = self.config.clone()
        settle(config[self.request.parsed_as], [(key, str(run.path / path)) for key, path in self.placed])
        return config

    def resolved(self) -> tuple[str, int]:
        """Returns the complete config as YAML, with run names replaced by folders, and the number of processes."""
        request, config = self.request, self.settings
        use_own_launcher(config.trainer)
        request.named = named_runs(config, request.root, request.run if request.continues else None)
        settle(config, request.named)
        return repeatable(self._parser(request.parsed_as), config), process_count(config.trainer)

    def _run_subcommand(self, subcommand: str) -> None:
        """Opens the run's folder, does the work in one or several processes, and records how it ended."""
        request, config = self.request, self.settings
        take_from_data(config, request)
        if request.checkpoint is None and config.get("ckpt_path"):
            request.checkpoint = existing_checkpoint(config.ckpt_path)
        if subcommand != "fit":
            refuse_tuners(config, subcommand)
        elif config.trainer.get("default_root_dir") and is_first_process():
            say("trainer.default_root_dir has no effect: a run writes into its own folder, which --runs_root moves")
        text, processes = self.resolved()
        check_nodes(config.trainer)
        self.change = self._changed(text)
        if request.continues_finished and self.change is None:
            self._say_nothing_left()
            if not request.then:
                return
            request.continues = self.trains = False
        with recorded_run(request, text, config.get("seed_everything"), self.change) as run:
            self.run_folder = run
            settle(config, request.named)
            if request.run is not None and subcommand in EVALUATIONS:
                self.variant = variant_of(request.run, text, request.checkpoint, request.trusted)
            run.variant = self.variant.name
            if processes > 1:
                supervise(processes, lambda rank: self._work(run), timeout=collective_timeout(config.trainer))
            else:
                self._work(run)
        if subcommand == "fit" and self.trains and is_first_process():
            say("\n".join(what_next(run, request.then, request.trusted)))

    def _changed(self, text: str) -> Change | None:
        """Returns the settings that the request changes in the run that it continues; `text` is the new config.

        None means that nothing changes, or that the run has no checkpoint to continue from.

        Raises:
            UserError: a setting must not change.
        """
        run, recorded, checkpoint = self.request.run, self.request.recorded, self.request.checkpoint
        if run is None or recorded is None or checkpoint is None:
            return None
        if not checkpoint.resolve().is_relative_to(run.path.resolve()):  # the run has trained no step yet
            return None
        parser = self._parser(self.request.parsed_as)
        before = dumped(parser, parser.parse_args([recorded]))
        change = Change.between(read_tree(before), read_tree(text), text)
        change.check(run)
        return change if change.settings else None

    def _work(self, run: Run) -> None:
        """Builds the model, the data and the trainer, then runs the verbs; every process of the command does this."""
        verb, checkpoint = self.request.verb, self.request.checkpoint
        if verb == "fit" and self.trains:
            self._tune(run)
        self._set_seed()
        self.config = self._placed_in(run)
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(first_line(root_cause(error))) from error
        if verb in ("export", "latency"):
            from plcourse.export.verb import Job, export, latency  # here, since other verbs do not need this lesson

            job = Job(run, self.trainer, self.model, self.datamodule, checkpoint, self.request.export)
            export(job) if verb == "export" else latency(job)
        elif verb != "fit":
            self._evaluate(run, verb, checkpoint)
        else:
            self._fit(run)
            keeper = self.trainer.run_checkpoint
            best = Path(keeper.best_model_path) if keeper is not None and keeper.best_model_path else None
            if not self.trains:
                self.table.active, best = False, run.checkpoint("best")
            for following in self.request.then:
                if following != "export":
                    self._evaluate(run, following, best)

    def _evaluate(self, run: Run, verb: str, checkpoint: Path | None) -> None:
        parts = (run, self.trainer, self.model, self.datamodule, checkpoint)
        self._call(f"before_{verb}")
        if verb == "predict":
            predict(*parts, self.settings.as_dict(), self.request.strict)
        else:
            score(verb, *parts)
        self._call(f"after_{verb}")

    def _call(self, name: str) -> None:
        """Calls a method such as `before_fit`, if a subclass has it, as LightningCLI does."""
        if (method := getattr(self, name, None)) is not None:
            method()

    def _fit(self, run: Run) -> None:
        checkpoint = self.request.checkpoint
        if self.trainer.is_global_zero:
            size = ""  # a model that builds its layers from the data has no size yet
            if not is_overridden("configure_model", self.model):
                size = f"{sum(parameter.numel() for parameter in self.model.parameters()):,} parameters, "
            say(f"{type(self.model).__name__}, {size}{self.trainer.world_size} process(es)")
        if not self.trains:
            return
        self._call("before_fit")
        with weights_checked(checkpoint, self.model):
            self.trainer.fit(self.model, self.datamodule, ckpt_path=checkpoint, weights_only=True)
        self._call("after_fit")
        if self.request.continues and not self.recorder.began:
            self._say_nothing_left()
        elif self.trainer.is_global_zero:
            self._say_few_steps(run)

    def _say_few_steps(self, run: Run) -> None:
        """Suggests a longer training if this one was too short for a network to learn much."""
        trainer = self.trainer
        n_train = getattr(getattr(trainer.train_dataloader, "plan", None), "n", None)
        n_train = n_train or (run.record.get("data") or {}).get("n_train", 0)  # of one fold, where there are folds
        advice = few_steps(self.settings.as_dict(), n_train, trainer.world_size)
        if advice is not None:
            more = shlex.join(environment_flags(run.root, self.request.trusted))
            words = f"plcourse fit -c {shlex.quote(str(run.config_path))} {advice.flags} {more}"
            say(f"{advice.what}; try\n  {words.rstrip()}")

    def _say_nothing_left(self) -> None:
        """Prints that the run is finished; raises a UserError for a change, which would have no effect."""
        run = self.request.run or self.run_folder
        assert run is not None
        stopped = hasattr(self, "trainer") and self.trainer.should_stop
        line = nothing_left(run, self.settings.trainer.as_dict(), stopped)
        if self.change is not None:
            raise UserError(f"{line}; {self.change} would have no effect")
        say(line)

    def _tune(self, run: Run) -> None:
        """Lets Lightning's tuners choose their settings before the training, and records these."""
        config = self.settings
        if not tuners(config):
            return

        def build() -> Any:
            self._set_seed()
            return self.parser.instantiate_classes(self._placed_in(run))[self.request.verb]

        found = tune(config, build, run.path, self.request.checkpoint)
        if is_first_process():
            write_text(run.config_path, self.resolved()[0])
            run.update(tuned={key: [before, after] for key, before, after in found})
            for key, before, after in found:
                say(f"tuned: {key} {before} -> {after}")


class Resolver(CourseCLI):
    """Parses a request and runs nothing, to find its complete config and its mistakes."""

    @classmethod
    def of(cls, request: Request) -> "Resolver":
        """Parses a request; the modules that it trusts become importable."""
        allowlist.install(request.trusted)
        return cls(request)

    def _run_subcommand(self, subcommand: str) -> None:
        take_from_data(self.settings, self.request)


def carry_out(request: Request) -> Run | None:
    """Carries out a request, and returns the run that the command wrote into.

    Raises:
        UserError: a bad request.
        RunFailed: a run that could not be finished.
        Interrupted: a run that a signal ended.
    """
    settle_process()
    allowlist.install(request.trusted)
    quieten()
    first = is_first_process()  # afterwards a rank may no longer know that it is one
    with runs_below(request.root), trusting(request.trusted_artifacts):
        run = CourseCLI(request).run_folder
    if "export" in request.then and run is not None and first:
        # after the training has ended, because an export takes one process
        given = [f"--runs_root={request.root}", *request.permissions, *request.export.flags()]
        carry_out(read_request("export", [f"--run={run.path}", *given]))
    return run


def _has_bar(callbacks: Any) -> bool:
    """Whether the callbacks of a config, a list or one, contain a progress bar."""
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    return any(isinstance(callback, ProgressBar) for callback in listed)
