"""Each fold of a cross-validation equals, bit for bit, a fit of that fold alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from sklearn.model_selection import StratifiedKFold

import plcourse
from kfold_configs import SEED, kfold_config
from plcourse.data.transforms import RandomAffine
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.training.run_checkpoint import RunCheckpoint
from support import assert_equal, assert_same_end
from trainers import quiet_trainer

pytestmark = pytest.mark.medium

EARLY_STOPPING = {
    "class_path": "pytorch_lightning.callbacks.EarlyStopping",
    "init_args": {"monitor": "val/loss", "patience": 1},
}
AVERAGING = {
    "class_path": "pytorch_lightning.callbacks.EMAWeightAveraging",
    "init_args": {"decay": 0.9},
}
STOPPING = {
    # a rate so high that the loss soon gets worse
    "model__init_args__optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 3.0}},
    "model__init_args__lr_scheduler": None,
    "trainer__max_epochs": 12,
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("callbacks", "changes"), [([], {}), ([EARLY_STOPPING], STOPPING), ([AVERAGING], {})], ids=["bare", "stop", "ema"]
)
def test_a_fold_is_a_plain_fit(callbacks: list[Any], changes: dict[str, Any], runs: Path) -> None:
    """Weights, states and table of folds, one or two at a time, and of a plain fit of the config in their folder."""
    config = kfold_config(callbacks, **changes)
    one, two = (plcourse.run("fit", config, {"trainer.fit_loop.init_args.n_jobs": n}).path / "folds" for n in (1, 2))
    for k in ("0", "1", "2"):
        assert_same_end(two / k, one / k)
    last = two / "2"  # two folds before it could have left something behind
    assert_same_end(last, plcourse.run("fit", last / "config.yaml").path)
    if callbacks == [EARLY_STOPPING]:
        steps = [json.loads((one / k / "run.json").read_text())["steps"] for k in ("0", "1", "2")]
        assert len(set(steps)) > 1, "no fold stopped at another time than the others: the state could have leaked"


@pytest.mark.usefixtures("one_thread")
def test_a_fold_is_a_fit_on_the_samples_that_scikit_learn_chooses(runs: Path) -> None:
    """Nothing of the lesson on this side: scikit-learn's splitter, the data module and a Trainer."""
    run = plcourse.run("fit", kfold_config(trainer__fit_loop__init_args__random_state=7))
    pool = ImageData("digits")
    cuts = StratifiedKFold(3, shuffle=True, random_state=7).split(pool.ids, pool.labels)
    for k, (train, val) in enumerate(cuts):
        pl.seed_everything(SEED, verbose=False)
        model = ImageClassifier(MLP(hidden=(32,), dropout=0.2))
        whole = ImageData("digits", batch_size=64, augment=[RandomAffine(degrees=10)])
        data = whole.with_split([pool.ids[i] for i in train], [pool.ids[i] for i in val])
        trainer = quiet_trainer(max_epochs=2, callbacks=[RunCheckpoint()], default_root_dir=str(runs / str(k)))
        trainer.fit(model, data)
        saved = torch.load(run.path / "folds" / str(k) / "checkpoints" / "last.ckpt", weights_only=True)
        assert_equal(saved["state_dict"], model.state_dict(), f"fold {k}")


def test_the_folds_start_alike_and_differ_in_the_end(runs: Path) -> None:
    run = plcourse.run("fit", kfold_config())
    ends = [torch.load(run.path / f"folds/{k}/checkpoints/last.ckpt", weights_only=True) for k in range(3)]
    for key in ("network.layers.1.weight", "network.layers.4.bias"):
        assert len({tuple(end["state_dict"][key].flatten().tolist()) for end in ends}) == 3
    assert len({end["epoch"] for end in ends}) == len({end["global_step"] for end in ends}) == 1
