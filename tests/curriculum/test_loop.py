"""The curriculum's fit loop: equal steps for all, plain training when everything is admitted, and an exact resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch

from curriculum_configs import curriculum_config
from forking import Forker, kill_and_resume
from plcourse import Run
from plcourse.curriculum.data import CurriculumData
from plcourse.curriculum.loop import CurriculumLoop
from plcourse.curriculum.model import CurriculumClassifier
from plcourse.curriculum.pacing import AdaptivePacing, Pacing, PacingFunction
from plcourse.curriculum.report import CurriculumReport
from plcourse.curriculum.sampler import Order
from plcourse.curriculum.scorers import ClassifierMargin, Scorer, TrainingSamples
from plcourse.curriculum.self_paced import SelfPacing
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.errors import UserError
from plcourse.training.loops import FitLoop
from plcourse.training.run_checkpoint import RunCheckpoint
from support import TWO_PROCESSES, Command, assert_equal, assert_same_end, failing, write_config
from trainers import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]
STEPS_PER_EPOCH = 20  # 1,258 training digits in batches of 64


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is where a Trainer without a run folder writes difficulty.csv."""
    monkeypatch.chdir(tmp_path)


class Watcher(pl.Callback):
    """Keeps the loss, the ids and the share of every batch."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.ids: list[list[str]] = []
        self.shares: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"])
        self.ids.append(batch["id"])
        self.shares.append(batch.get("share"))


class AtRandom(Scorer):
    """A difficulty that has nothing to do with the samples."""

    def __call__(self, samples: TrainingSamples) -> np.ndarray:
        return np.random.default_rng(0).normal(size=len(samples.ids))


def fit(loop: Any, module: Any = None, data: Any = None, **settings: Any) -> Watcher:
    """A short fit on digits in this process."""
    watcher = Watcher()
    callbacks = [watcher, *settings.pop("callbacks", [])]
    pl.seed_everything(3, verbose=False)
    settings = {"max_epochs": 2, "num_sanity_val_steps": 0, **settings}
    trainer = quiet_trainer(fit_loop=loop, callbacks=callbacks, **settings)
    trainer.fit(module or classifier(), data or CurriculumData("digits", batch_size=64))
    return watcher


def classifier(lr: float = 0.1) -> CurriculumClassifier:
    pl.seed_everything(3, verbose=False)
    return CurriculumClassifier(MLP(64, dropout=0.3), optimizer=lambda p: torch.optim.SGD(p, lr=lr), lr_scheduler=None)


def curriculum(
    order: Order = "easy_first", pacing: Pacing | None = None, scorer: Scorer | None = None, **more: Any
) -> Any:
    scorer = scorer or AtRandom()
    return lambda trainer: CurriculumLoop(trainer, order=order, scorer=scorer, pacing=pacing, **more)


class TestPlainTraining:
    @pytest.mark.medium
    def test_with_everything_admitted_it_is_the_plain_loop_bit_for_bit(self) -> None:
        plain = fit(FitLoop)
        for loop in (curriculum(), curriculum(pacing=PacingFunction(start=1.0)), lambda t: CurriculumLoop(t)):
            ours = fit(loop)
            assert ours.ids == plain.ids
            assert torch.equal(torch.stack(ours.losses), torch.stack(plain.losses))
            assert set(ours.shares) == {1.0}

    def test_a_scorer_changes_no_random_number(self) -> None:
        """Dropout draws after the scoring what it would have drawn without."""
        scored, unscored = fit(curriculum(scorer=ClassifierMargin())), fit(lambda t: CurriculumLoop(t))
        assert torch.equal(torch.stack(scored.losses), torch.stack(unscored.losses))

    def test_it_works_with_the_model_and_data_of_another_lesson(self) -> None:
        data = ImageData("digits", batch_size=64)
        loop = curriculum(order="random", pacing=PacingFunction(start=0.1))
        watcher = fit(loop, ImageClassifier(MLP(64), lr_scheduler=None), data)
        assert watcher.shares[0] == pytest.approx(0.1, abs=1e-3)


class TestArms:
    @pytest.mark.medium
    def test_all_orders_take_equal_steps_and_equally_many_samples(self) -> None:
        pace = PacingFunction(start=0.2, ramp=0.8)
        arms = {
            order: fit(curriculum(order, pacing=pace), max_epochs=3) for order in ("easy_first", "hard_first", "random")
        }
        iid = fit(curriculum(), max_epochs=3)
        for watcher in arms.values():
            assert [len(ids) for ids in watcher.ids] == [len(ids) for ids in iid.ids]
            assert watcher.shares == arms["random"].shares
            assert (np.diff(watcher.shares) >= 0).all()
            assert watcher.shares[0] < 0.25
            assert watcher.shares[-1] == 1
        firsts = [{name for ids in watcher.ids[:4] for name in ids} for watcher in arms.values()]
        assert not firsts[0] & firsts[1]  # the easiest fifth and the hardest

    def test_the_first_share_is_the_easiest_by_the_scores(self) -> None:
        class ById(Scorer):
            def __call__(self, samples: TrainingSamples) -> np.ndarray:
                return np.array([float(name.rpartition("/")[2]) for name in samples.ids])

        watcher = fit(curriculum(scorer=ById(), pacing=PacingFunction("one_step", start=0.25), balanced=False))
        numbers = {int(name.rpartition("/")[2]) for ids in watcher.ids[:STEPS_PER_EPOCH] for name in ids}
        data = CurriculumData("digits")
        data.setup("fit")
        rows: Any = data.train_dataloader().data
        everything = sorted(int(name.rpartition("/")[2]) for name in rows.ids)
        assert numbers == set(everything[: len(numbers)])
        assert len(numbers) == -(-len(everything) // 4)

    def test_steps_limit_the_pace_as_epochs_do(self) -> None:
        loop = curriculum("random", PacingFunction(start=0.2, ramp=1.0))
        by_steps = fit(loop, max_epochs=-1, max_steps=2 * STEPS_PER_EPOCH)
        assert by_steps.shares == fit(loop, max_epochs=2).shares

    def test_reloading_the_data_changes_nothing(self) -> None:
        loop = curriculum("random", PacingFunction(start=0.2, ramp=1.0))
        anew, once = (fit(loop, reload_dataloaders_every_n_epochs=every, max_epochs=3) for every in (1, 0))
        assert anew.ids == once.ids
        assert anew.shares == once.shares

    def test_another_kind_of_loader_is_refused(self) -> None:
        class Plain(CurriculumData):
            def train_dataloader(self) -> Any:
                return torch.utils.data.DataLoader(super().train_dataloader().data, batch_size=64)  # pyright: ignore[reportArgumentType]

        with pytest.raises(UserError, match="this data module trains on a DataLoader"):
            fit(curriculum(), data=Plain("digits"))


class TestAdaptivePacing:
    def test_a_plateau_admits_the_next_share(self) -> None:
        """A rate of 0 makes every validation equal to the first: each second epoch after it is a plateau."""
        pace = AdaptivePacing("val/accuracy", start=0.25, increment=0.25, patience=2)
        shares = fit(curriculum(pacing=pace), classifier(lr=0), max_epochs=8).shares
        by_epoch = [shares[i * STEPS_PER_EPOCH] for i in range(8)]
        assert by_epoch == pytest.approx([0.25] * 3 + [0.5] * 2 + [0.75] * 2 + [1.0], abs=1e-3)

    def test_no_plateau_admits_nothing(self) -> None:
        pace = AdaptivePacing("val/loss", mode="min", start=0.25, patience=1)
        shares = fit(curriculum("random", pacing=pace), classifier(lr=0.01), max_epochs=3).shares
        assert set(shares) == {shares[0]}

    def test_a_missing_metric_ends_the_run_after_a_saved_epoch(self, tmp_path: Path) -> None:
        keeper = RunCheckpoint("val/loss", dirpath=str(tmp_path))
        loop = curriculum(pacing=AdaptivePacing("val/acuracy"))
        with pytest.raises(UserError) as caught:
            fit(loop, callbacks=[keeper], max_epochs=3)
        assert "watches 'val/acuracy', which is not logged; did you mean 'val/accuracy'?" in str(caught.value)
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == STEPS_PER_EPOCH


class TestSelfPaced:
    def test_only_losses_below_the_age_train(self) -> None:
        module = classifier()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        fit(curriculum(weighting=SelfPacing(age=1e-6, growth=1.0, warmup_epochs=0)), module, max_epochs=1)
        assert_equal(dict(module.state_dict()), before, "nothing is that easy")
        everything = fit(curriculum(weighting=SelfPacing(age=1e6, warmup_epochs=0)))
        assert torch.equal(torch.stack(everything.losses), torch.stack(fit(curriculum()).losses))

    def test_the_warm_up_counts_everything(self) -> None:
        warm = fit(curriculum(weighting=SelfPacing(age=1e-6, growth=1.0, warmup_epochs=1)))
        plain = fit(curriculum())
        assert warm.losses[:STEPS_PER_EPOCH] == plain.losses[:STEPS_PER_EPOCH]
        assert set(map(float, warm.losses[STEPS_PER_EPOCH:])) == {0.0}


@pytest.mark.parametrize(
    ("pacing", "scorer", "message"),
    [
        (
            PacingFunction(start=0.01),
            AtRandom(),
            "a fraction of 0.01 admits 13 of 1258 samples, fewer than one batch of 64",
        ),
        (PacingFunction(), None, "order is easy_first, which needs to know how hard samples are"),
    ],
)
def test_an_impossible_curriculum_is_refused_before_training(pacing: Pacing, scorer: Any, message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        fit(lambda trainer: CurriculumLoop(trainer, scorer=scorer, pacing=pacing))


def test_a_pace_needs_a_limited_training() -> None:
    with pytest.raises(UserError, match="this pacing needs the length of the training"):
        fit(curriculum(pacing=PacingFunction()), max_epochs=-1)


@pytest.mark.medium
def test_the_report_follows_the_thirds_and_draws(tmp_path: Path) -> None:
    report = CurriculumReport(samples_per_tercile=40, examples=6)
    loop = curriculum(scorer=ClassifierMargin(), pacing=PacingFunction(start=0.3))
    fit(loop, callbacks=[report], max_epochs=6, default_root_dir=str(tmp_path))
    assert {path.name for path in (tmp_path / "plots").glob("*.png")} == {
        "pacing.png",
        "difficulty.png",
        "examples.png",
        "terciles.png",
    }
    assert [step for step, _ in report.accuracy["easy"]] == [STEPS_PER_EPOCH * i for i in range(1, 7)]
    easy, medium, hard = (report.accuracy[name][-1][1] for name in ("easy", "medium", "hard"))
    assert easy >= medium > hard
    assert report.passes[0] == (0, pytest.approx(0.3, abs=1e-3))
    assert report.passes[-1][1] == 1


ADAPTIVE = {
    "trainer__fit_loop__init_args__pacing": {
        "class_path": "AdaptivePacing",
        "init_args": {"monitor": "val/accuracy", "start": 0.2, "increment": 0.3, "min_delta": 0.2},
    }
}
SELF_PACED = {
    "trainer__fit_loop__init_args__pacing": None,
    "trainer__fit_loop__init_args__weighting": {"class_path": "SelfPacing", "init_args": {"age": 1.0}},
}


def assert_same_curriculum(run: Path, reference: Path) -> None:
    """What every run must have in common, and scores, order and pace."""
    assert_same_end(run, reference)
    states = [
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["loops"]["fit_loop"]["state_dict"]
        for path in (run, reference)
    ]
    assert_equal(states[0]["curriculum"], states[1]["curriculum"], "curriculum")


def kill_at_step(forked: Command, folder: Path, runs: Path, name: str, step: int, changes: dict[str, Any]) -> None:
    forked("fit", "-c", write_config(folder / f"reference_{name}.yaml", curriculum_config(**changes)))
    once = folder / f"killed_{name}_{step}"
    config = failing(curriculum_config(**changes), step=step, how="kill_job", once=str(once))
    path = write_config(folder / f"{name}_{step}.yaml", config)
    forked("fit", "-c", path, "--trust", "faulty", status=-9)
    assert once.exists()
    latest = runs / "own" / f"{name}_{step}" / "latest"
    forked("fit", "--run", latest, "--ckpt_path", "last", "--trust", "faulty")
    assert_same_curriculum(latest, runs / "own" / f"reference_{name}" / "latest")


def test_killed_in_mid_epoch_and_resumed(forked: Command, tmp_path: Path, runs: Path) -> None:
    kill_at_step(forked, tmp_path, runs, "paced", STEPS_PER_EPOCH + 11, {})


def test_an_adaptive_pace_resumes_exactly(forked: Command, tmp_path: Path, runs: Path) -> None:
    kill_at_step(forked, tmp_path, runs, "adaptive", 2 * STEPS_PER_EPOCH + 11, ADAPTIVE)
    rows = Run.load(runs / "own" / "reference_adaptive" / "latest").metrics
    shares = [row["value"] for row in rows if row["metric"] == "train/share"]
    assert shares[0] < 0.3 < shares[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, TWO_PROCESSES, {**ADAPTIVE, **TWO_PROCESSES}, SELF_PACED],
    ids=["paced", "paced, two processes", "adaptive, two processes", "self-paced"],
)
def test_killed_at_random_moments(tmp_path: Path, runs: Path, changes: dict[str, Any]) -> None:
    """20 kills in all."""
    with Forker(tmp_path, "plcourse.curriculum.loop", "plcourse.curriculum.scorers") as fork:
        kill_and_resume(fork, tmp_path, runs, curriculum_config(**changes), 5, assert_same_curriculum)


def test_two_processes_train_and_select_like_one(forked: Command, tmp_path: Path, runs: Path) -> None:
    """Pace and self-paced weights together, in double precision, without dropout."""
    changes: dict[str, Any] = {
        "trainer__precision": "64-true",
        "trainer__max_epochs": 2,
        "trainer__log_every_n_steps": 1,
        "trainer__fit_loop__init_args__weighting": {"class_path": "SelfPacing", "init_args": {"age": 1.5}},
        "model__init_args__network": {"class_path": "MLP", "init_args": {"in_features": 64}},
        "data__init_args__label_noise": 0.2,
    }
    forked("fit", "-c", write_config(tmp_path / "one.yaml", curriculum_config(**changes)))
    two = curriculum_config(**{**changes, **TWO_PROCESSES})
    forked("fit", "-c", write_config(tmp_path / "two.yaml", two), "--then", "test")
    one, other = (Run.load(runs / "own" / name / "latest") for name in ("one", "two"))
    assert other.eval("test")["coverage"]["twice"] == 0
    assert len(one.metrics) == len(other.metrics) > 100
    assert {"train/selected", "train/age", "train/share", "train/accuracy_hard"} <= {
        row["metric"] for row in one.metrics
    }
    for a, b in zip(one.metrics, other.metrics, strict=True):
        assert (a["metric"], a["step"]) == (b["metric"], b["step"])
        assert a["value"] == pytest.approx(b["value"], rel=1e-6, abs=1e-9), a


def test_another_curriculum_is_not_resumed(forked: Command, tmp_path: Path, runs: Path) -> None:
    """Other labels, another pace, other scores: each refused in one line, and the run stays resumable."""
    data = CurriculumData("digits")
    data.setup("fit")
    rows: Any = data.train_dataloader().data
    ids = rows.ids
    table = tmp_path / "scores.parquet"
    scores = np.arange(len(ids), dtype=np.float64)
    pq.write_table(pa.table({"id": ids, "hardness": scores}), table)
    column = {"class_path": "ScoreColumn", "init_args": {"path": str(table), "column": "hardness"}}
    changes = {"trainer__max_epochs": 1, "trainer__fit_loop__init_args__scorer": column}
    forked("fit", "-c", write_config(tmp_path / "column.yaml", curriculum_config(**changes)))
    run = ["fit", "--run", runs / "own" / "column" / "latest", "--ckpt_path", "last", "--trainer.max_epochs", "2"]
    loop = "--trainer.fit_loop.init_args"
    for flags, message in (
        (["--data.init_args.label_noise", "0.1"], "data.init_args.label_noise is 0.0 in run"),
        ([f"{loop}.pacing.init_args.ramp", "0.3"], "was trained with pacing {'class': 'PacingFunction'"),
    ):
        assert message in forked(*run, *flags, status=2).stderr
    pq.write_table(pa.table({"id": ids, "hardness": np.where(scores == 7, 700.0, scores)}), table)
    refused = forked(*run, status=2).stderr
    assert (
        f"1 of {len(ids)} scores differ from those of the checkpoint, first that of '{ids[7]}': 7 then, 700 now"
        in refused
    )
    assert refused.count("\n") == 1
    pq.write_table(pa.table({"id": ids, "hardness": scores}), table)
    assert "finished" in forked(*run).stdout
