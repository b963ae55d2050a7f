"""ImageData under a real Trainer: what Lightning does to loaders must not move a sample."""

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from plcourse.data import Process, RandomAffine, RandomCrop, Splittable, open_source
from plcourse.ddp.data import ImageData
from plcourse.errors import UserError
from trainers import QUIET


class Linear(pl.LightningModule):
    """Notes the ids of each batch it sees, with the epoch."""

    def __init__(self, in_features=64):
        super().__init__()
        self.layer = torch.nn.Linear(in_features, 10)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.seen = {"train": [], "val": [], "test": [], "predict": []}

    def _loss(self, stage, batch):
        self.seen[stage].append((self.current_epoch, tuple(batch["id"])))
        return torch.nn.functional.cross_entropy(self.layer(batch["image"].flatten(1)), batch["label"])

    def training_step(self, batch, batch_idx):
        return self._loss("train", batch) * batch["rank_weight"]

    def validation_step(self, batch, batch_idx):
        self._loss("val", batch)

    def test_step(self, batch, batch_idx):
        self._loss("test", batch)

    def predict_step(self, batch, batch_idx):
        self.seen["predict"].append((0, tuple(batch["id"])))
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def _seed(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")


def _trainer(**options):
    defaults = {"enable_checkpointing": False, "num_sanity_val_steps": 0, "max_epochs": 1}
    return pl.Trainer(**{**QUIET, **defaults, **options})


def _fit(data, in_features=64, ckpt_path=None, **options):
    model, trainer = Linear(in_features), _trainer(**options)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return model, trainer


def _digits(**options):
    return ImageData(**{"source": "digits", "batch_size": 100, "augment": [RandomCrop(1)], **options})


def _flat(batches):
    return [name for _, ids in batches for name in ids]


def test_the_defaults_run():
    model, _ = _fit(ImageData(), in_features=784)
    assert len(_flat(model.seen["train"])) == len(set(_flat(model.seen["train"]))) == 3500
    assert len(set(_flat(model.seen["val"]))) == len(_flat(model.seen["val"])) == 500


def test_each_epoch_sees_each_sample_once_in_an_order_of_its_own():
    data = _digits()
    model, _ = _fit(data, max_epochs=3)
    epochs = [_flat(b for b in model.seen["train"] if b[0] == epoch) for epoch in range(3)]
    assert all(sorted(ids) == sorted(epochs[0]) for ids in epochs)
    assert len({tuple(ids) for ids in epochs}) == 3
    assert len(epochs[0]) == len(data.splits.parts["train"])
    validated = [_flat(b for b in model.seen["val"] if b[0] == epoch) for epoch in range(3)]
    assert validated[0] == validated[1] == validated[2]
    assert not set(validated[0]) & set(epochs[0])


@pytest.mark.medium
def test_workers_change_nothing_and_are_gone_afterwards():
    import multiprocessing

    alone, _ = _fit(_digits(augment=[RandomAffine()]), max_epochs=2)
    helped, _ = _fit(_digits(augment=[RandomAffine()], num_workers=2), max_epochs=2)
    assert alone.seen == helped.seen
    assert torch.equal(alone.layer.weight, helped.layer.weight)
    assert alone.layer.weight.abs().sum() > 0
    assert multiprocessing.active_children() == []


class SaveAt(pl.Callback):
    """Saves a checkpoint right after one step, as a run would that is killed in the next."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *args, **kwargs):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.medium
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [5, 13, 18, 26, 31])
def test_a_fit_resumed_at_any_step_equals_the_uninterrupted_one(tmp_path, workers, step):
    # 13 batches an epoch: within the first, at its end, within the second, at its end, within the third
    path = tmp_path / "a.ckpt"
    whole, _ = _fit(_digits(num_workers=workers), max_epochs=3, callbacks=[SaveAt(path, step)])
    resumed, _ = _fit(_digits(num_workers=workers), max_epochs=3, ckpt_path=path)
    assert len(whole.seen["train"]) == 39
    assert resumed.seen["train"] == whole.seen["train"][step:]
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


def test_a_resume_with_another_batch_size_is_refused_in_mid_epoch(tmp_path):
    path = tmp_path / "a.ckpt"
    _fit(_digits(), max_epochs=2, callbacks=[SaveAt(path, 5)])
    with pytest.raises(UserError, match="batch_size times the number of processes at 100; now it is 50"):
        _fit(_digits(batch_size=50), max_epochs=3, ckpt_path=path)


def test_limits_and_overfitting_are_honored():
    model, _ = _fit(_digits(), max_epochs=2, limit_train_batches=2, limit_val_batches=1)
    assert [len(model.seen[stage]) for stage in ("train", "val")] == [4, 2]
    assert _flat(model.seen["train"][:2]) != _flat(model.seen["train"][2:])
    model, _ = _fit(_digits(), max_epochs=2, overfit_batches=2)
    assert _flat(model.seen["train"][:2]) == _flat(model.seen["train"][2:])


def test_testing_and_predicting_see_the_test_part_in_order(digits):
    data, model, trainer = _digits(test_size=365), Linear(), _trainer()
    trainer.test(model, datamodule=data, verbose=False)
    wanted = [digits.ids[i] for i in data.splits.parts["test"]]
    assert _flat(model.seen["test"]) == wanted
    predicted = trainer.predict(model, datamodule=data)
    assert _flat(model.seen["predict"]) == wanted
    assert predicted is not None
    assert "rank_weight" not in predicted[0]


def _image_folder(root, n=12):
    source = open_source("digits", image_size=12)
    for label in (0, 1):
        for i in np.flatnonzero(source.labels == label)[:n]:
            (root / f"class{label}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.read(np.array([i]))[0, 0].numpy()).save(root / f"class{label}" / f"{i}.png")
    return root


def test_new_files_are_predicted_without_the_training_data(tmp_path):
    root = _image_folder(tmp_path / "mine")
    data = ImageData("image_folder", str(root), batch_size=5)
    assert (data.num_classes, data.channels, data.shape) == (2, 1, (1, 12, 12))
    _, trainer = _fit(data, in_features=144)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    new = tmp_path / "new.png"
    Image.fromarray(np.full((30, 20, 3), 128, np.uint8)).save(new)

    elsewhere = ImageData("image_folder", str(tmp_path / "gone"), predict_paths=[str(new), str(root / "class1")])
    trained = tmp_path / "a.ckpt"
    predicted: Any = _trainer().predict(Linear(144), datamodule=elsewhere, ckpt_path=trained, weights_only=True)
    [batch] = predicted
    assert elsewhere.label_names == ["class0", "class1"]
    assert elsewhere.splits.normalization == data.splits.normalization
    assert batch["id"][0] == str(new)
    assert batch["image"].shape == (13, 1, 12, 12)
    gray = (128 / 255 - data.splits.normalization.mean[0]) / data.splits.normalization.std[0]
    torch.testing.assert_close(batch["image"][0], torch.full((1, 12, 12), gray))
    assert batch["label"].tolist() == [-1] * 13


def test_new_files_without_a_checkpoint_need_the_training_data(tmp_path):
    new = tmp_path / "new.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(new)
    data = ImageData("image_folder", str(tmp_path / "gone"), predict_paths=[str(new)])
    with pytest.raises(UserError, match="gone' does not exist"):
        _trainer().predict(Linear(), datamodule=data)


def test_a_checkpoint_of_other_classes_or_shapes_is_refused(tmp_path):
    mine = ImageData("image_folder", str(_image_folder(tmp_path / "mine")), batch_size=5)
    _, trainer = _fit(mine, in_features=144)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    (tmp_path / "mine/class1").rename(tmp_path / "mine/other")
    renamed = ImageData("image_folder", str(tmp_path / "mine"))
    with pytest.raises(UserError, match=r"image_folder has the class 'other', .* trained on class0, class1"):
        _trainer().test(Linear(144), datamodule=renamed, ckpt_path=tmp_path / "a.ckpt", weights_only=True)


@pytest.mark.parametrize("opened_first", [True, False])
def test_a_state_of_another_shape_is_refused_whenever_it_comes(opened_first):
    state = _digits().state_dict()
    larger = _digits(image_size=12)
    if opened_first:
        larger.setup("test")

    def load():
        larger.load_state_dict(state)
        larger.setup("test")

    with pytest.raises(UserError, match=r"images of shape \[1, 8, 8\], but digits has \[1, 12, 12\]"):
        load()


def test_skipped_files_are_counted_and_listed(tmp_path, capsys):
    root = _image_folder(tmp_path / "mine")
    (root / "class0/torn.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"torn\.png"):
        ImageData("image_folder", str(root)).setup("fit")
    data = ImageData("image_folder", str(root), on_error="skip")
    data.setup("fit")
    printed = capsys.readouterr().out
    assert "image_folder: 1 unreadable files left out: " in printed
    assert "torn.png (not an image of a known format)" in printed
    assert data.splits.source.rejected[0][0].endswith("torn.png")


def test_it_is_splittable():
    data = _digits()
    assert isinstance(data, Splittable)
    assert len(data.ids) == len(data.labels) == 1797 - len(data.splits.parts["test"])
    assert data.groups is None
    fold = data.with_split(data.ids[:200], data.ids[200:260])
    assert isinstance(fold, ImageData)
    assert fold.augment is data.augment
    model, _ = _fit(fold)
    assert sorted(_flat(model.seen["train"])) == data.ids[:200]
    assert _flat(model.seen["val"]) == data.ids[200:260]
    assert len(data.splits.parts["train"]) > 1000


class RankOne:
    """Of a Trainer what `Process.of` reads."""

    global_rank, world_size, overfit_batches, accumulate_grad_batches = 1, 3, 0.0, 1

    class strategy:  # noqa: N801 stands for an attribute
        root_device = torch.device("cuda", 0)


def test_the_loaders_follow_the_trainers_rank_and_device():
    assert Process.of(None) == Process(0, 1, False, False)
    found = Process.of(RankOne())  # pyright: ignore[reportArgumentType]
    assert (found.rank, found.world_size, found.pin_memory, found.overfit) == (1, 3, True, False)
