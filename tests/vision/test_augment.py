"""Albumentations: image and mask together, and the same result whoever computes it."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from plcourse.data import MaskSplits, keys_of
from plcourse.errors import UserError
from plcourse.vision.augment import Albumentations

TRANSFORMS = [{"Affine": {"rotate": [-40, 40], "p": 1.0}}, {"InvertImg": {"p": 0.5}}, {"CoarseDropout": None}]


def samples(n: int = 6, size: int = 20) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 3, (n, size, size), generator=generator, dtype=torch.uint8)
    return images, masks, keys_of([f"s{i}" for i in range(n)])


def test_a_sample_gets_the_same_draws_in_any_batch_and_others_in_another_epoch() -> None:
    images, masks, keys = samples()
    augment = Albumentations(TRANSFORMS)
    whole = augment(images, masks, 5, 2, keys)
    for i in range(len(images)):
        alone = augment(images[i : i + 1], masks[i : i + 1], 5, 2, keys[i : i + 1])
        assert torch.equal(alone[0][0], whole[0][i])
        assert torch.equal(alone[1][0], whole[1][i])
    for seed, epoch in ((5, 3), (6, 2)):
        assert not torch.equal(augment(images, masks, seed, epoch, keys)[0], whole[0])
    assert not torch.equal(whole[0], images)


def test_image_and_mask_move_together() -> None:
    square = torch.zeros(5, 3, 21, 21, dtype=torch.uint8)
    square[:, :, 4:12, 6:15] = 255
    move: Any = {"Affine": {"translate_px": {"x": [-4, 4], "y": [-4, 4]}, "rotate": [90, 90], "p": 1.0}}
    images, masks = Albumentations([move])(square, (square[:, 0] > 0).to(torch.uint8), 0, 0, samples(5)[2])
    assert torch.equal((images[:, 0] > 127).to(torch.uint8), masks)
    assert len({tuple(each.flatten().tolist()) for each in masks}) > 1
    assert masks.unique().tolist() == [0, 1]


def test_transforms_do_not_share_their_draws() -> None:
    """From albumentations' own seeds two equal transforms would flip together, and undo each other."""
    images, masks, keys = samples(40)
    flipped = Albumentations([{"HorizontalFlip": {"p": 0.5}}, {"HorizontalFlip": {"p": 0.5}}])(
        images, masks, 0, 0, keys
    )
    changed = sum(not torch.equal(a, b) for a, b in zip(flipped[0], images, strict=True))
    assert 8 <= changed <= 32


@pytest.mark.medium
def test_workers_and_processes_change_nothing() -> None:
    parts = MaskSplits("digits_on_photos", image_size=12, val_size=10, test_size=4950)
    parts.open()
    augment = Albumentations(TRANSFORMS)
    plain = list(parts.train_loader(None, 8, augment))
    loader = parts.train_loader(None, 8, augment, num_workers=2)
    try:
        for own, other in zip(plain, loader, strict=True):
            assert own["id"] == other["id"]
            assert torch.equal(own["image"], other["image"])
            assert torch.equal(own["mask"], other["mask"])
    finally:
        loader.close()
    by_id = {name: image for batch in plain for name, image in zip(batch["id"], batch["image"], strict=True)}
    for batch in parts.train_loader(None, 3, augment):  # as another number of processes would cut them
        for name, image in zip(batch["id"], batch["image"], strict=True):
            assert torch.equal(image, by_id[name])


@pytest.mark.parametrize(
    ("transforms", "told"),
    [
        ([{"Afine": None}], "albumentations has no transform 'Afine'; did you mean 'Affine'"),
        ([{"Affine": {"rotat": 3}}], "Affine: .*rotat"),
        ([{"Affine": {"scale": "big"}}], "Affine: .*scale"),
        (["Affine"], "'Affine' is not a transform; write NAME"),
        ([{"Compose": {"transforms": []}}], "no transform 'Compose'"),
    ],
    ids=["name", "argument", "value", "shape", "no_transform"],
)
def test_a_mistake_is_one_line(transforms: list[dict[str, dict[str, object] | None]], told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        Albumentations(transforms)
    assert "\n" not in str(raised.value)


def test_another_size_is_refused() -> None:
    images, masks, keys = samples()
    with pytest.raises(
        UserError,
        match=r"changes the image size from \(20, 20\) to \(8, 8\); set the size by data.init_args.image_size",
    ):
        Albumentations([{"Resize": {"height": 8, "width": 8}}])(images, masks, 0, 0, keys)


@pytest.mark.slow
def test_albumentations_makes_no_network_request() -> None:
    script = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('asked the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from plcourse.vision.augment import Albumentations\n"
        "Albumentations([{'HorizontalFlip': None}])\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
