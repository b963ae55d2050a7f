import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plcourse.data import Batch, BatchLoader, EvalSampler, ImageDataset, Normalization, RandomAffine, TrainSampler
from plcourse.data import loader as loader_module
from plcourse.errors import RunFailed, UserError


class Numbers:
    """Batches that say which samples and which epoch they were made of."""

    def fetch(self, indices, epoch):
        return {"index": torch.from_numpy(indices.copy()), "epoch": epoch}


class Stumbles(Numbers):
    def fetch(self, indices, epoch):
        if 7 in indices:
            raise UserError("cannot read the image 'seven.png': it is torn")
        return super().fetch(indices, epoch)


def _loader(n=20, batch_size=4, seed=3, workers=0, data=None, **options):
    return BatchLoader(data or Numbers(), TrainSampler(n, batch_size, seed=seed), workers, **options)


def _epoch(loader, epoch):
    loader.set_epoch(epoch)
    return [batch["index"].tolist() for batch in loader]


def _children():
    gc.collect()
    return len(multiprocessing.active_children())


def test_an_epoch_is_the_samplers():
    loader = _loader()
    assert len(loader) == 5
    assert _epoch(loader, 2) == [b.tolist() for b in loader.plan.batches(2)]
    assert _epoch(loader, 0) != _epoch(loader, 1)


def test_the_epoch_is_read_at_the_first_batch_not_at_iter():
    # Lightning's order of calls
    loader = _loader()
    iterator = iter(loader)
    loader.set_epoch(4)
    assert next(iterator)["epoch"] == 4


def test_lightning_finds_set_epoch():
    from lightning_fabric.utilities.data import _set_sampler_epoch

    loader = _loader()
    _set_sampler_epoch(loader, 6)
    assert loader.state_dict()["epoch"] == 6


@settings(max_examples=60)
@given(
    n=st.integers(1, 30),
    batch_size=st.integers(1, 6),
    epoch=st.integers(0, 3),
    same_epoch_again=st.booleans(),
    data=st.data(),
)
def test_a_resumed_loader_gives_the_remaining_batches(n, batch_size, epoch, same_epoch_again, data):
    whole = _epoch(_loader(n, batch_size), epoch)
    position = data.draw(st.integers(0, len(whole)))
    interrupted = _loader(n, batch_size)
    interrupted.set_epoch(epoch)
    iterator = iter(interrupted)
    for _ in range(position):
        next(iterator)
    state = interrupted.state_dict()
    assert (state["epoch"], state["position"]) == (epoch, position)

    resumed = _loader(n, batch_size)
    resumed.load_state_dict(state)
    iterator = iter(resumed)
    if same_epoch_again:
        resumed.set_epoch(epoch)
    assert resumed.state_dict() == state
    assert [b["index"].tolist() for b in iterator] == whole[position:]
    assert resumed.state_dict()["position"] == len(whole)
    assert _epoch(resumed, epoch + 1) == _epoch(_loader(n, batch_size), epoch + 1)


def test_an_abandoned_pass_starts_again_from_the_beginning():
    loader = _loader()
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    assert loader.state_dict()["position"] == 2
    assert [b["index"].tolist() for b in loader] == [b.tolist() for b in loader.plan.batches(0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 21}, "the number of training samples at 20; now it is 21: restore 20"),
        ({"batch_size": 5}, "batch_size times the number of processes at 4; now it is 5: restore 4"),
        ({"seed": 4}, "the run's seed at 3; now it is 4: restore 3"),
    ],
)
def test_a_position_means_nothing_to_a_loader_that_cuts_otherwise(changes, message):
    loader = _loader()
    next(iter(loader))
    state = loader.state_dict()
    with pytest.raises(UserError, match=message):
        _loader(**changes).load_state_dict(state)
    _loader(**changes).load_state_dict({**state, "position": 0})


@pytest.mark.medium
def test_workers_give_the_same_batches_bit_for_bit_and_none_of_the_global_randomness(mnist5k):
    indices = np.arange(0, 5000, 50)
    data = ImageDataset(mnist5k, indices, Normalization([0.1], [0.3]), [RandomAffine()], seed=1)
    alone = BatchLoader(data, TrainSampler(len(data), 16, seed=1))
    helped = BatchLoader(data, TrainSampler(len(data), 16, seed=1), num_workers=2)
    before = torch.get_rng_state()
    for epoch in (0, 1, 5):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        for mine, theirs in zip(alone, helped, strict=True):
            assert mine.keys() == theirs.keys() == {"image", "label", "id", "rank_weight"}
            assert torch.equal(mine["image"], theirs["image"])
            assert torch.equal(mine["label"], theirs["label"])
            assert mine["id"] == theirs["id"]
            assert mine["rank_weight"] == theirs["rank_weight"] == 1.0
    assert torch.equal(before, torch.get_rng_state())
    helped.close()
    assert _children() == 0


@pytest.mark.medium
@pytest.mark.parametrize("persistent", [True, False])
def test_with_workers_the_position_counts_what_was_handed_out(persistent):
    loader = _loader(n=40, workers=2, persistent_workers=persistent)
    whole = _epoch(_loader(n=40), 1)
    loader.set_epoch(1)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    assert state["position"] == 3  # although the workers are further on
    del iterator
    assert _epoch(loader, 1) == whole  # an abandoned pass leaves nothing behind
    loader.load_state_dict(state)
    assert _epoch(loader, 1) == whole[3:]
    assert _epoch(loader, 2) == _epoch(_loader(n=40), 2)
    loader.close()
    assert _children() == 0


@pytest.mark.medium
def test_workers_stay_between_epochs_and_end_with_lightnings_shutdown():
    from pytorch_lightning.utilities.combined_loader import _shutdown_workers_and_reset_iterator

    loader = _loader(workers=2)
    _epoch(loader, 0)
    first = {child.pid for child in multiprocessing.active_children()}
    _epoch(loader, 1)
    assert {child.pid for child in multiprocessing.active_children()} == first
    assert len(first) == 2
    _shutdown_workers_and_reset_iterator(loader)
    assert _children() == 0
    assert _epoch(loader, 1) == _epoch(_loader(), 1)
    loader.close()
    loader.close()


@pytest.mark.medium
def test_a_loader_that_goes_out_of_scope_takes_its_workers_along():
    loader = _loader(workers=1)
    iterator = iter(loader)
    next(iterator)
    assert _children() == 1
    del loader, iterator
    assert _children() == 0


@pytest.mark.medium
def test_an_error_in_a_worker_is_still_one_line():
    loader = _loader(workers=1, data=Stumbles())
    with pytest.raises(UserError) as raised:
        list(loader)
    assert str(raised.value) == "cannot read the image 'seven.png': it is torn"
    loader.close()


class Fails(Numbers):
    """A worker that is killed, or that never delivers."""

    def __init__(self, how):
        self.how = how

    def fetch(self, indices, epoch):
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(2)
        return super().fetch(indices, epoch)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("how", "said"), [("killed", "(killed by signal|exited)"), ("silent", "timed out after 0.5 s")]
)
def test_a_worker_without_a_batch_ends_the_pass_in_one_line(monkeypatch, how, said):
    monkeypatch.setattr(loader_module, "_WORKER_SECONDS", 0.5)
    failing = _loader(workers=1, data=Fails(how))
    with pytest.raises(RunFailed, match=f"^a loader worker failed: DataLoader .*{said}") as failed:
        list(failing)
    assert "\n" not in str(failed.value)
    failing.close()


@pytest.mark.medium
def test_a_small_dev_shm_is_named(tmp_path):
    """Docker gives a container 64 MB; torch loses the batch in a thread of the worker, and waits for it."""
    code = """
import numpy as np, torch
from plcourse.data import BatchLoader, EvalSampler
class Large:
    def fetch(self, indices, epoch):
        return {"image": torch.zeros(1 << 18), "number": int(indices[0])}
if __name__ == "__main__":
    try:
        for batch in BatchLoader(Large(), EvalSampler(8, 1), 2):
            print(batch["number"], flush=True)
    except Exception as error:
        print(type(error).__name__, error)
"""
    (tmp_path / "large.py").write_text(code)
    mount = 'mount -t tmpfs -o size=512k none /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, str(tmp_path / "large.py")]
    if shutil.which("unshare") is None or subprocess.run([*command[:5], "sh", "true"], check=False).returncode:
        pytest.skip("needs a mount namespace with another /dev/shm")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("RunFailed /dev/shm is too small for the batches of the loader workers: ")
    assert "No space left on device" in done.stdout


class SignalHandlers:
    def fetch(self, indices, epoch):
        ignored = [signal.getsignal(s) == signal.SIG_IGN for s in (signal.SIGINT, signal.SIGTERM)]
        return {"ignored": all(ignored)}


@pytest.mark.medium
def test_workers_leave_signals_to_the_main_process():
    loader = _loader(workers=1, data=SignalHandlers())
    assert all(batch["ignored"] for batch in loader)
    loader.close()


@pytest.mark.medium
def test_workers_die_with_a_killed_main_process(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import multiprocessing, time\n"
        "from plcourse.data import ImageSplits\n"
        "batches = iter(ImageSplits('digits').train_loader(None, 16, num_workers=2))\n"
        "next(batches)\n"
        "print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "time.sleep(60)\n"
    )
    main = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    with main.stdout:
        workers = [int(pid) for pid in main.stdout.readline().split()]
    assert len(workers) == 2
    main.kill()
    main.wait()
    deadline = time.monotonic() + 4
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.05)


@pytest.mark.medium
def test_workers_do_not_keep_the_interpreter_from_ending(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "from plcourse.data import ImageSplits\n"
        "loaders = [ImageSplits('digits').train_loader(None, 16, num_workers=1) for _ in range(3)]\n"
        "loaders[1].persistent_workers = False\n"
        "halfway = [iter(loader) for loader in loaders]\n"
        "print(*(len(next(batches)['id']) for batches in halfway), len(list(halfway[2])) + 1 == len(loaders[2]))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "16 16 16 True\n", "")


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_batch_moves_its_tensors_and_keeps_the_rest():
    from lightning_fabric.utilities.apply_func import move_data_to_device

    batch = Batch({"image": torch.ones(2, 1), "id": ["a", "b"], "rank_weight": 0.5})
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch)
    assert moved["image"].device.type == "meta"
    assert (moved["id"], moved["rank_weight"]) == (["a", "b"], 0.5)
    assert isinstance(next(iter(_loader())), Batch)


@pytest.mark.parametrize("pinned", [True, False])
def test_tensors_are_pinned_when_asked(monkeypatch, pinned):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append(self.shape) or self)
    assert len(list(_loader(pin_memory=pinned))) == 5
    assert len(calls) == (5 if pinned else 0)


def test_rank_weights_add_up_over_the_ranks():
    loaders = [BatchLoader(Numbers(), TrainSampler(11, 2, 0, rank, 3)) for rank in range(3)]
    by_step = [[batch["rank_weight"] for batch in step] for step in zip(*loaders, strict=True)]
    assert by_step == [[1.0, 1.0, 1.0], [1.2, 1.2, 0.6]]
    assert "rank_weight" not in next(iter(BatchLoader(Numbers(), EvalSampler(5, 2))))


def test_an_evaluation_without_samples_is_an_empty_pass():
    loader = BatchLoader(Numbers(), EvalSampler(1, 2, rank=1, world_size=2))
    assert len(loader) == 0
    assert list(loader) == []


def test_a_negative_number_of_workers_is_named():
    with pytest.raises(ValueError, match="num_workers=-1"):
        _loader(workers=-1)
