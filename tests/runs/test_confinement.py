"""What a config writes stays in the run, unless the user says otherwise."""

import contextlib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from plcourse import Run, catalog
from plcourse.errors import UserError, is_inside
from plcourse.runs import allowlist, confinement
from plcourse.runs.confinement import Bounds, check_links, confine, typed

LIGHTNING = "pytorch_lightning."
CSV, TENSORBOARD = f"{LIGHTNING}loggers.CSVLogger", f"{LIGHTNING}loggers.TensorBoardLogger"
CHECKPOINT = f"{LIGHTNING}callbacks.ModelCheckpoint"
PROFILER = f"{LIGHTNING}profilers.AdvancedProfiler"


def refusal(key: str, value: str, text: str) -> UserError:
    return UserError(f"{key}: {text}")


def judged(
    class_path: str, arguments: dict[str, Any], flags: Sequence[str] = (), **bounds: Any
) -> tuple[Namespace, Any, Any]:
    """Judges a config with one class; returns its arguments, what is placed in the run, and what is written outside."""
    importlib.import_module(class_path.rpartition(".")[0])
    spec = Namespace(class_path=class_path, init_args=Namespace(**arguments))
    config = Namespace(trainer=Namespace(logger=[spec]))
    fixed = {"run": None, "allowed": [], "typed": typed(flags)}
    placed, outside = confine(config, Bounds(**{**fixed, **bounds}), refusal)
    return spec.init_args, placed, outside


LEADING_OUT = (
    *("/home/x", "..", "../x", "a/../../x", "a\\..\\..\\x", "~/x", "~", "~root/x", "$HOME/x", "${HOME}/x"),
    *("s3://bucket/x", "file:///home/x", "memory://x", "a::file:///home/x", "x\0y", "//server/share"),
)


class TestPaths:
    @pytest.mark.parametrize("path", LEADING_OUT)
    def test_a_file_cannot_send_a_write_out(self, tmp_path: Path, path: str) -> None:
        with pytest.raises(UserError, match=r"trainer.logger.0.init_args.save_dir: .* outside its folder"):
            judged(CSV, {"save_dir": path})

    @pytest.mark.parametrize("path", ["logs", "a/b", "./logs", "a..b", "..a", " x", "a/~b", "-x"])
    def test_a_relative_path_belongs_into_the_run(self, tmp_path: Path, path: str) -> None:
        arguments, placed, outside = judged(CSV, {"save_dir": path})
        assert placed == [(["trainer", "logger", 0, "init_args", "save_dir"], str(Path(path)))]
        assert arguments.save_dir == path, "the run's config.yaml stays valid where the run is moved"
        assert outside == []

    @pytest.mark.parametrize("name", [*LEADING_OUT[:10], "a::file:///home/x", "/etc/x", "{epoch:/>3}", "{epoch!s:/>9}"])
    @pytest.mark.parametrize(("kind", "argument"), [(CHECKPOINT, "filename"), (CSV, "version"), (PROFILER, "filename")])
    def test_a_name_cannot_lead_out_of_its_folder(self, tmp_path: Path, kind: str, argument: str, name: str) -> None:
        with pytest.raises(UserError, match=rf"{argument}: .* leads out of the run"):
            judged(kind, {argument: name})

    @pytest.mark.parametrize("name", ["best", "a/b", "{epoch}-{val/loss:.2f}", "v1.0", 3, "", "{epoch:02d}/x"])
    def test_usual_names_pass(self, tmp_path: Path, name: object) -> None:
        for kind, argument in ((CHECKPOINT, "filename"), (TENSORBOARD, "version")):
            assert judged(kind, {argument: name})[1:] == ([], [])

    def test_an_absolute_path_may_lead_into_the_run_but_into_no_other(self, tmp_path: Path) -> None:
        root = tmp_path / "runs"
        mine, other = Run.create("own/x", root, {}), Run.create("own/y", root, {})
        for path in (mine.path, mine.path / "logs"):
            assert judged(CSV, {"save_dir": str(path)}, run=mine.path)[1:] == ([], [])
        (mine.path / "link").symlink_to(tmp_path)
        for path in (root, other.path, root / "own" / "y" / "latest", mine.path / ".." / "x", mine.path / "link" / "x"):
            with pytest.raises(UserError, match="outside its folder"):
                judged(CSV, {"save_dir": str(path)}, run=mine.path)

    def test_a_subclass_has_the_arguments_of_its_base(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from pytorch_lightning.callbacks import ModelCheckpoint

        class Mine(ModelCheckpoint):
            pass

        monkeypatch.setattr(sys.modules[__name__], "Mine", Mine, raising=False)
        with pytest.raises(UserError, match=r"dirpath: .* '/x', which is outside its folder"):
            judged(f"{__name__}.Mine", {"dirpath": "/x"})

    def test_further_keyword_arguments_are_names(self, tmp_path: Path) -> None:
        spec = Namespace(
            class_path=TENSORBOARD, init_args=Namespace(save_dir="x"), dict_kwargs={"filename_suffix": ".a"}
        )
        bounds = Bounds(None, [], [])
        confine(Namespace(logger=spec), bounds, refusal)
        spec.dict_kwargs["filename_suffix"] = "/../../x"
        with pytest.raises(UserError, match=r"filename_suffix: .* leads out of the run"):
            confine(Namespace(logger=spec), bounds, refusal)

    def test_what_the_environment_gives_as_default_is_the_users(self, tmp_path: Path) -> None:
        from pytorch_lightning.loggers import MLFlowLogger

        default = inspect.signature(MLFlowLogger).parameters["tracking_uri"].default
        assert judged(f"{LIGHTNING}loggers.MLFlowLogger", {"tracking_uri": default})[1:] == ([], [])
        with pytest.raises(UserError, match="tracking_uri"):
            judged(f"{LIGHTNING}loggers.MLFlowLogger", {"tracking_uri": "file:///home/x"})


class TestPermission:
    @pytest.mark.parametrize("flags", [
        ["--trainer.logger.init_args.save_dir=PATH"],
        ["--trainer.logger.save_dir", "PATH"],
        ["--trainer.logger+={class_path: CSVLogger, init_args: {save_dir: PATH}}"],
        ["--trainer.logger", '[{"class_path": "CSVLogger", "init_args": {"save_dir": "PATH"}}]'],
    ])  # fmt: skip
    @pytest.mark.parametrize("path", ["/elsewhere/logs", "logs", "../logs"])
    def test_a_typed_path_is_the_users(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], path: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        given = [flag.replace("PATH", path) for flag in flags]
        arguments, placed, outside = judged(CSV, {"save_dir": path}, given)
        assert arguments.save_dir == str((tmp_path / path).absolute()), "it must not depend on the current folder later"
        assert placed == []
        assert outside == [["save_dir", arguments.save_dir]]

    def test_only_the_typed_argument_and_value_count(self, tmp_path: Path) -> None:
        for flags in (["--data.root=/x"], ["--trainer.logger.save_dir=/x/y"], ["--config=save_dir: /x"], ["/x"]):
            with pytest.raises(UserError, match="outside its folder"):
                judged(CSV, {"save_dir": "/x"}, flags)

    def test_a_folder_can_be_allowed(self, tmp_path: Path) -> None:
        allowed = tmp_path / "logs"
        path = str(allowed / "csv")
        assert judged(CSV, {"save_dir": path}, allowed=[allowed])[2] == [["save_dir", path]]
        for other in (tmp_path, f"{allowed}-2", allowed / ".." / "x"):
            with pytest.raises(UserError, match="outside its folder"):
                judged(CSV, {"save_dir": str(other)}, allowed=[allowed])

    def test_the_record_counts_only_with_the_users_signature(self) -> None:
        record = {"outside": confinement.outside_record([["save_dir", "/x"]])}
        assert confinement.recorded_outside(record) == [("save_dir", "/x")]
        forged = json.loads(json.dumps(record).replace("/x", "/y"))
        for each in (forged, {"outside": {"paths": [["save_dir", "/x"]]}}, {"outside": None}, {"outside": "x"}, {}):
            assert confinement.recorded_outside(each) == []


class TestDownloads:
    def test_a_download_goes_where_the_user_says(self, tmp_path: Path) -> None:
        path = catalog.CLASSES["ImageData"]
        for source, root, fine in (
            ("cifar10", "data", True),
            ("cifar10", "/home/x", False),
            ("cifar10", "../x", False),
            ("image_folder", "/home/x", True),  # reading is free
        ):
            arguments = {"source": source, "root": root}
            assert judged(path, arguments)[1:] == ([], []), "nothing is downloaded"
            with contextlib.nullcontext() if fine else pytest.raises(UserError, match=r"root: .* outside its folder"):
                judged(path, arguments, downloads=True)
        judged(path, {"source": "cifar10", "root": "/home/x"}, ["--data.root=/home/x"], downloads=True)


# Arguments that look like paths and are only read, by class; every other one must be in `WRITTEN`.
READ: dict[str, set[str]] = {
    **{key: {"predict_paths"} for key in ("CurriculumData", "ExportData", "ImageData", "VisionData")},
    **{key: {"path", "predict_path"} for key in ("TableData", "TextData")},
    "EvaluationData": {"paths"},
    "LanguageData": {"path", "prompts_path"},
    "ScoreColumn": {"path"},
    "WandbLogger": {"add_file_policy"},  # what W&B does with files
    "Weights": {"url"},  # of torchvision, downloaded only with --trust
}
_LIKE_A_PATH = re.compile(r"(?:^|_)(?:paths?|dirs?|dirpath|files?|filename|folder|root|ur[il]|location)(?:_|$)")


def test_every_argument_that_looks_like_a_path_is_known_as_written_or_read() -> None:
    """All classes that a config may name, so that none of a new version of a library slips through."""
    classes = {path.rpartition(".")[2]: getattr(catalog, path.rpartition(".")[2]) for path in catalog.CLASSES.values()}
    verdicts = allowlist._Verdicts([])
    for package in allowlist.FOREIGN:
        importlib.import_module(package)
    for home in [name for name in sys.modules if is_inside(name, allowlist.FOREIGN)]:
        found = {name: each for name, each in vars(sys.modules[home]).items() if inspect.isclass(each)}
        classes |= {name: each for name, each in found.items() if verdicts[f"{each.__module__}.{name}"]}
    assert len(classes) > 500
    unknown: dict[str, set[str]] = {}
    known = 0
    for name, cls in classes.items():
        with contextlib.suppress(ValueError):  # a class of C without a signature
            arguments = inspect.signature(cls).parameters.values()
            likely = {
                each.name for each in arguments if _LIKE_A_PATH.search(each.name) or "Path" in str(each.annotation)
            }
            written = set(confinement._kinds(cls) or {})
            known += len(likely & written)
            if rest := likely - written:
                unknown[name] = rest
    assert unknown == READ
    assert known > 20


class TestLinks:
    def test_a_link_out_of_a_run_is_refused_by_name(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        (run / "eval").mkdir(parents=True)
        (run / "eval" / "test.json").touch()
        (run / "inside").symlink_to(run / "eval")
        (run / "relative").symlink_to("eval/test.json")
        check_links(run)
        for name, target in (("plots", tmp_path), ("x.png", "/etc/passwd"), ("dead", "/nowhere"), ("eval/up", "../..")):
            (run / name).symlink_to(target)
            with pytest.raises(UserError, match=rf"'{run / name}' is a link to .*outside the run; remove the link"):
                check_links(run)
            check_links(run, [Path("/")])
            (run / name).unlink()
        (run / "itself").symlink_to("itself")
        check_links(run)
