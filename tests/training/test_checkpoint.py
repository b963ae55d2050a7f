"""A checkpoint is there whole or not at all: through full disks, kills, flipped bits and foreign files."""

import contextlib
import hashlib
import math
import os
import pickle
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from plcourse import Trainer
from plcourse.errors import RunFailed, UserError
from plcourse.training.checkpoint import AtomicCheckpointIO, link, load, verify
from plcourse.training.run_checkpoint import RunCheckpoint
from trainers import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]
STEPS = 4  # optimizer steps per epoch of the fits below


def content(value: float, size: int = 1000) -> dict[str, Any]:
    return {"state_dict": {"weight": torch.full((size,), value)}, "epoch": 3}


def value_of(path: Path) -> float:
    return float(load(path)["state_dict"]["weight"][0])


def save(path: Path, value: float = 1.0, size: int = 1000) -> None:
    AtomicCheckpointIO().save_checkpoint(content(value, size), path)


def temporary_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".tmp")


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


class TestFile:
    def test_what_is_saved_is_what_is_loaded(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "last.ckpt"
        save(path, 0.1)
        loaded = AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
        assert torch.equal(loaded["state_dict"]["weight"], content(0.1)["state_dict"]["weight"])
        assert loaded["epoch"] == 3
        assert torch.load(path, weights_only=True).keys() == loaded.keys()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (path.parent / "last.ckpt.sha256").read_text() == f"{digest}\n"
        assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]

    def test_a_checkpoint_is_removed_with_its_checksum(self, tmp_path: Path) -> None:
        save(tmp_path / "x.ckpt")
        AtomicCheckpointIO().remove_checkpoint(tmp_path / "x.ckpt")
        AtomicCheckpointIO().remove_checkpoint(tmp_path / "x.ckpt")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("how", ["flipped bit", "truncated", "missing", "empty", "text", "pickle", "no Lightning"])
    @pytest.mark.parametrize("checksum", ["with checksum", "without checksum"])
    def test_a_broken_file_is_refused_in_one_line_that_offers_an_intact_one(
        self, tmp_path: Path, how: str, checksum: str
    ) -> None:
        path, marker = tmp_path / "last.ckpt", tmp_path / "executed"
        save(path)
        save(tmp_path / "previous.ckpt", 2.0)
        whole = path.read_bytes()
        damaged = {
            "flipped bit": bytes([*whole[:900], whole[900] ^ 1, *whole[901:]]),
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"epoch: 3\n",
            "pickle": pickle.dumps({"state_dict": {}, "surprise": Surprise(marker)}, protocol=2),
        }
        if how == "missing":
            path.unlink()
        elif how == "no Lightning":
            torch.save({"model": torch.ones(3)}, path)
        else:
            path.write_bytes(damaged[how])
        if checksum == "without checksum" and how != "flipped bit":  # which nothing but the checksum can tell
            (tmp_path / "last.ckpt.sha256").unlink()
        with pytest.raises(UserError) as caught:
            AtomicCheckpointIO().load_checkpoint(path)
        message = one_line(caught.value)
        assert str(path) in message
        assert f"--ckpt_path {tmp_path / 'previous.ckpt'}" in message
        assert not marker.exists()

    @pytest.mark.filterwarnings("always")
    def test_a_foreign_pickle_is_refused_without_a_warning_beside_the_line(
        self, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        path = tmp_path / "x.ckpt"
        path.write_bytes(pickle.dumps({"state_dict": {}, "surprise": Surprise(tmp_path / "executed")}))
        with pytest.raises(UserError, match="would run code"):
            load(path)
        assert [str(warning.message) for warning in recwarn] == []

    def test_only_a_file_that_is_itself_intact_is_offered(self, tmp_path: Path) -> None:
        for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
            save(tmp_path / name)
        for name in ("last.ckpt", "previous.ckpt"):
            (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(UserError, match=r"best\.ckpt is intact"):
            load(tmp_path / "last.ckpt")
        (tmp_path / "best.ckpt").write_bytes(b"broken")
        with pytest.raises(UserError) as caught:
            load(tmp_path / "last.ckpt")
        assert "intact" not in str(caught.value)

    def test_a_file_in_the_way_of_the_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("no folder")
        with pytest.raises(RunFailed) as caught:
            save(tmp_path / "run" / "checkpoints" / "last.ckpt")
        assert str(tmp_path / "run" / "checkpoints" / "last.ckpt") in one_line(caught.value)

    def test_what_cannot_be_pickled_leaves_the_old_file_and_no_temporary_one(self, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        save(path, 7.0)
        with pytest.raises(RunFailed, match=r"last\.ckpt"):
            AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "callback": lambda: None}, path)
        assert value_of(path) == 7.0
        assert temporary_files(tmp_path) == []


class Surprise:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], AbstractContextManager[None]]]]:
    """A folder, and a context in which no byte more can be written to it.

    A file system of one MiB of its own, where this user may mount one; elsewhere a limit on the size of files, which
    fails in the same call.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False

    @contextlib.contextmanager
    def full_disk() -> Iterator[None]:
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()

    @contextlib.contextmanager
    def no_larger_files() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        yield folder, full_disk if mounted else no_larger_files
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


class TestFullDisk:
    @pytest.mark.parametrize("size", [1000, 100_000])
    def test_the_old_checkpoint_stays_and_no_temporary_file(self, disk: Any, size: int) -> None:
        folder, full = disk
        path = folder / "last.ckpt"
        save(path, 7.0)
        with full():
            with pytest.raises(RunFailed) as caught:
                save(path, 8.0, size)
            assert str(path) in one_line(caught.value)
            assert temporary_files(folder) == []
            assert value_of(path) == 7.0
        save(path, 9.0)
        assert value_of(path) == 9.0

    def test_a_second_name_for_a_checkpoint_fails_the_same_way(self, disk: Any) -> None:
        folder, full = disk
        save(folder / "last.ckpt", 7.0)
        save(folder / "previous.ckpt", 6.0)
        with full():
            with pytest.raises(RunFailed) as caught:
                link(folder / "last.ckpt", folder / "previous.ckpt")
            assert str(folder / "previous.ckpt") in one_line(caught.value)
            assert temporary_files(folder) == []
            assert (value_of(folder / "previous.ckpt"), value_of(folder / "last.ckpt")) == (6.0, 7.0)


def run_script(script: str, *arguments: Any) -> str:
    """Runs Python source in a process of its own, which forks what it kills: torch is imported once."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


FORK = """
import os, signal, sys, time, random
from pathlib import Path
import torch
torch.set_num_threads(1)
from plcourse.training import checkpoint as ck

def killed(work, after=None):
    "Forks a process that works until it kills itself, or is killed after some seconds."
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(3)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status

def save(path, value, size=10):
    ck.AtomicCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.full((size,), float(value))}}, path)

def value_of(path):
    "The value a checkpoint was filled with, nan where it does not load."
    try:
        weight = ck.load(path)["state_dict"]["weight"]
    except ck.UserError:
        return float("nan")
    assert (weight == weight[0]).all()
    return float(weight[0])

def die_at_rename(number):
    "The kill arrives just before the numbered rename of this process."
    original, renames = Path.replace, [0]
    def replace(self, target):
        renames[0] += 1
        if renames[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, target)
    Path.replace = replace
"""


@pytest.fixture(scope="class")
def torn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """What a file held after writes that were killed just before one of the three renames of each."""
    script = """
        for first in (1, 2, 3):
            for second in (1, 2, 3):
                folder = Path(sys.argv[1]) / f"{first}{second}"
                last, values = folder / "last.ckpt", []
                save(last, 0)
                for value, number in enumerate((first, second), start=1):
                    killed(lambda: (die_at_rename(number), save(last, value)))
                    values.append(value_of(last))
                save(last, 9)
                print(f"twice-{first}-{second}", *values, value_of(last))
            folder = Path(sys.argv[1]) / f"{first}"
            save(folder / "last.ckpt", 1)
            killed(lambda: (die_at_rename(first), save(folder / "last.ckpt", 2)))
            ck.link(folder / "last.ckpt", folder / "previous.ckpt")
            print(f"link-{first}", value_of(folder / "last.ckpt"), value_of(folder / "previous.ckpt"))
    """
    lines = run_script(FORK + textwrap.dedent(script), tmp_path_factory.mktemp("torn")).splitlines()
    return {line.split()[0]: [float(value) for value in line.split()[1:]] for line in lines}


class TestKills:
    def test_killed_at_any_time_while_writing_for_ever(self, tmp_path: Path) -> None:
        script = """
            path = Path(sys.argv[1]) / "last.ckpt"
            save(path, -1, 1 << 20)
            chooser, seen = random.Random(5), []
            def write_for_ever():
                for value in range(10**6):
                    save(path, value, 1 << 20)
            for _ in range(10):
                killed(write_for_ever, after=chooser.uniform(0.0, 0.6))
                assert ck.verify(path)
                seen.append(value_of(path))
            print(len(seen), max(seen))
        """
        kills, written = run_script(FORK + textwrap.dedent(script), tmp_path).split()
        assert int(kills) == 10
        assert float(written) > 1  # some writes had come through

    @pytest.mark.parametrize("first", [1, 2, 3])
    @pytest.mark.parametrize("second", [1, 2, 3])
    def test_killed_twice_between_two_steps_of_a_write(
        self, torn: dict[str, list[float]], first: int, second: int
    ) -> None:
        values = torn[f"twice-{first}-{second}"]
        assert values[0] in (0, 1)
        assert values[1] in (values[0], 2)
        assert values[2] == 9

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_a_checkpoint_whose_replacement_was_cut_short_can_become_the_previous_one(
        self, torn: dict[str, list[float]], number: int
    ) -> None:
        last, previous = torn[f"link-{number}"]
        assert last in (1, 2)
        assert previous == last


class TestLink:
    def test_a_second_name_is_the_same_file(self, tmp_path: Path) -> None:
        save(tmp_path / "last.ckpt", 5.0)
        save(tmp_path / "best.ckpt", 4.0)
        link(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
        assert (tmp_path / "last.ckpt").samefile(tmp_path / "best.ckpt")
        assert verify(tmp_path / "best.ckpt")
        save(tmp_path / "last.ckpt", 6.0)  # replaces the one, leaves the other
        assert (value_of(tmp_path / "last.ckpt"), value_of(tmp_path / "best.ckpt")) == (6.0, 5.0)
        assert temporary_files(tmp_path) == []

    def test_without_hard_links_it_is_a_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*arguments: Any) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refused)
        save(tmp_path / "last.ckpt", 5.0)
        link(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
        assert not (tmp_path / "last.ckpt").samefile(tmp_path / "best.ckpt")
        assert verify(tmp_path / "best.ckpt")
        assert value_of(tmp_path / "best.ckpt") == 5.0
        assert temporary_files(tmp_path) == []


class Scripted(pl.LightningModule):
    """Logs the given validation scores, one per epoch, whatever it learns."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.layer, self.scores = torch.nn.Linear(2, 1), scores

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Saves(pl.Callback):
    """Notes at which step each checkpoint was written."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        self.steps.append(trainer.global_step)


def fit(
    folder: Path, scores: list[float], callback: RunCheckpoint, more: list[pl.Callback] | None = None, **settings: Any
) -> Trainer:
    pl.seed_everything(1, verbose=False)
    ckpt_path = settings.pop("ckpt_path", None)
    callbacks = [callback, *(more or [])]
    settings = {"max_epochs": len(scores), **settings}
    trainer = quiet_trainer(default_root_dir=str(folder), callbacks=callbacks, **settings)
    data = DataLoader(TensorDataset(torch.ones(STEPS, 2)))
    trainer.fit(Scripted(scores), data, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def steps_of(folder: Path) -> dict[str, int]:
    """The optimizer step of each checkpoint, all of which load without code."""
    files = sorted((folder / "checkpoints").glob("*.ckpt"))
    assert files
    assert all(verify(path) for path in files)
    return {path.stem: torch.load(path, weights_only=True)["global_step"] for path in files}


class TestPolicy:
    @pytest.mark.parametrize(("mode", "best", "previous"), [("max", 3, 3), ("min", 2, 2)])
    def test_best_last_and_previous_after_a_fit(self, tmp_path: Path, mode: Any, best: int, previous: int) -> None:
        callback = RunCheckpoint("val/score", mode)
        fit(tmp_path, [0.5, 0.2, 0.9, 0.4], callback)
        assert steps_of(tmp_path) == {"best": best * STEPS, "last": 4 * STEPS, "previous": previous * STEPS}
        assert callback.best_model_score == pytest.approx({"max": 0.9, "min": 0.2}[mode])
        assert (callback.best_step, callback.best_epoch) == (best * STEPS, best - 1)
        assert callback.best_model_path == str(tmp_path / "checkpoints" / "best.ckpt")
        assert callback.last_model_path == str(tmp_path / "checkpoints" / "last.ckpt")

    def test_an_equal_score_is_no_better_one(self, tmp_path: Path) -> None:
        fit(tmp_path, [0.5, 0.5, 0.5], RunCheckpoint("val/score", "max"))
        assert steps_of(tmp_path)["best"] == STEPS

    def test_every_n_train_steps(self, tmp_path: Path) -> None:
        saves = Saves()
        fit(tmp_path, [0.5, 0.6, 0.7], RunCheckpoint("val/score", "min", every_n_train_steps=3), [saves])
        # every third step; the best epoch's end, step 4; the last epoch's end, step 12
        assert saves.steps == [3, 4, 6, 9, 12]

    def test_every_n_train_steps_counts_optimizer_steps_once(self, tmp_path: Path) -> None:
        saves = Saves()
        callback = RunCheckpoint("val/score", "min", every_n_train_steps=1)
        fit(tmp_path, [0.5], callback, [saves], accumulate_grad_batches=2)
        assert saves.steps == [1, 2]

    @pytest.mark.parametrize("name", ["every_n_epochs", "every_n_train_steps"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_an_interval_below_one_is_refused(self, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"^{name} is {value}; it must be 1 or more$"):
            RunCheckpoint(**cast(Any, {name: value}))

    def test_a_metric_that_is_never_logged_is_named_with_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(UserError) as caught:
            fit(tmp_path, [0.5], RunCheckpoint("val/scor", "max"))
        assert "'val/scor' is never logged; did you mean 'val/score'?" in one_line(caught.value)

    def test_without_a_metric_the_last_is_the_best(self, tmp_path: Path) -> None:
        fit(tmp_path, [0.9, 0.5, 0.7], RunCheckpoint(every_n_train_steps=3))
        assert steps_of(tmp_path) == {"best": 3 * STEPS, "last": 3 * STEPS, "previous": 9}

    def test_a_run_without_validation_keeps_its_last_state_as_best(self, tmp_path: Path) -> None:
        callback = RunCheckpoint("val/score", "max", every_n_train_steps=3)
        fit(tmp_path, [0.5, 0.6], callback, limit_val_batches=0)
        assert callback.best_model_score is None
        steps = steps_of(tmp_path)
        assert steps["last"] == 2 * STEPS
        assert steps["best"] == steps["last"]

    def test_a_score_that_is_not_a_number_is_never_the_best(self, tmp_path: Path) -> None:
        callback = RunCheckpoint("val/score", "max")
        fit(tmp_path, [math.nan, 0.5, math.nan], callback)
        assert callback.best_model_score == 0.5
        assert steps_of(tmp_path)["best"] == 2 * STEPS

    def test_the_best_survives_a_resume(self, tmp_path: Path) -> None:
        fit(tmp_path, [0.1, 0.9], RunCheckpoint("val/score", "max"))
        callback = RunCheckpoint("val/score", "max")
        last = tmp_path / "checkpoints" / "last.ckpt"
        trainer = fit(tmp_path, [0.1, 0.9, 0.3, 0.4], callback, ckpt_path=last)
        assert trainer.global_step == 4 * STEPS
        assert (callback.best_model_score, callback.best_epoch) == (pytest.approx(0.9), 1)
        assert steps_of(tmp_path) == {"best": 2 * STEPS, "last": 4 * STEPS, "previous": 2 * STEPS}

    def test_a_fit_that_max_steps_ends_has_its_last_step_in_last_ckpt(self, tmp_path: Path) -> None:
        trainer = fit(tmp_path, [0.5, 0.6], RunCheckpoint("val/score", "min"), max_steps=STEPS + 2, max_epochs=-1)
        assert trainer.global_step == STEPS + 2
        assert steps_of(tmp_path)["last"] == STEPS + 2

    def test_a_damaged_last_checkpoint_does_not_take_the_place_of_the_good_previous_one(self, tmp_path: Path) -> None:
        fit(tmp_path, [0.5, 0.6], RunCheckpoint("val/score", "max"))
        last, previous = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
        last.write_bytes(last.read_bytes()[:-1])
        good: list[bool] = []

        class Look(pl.Callback):
            def on_save_checkpoint(self, *arguments: Any, **kwargs: Any) -> None:
                good.append(verify(previous))  # a kill now would leave nothing else to go on from

        fit(tmp_path, [0.5, 0.6, 0.7], RunCheckpoint("val/score", "max"), [Look()], ckpt_path=previous)
        assert good
        assert all(good)

    def test_killed_between_last_and_best_the_best_is_made_good_on_resume(self, tmp_path: Path) -> None:
        script = """
            from training.test_checkpoint import RunCheckpoint, fit, steps_of
            from plcourse.training import run_checkpoint
            folder = Path(sys.argv[1])
            scores = [0.1, 0.9, 0.5]
            def dies():
                original = run_checkpoint.link
                def link(source, target):
                    if target.name == "best.ckpt" and value_of_best.best_model_score > 0.8:
                        os.kill(os.getpid(), signal.SIGKILL)
                    original(source, target)
                run_checkpoint.link = link
                fit(folder, scores, value_of_best)
            value_of_best = RunCheckpoint("val/score", "max")
            killed(dies)
            fit(folder, scores, RunCheckpoint("val/score", "max"), ckpt_path=folder / "checkpoints" / "last.ckpt")
            print(steps_of(folder)["best"])
        """
        script = (
            FORK
            + "import warnings; warnings.simplefilter('ignore')\nsys.path[:0] = [os.getcwd(), 'helpers']\n"
            + (textwrap.dedent(script))
        )
        assert int(run_script(script, tmp_path).split()[-1]) == 2 * STEPS

    def test_a_checkpoint_that_could_not_be_loaded_again_is_not_passed_off_as_one(self, tmp_path: Path) -> None:
        checkpoint = {**content(1.0), "hyper_parameters": {"root": tmp_path}}  # a path is no plain type
        with contextlib.suppress(RunFailed, UserError):
            AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / "last.ckpt")
        if (tmp_path / "last.ckpt").exists():
            assert load(tmp_path / "last.ckpt")["epoch"] == 3
