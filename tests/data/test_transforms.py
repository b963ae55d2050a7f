import math
from typing import Any, cast

import numpy as np
import pytest
import torch

from plcourse.data import RandomAffine, RandomCrop, RandomFlip, augment_batch, keys_of

ALL = [
    RandomAffine(),
    RandomAffine(degrees=180, translate=0.3, scale=(0.5, 2.0), shear=30),
    RandomFlip(),
    RandomFlip(0.3, "vertical"),
    RandomCrop(3),
]


@pytest.fixture
def images():
    return torch.rand(37, 3, 13, 17, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("augmentation", [*ALL, ALL], ids=lambda a: type(a).__name__)
def test_a_sample_comes_out_the_same_alone_and_in_any_batch(images, augmentation):
    chain = augmentation if isinstance(augmentation, list) else [augmentation]
    keys = keys_of([str(i) for i in range(len(images))])
    together = augment_batch(chain, images, 1, 2, keys)
    for b in range(len(images)):
        assert torch.equal(augment_batch(chain, images[b : b + 1], 1, 2, keys[b : b + 1])[0], together[b])
    backwards = augment_batch(chain, images.flip(0), 1, 2, keys[::-1])
    assert torch.equal(backwards.flip(0), together)


@pytest.mark.parametrize("augmentation", ALL, ids=lambda a: type(a).__name__)
def test_something_changes_but_neither_shape_range_nor_the_input(images, augmentation):
    before = images.clone()
    keys = keys_of([str(i) for i in range(len(images))])
    first, again, later = (augment_batch([augmentation], images, 0, epoch, keys) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    assert torch.equal(images, before)


def _affine(image, u=(0.5, 0.5, 0.5, 0.5, 0.5), **options):
    return RandomAffine(**{"degrees": 0, "translate": 0, "scale": (1, 1), "shear": 0, **options})(image, np.array([u]))


def test_affine_without_any_movement_is_the_identity(images):
    torch.testing.assert_close(_affine(images[:1]), images[:1])


def test_affine_turns_shifts_zooms_and_shears_the_right_way():
    square = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    # the highest uniform is the full positive angle; torch counts rows downwards, so that turns clockwise
    quarter = _affine(square, (1.0, 0.5, 0.5, 0.5, 0.5), degrees=90)
    torch.testing.assert_close(quarter, square.rot90(-1, (2, 3)), atol=1e-5, rtol=0)
    right = _affine(square, (0.5, 1.0, 0.5, 0.5, 0.5), translate=2 / 9)
    torch.testing.assert_close(right[..., 2:], square[..., :-2], atol=1e-5, rtol=0)
    assert right[..., :2].abs().max() < 1e-5
    down = _affine(square, (0.5, 0.5, 1.0, 0.5, 0.5), translate=1 / 9)
    torch.testing.assert_close(down[..., 1:, :], square[..., :-1, :], atol=1e-5, rtol=0)
    third = _affine(square, (0.5, 0.5, 0.5, 1.0, 0.5), scale=(1.0, 3.0))
    torch.testing.assert_close(third[..., 1::3, 1::3], square[..., 3:6, 3:6], atol=1e-5, rtol=0)
    sheared = _affine(square, (0.5, 0.5, 0.5, 0.5, 1.0), shear=45)
    for row in range(9):
        shift = row - 4
        kept = slice(max(0, shift), 9 + min(0, shift))
        came_from = slice(max(0, -shift), 9 - max(0, shift))
        torch.testing.assert_close(sheared[0, 0, row, kept], square[0, 0, row, came_from], atol=1e-5, rtol=0)


def test_affine_agrees_with_torchs_own_grid(images):
    angle, shift, zoom = math.radians(17.0), 0.1, 1.2
    theta = torch.tensor(
        [[math.cos(angle) / zoom, math.sin(angle) / zoom, 0.0], [-math.sin(angle) / zoom, math.cos(angle) / zoom, 0.0]]
    )
    theta[:, 2] = theta[:, :2] @ torch.tensor([-2 * shift, 0.0])
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    grid = torch.nn.functional.affine_grid(theta[None], [1, 1, 16, 16], align_corners=False)
    expected = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    ours = _affine(image, (1.0, 1.0, 0.5, 1.0, 0.5), degrees=17.0, translate=shift, scale=(1.0, zoom))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_flips_follow_their_probability(images):
    uniforms = np.linspace(0, 1, len(images), endpoint=False)[:, None]
    flipped = RandomFlip(0.25)(images, uniforms)
    for b, u in enumerate(uniforms[:, 0]):
        assert torch.equal(flipped[b], images[b].flip(-1) if u < 0.25 else images[b])
    assert torch.equal(RandomFlip(1.0, "vertical")(images, uniforms), images.flip(-2))
    assert torch.equal(RandomFlip(0.0)(images, uniforms), images)


def test_crops_shift_by_up_to_the_padding(images):
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    uniforms = np.random.default_rng(0).random((len(images), 2))
    cropped = RandomCrop(2)(images, uniforms)
    seen = set()
    for b, (row, column) in enumerate((uniforms * 5).astype(int)):
        seen |= {row, column}
        assert torch.equal(cropped[b], padded[b, :, row : row + 13, column : column + 17])
    assert seen == {0, 1, 2, 3, 4}
    assert torch.equal(RandomCrop(0)(images, uniforms), images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomAffine(degrees=-1), "degrees=-1"),
        (lambda: RandomAffine(translate=2), "translate=2"),
        (lambda: RandomAffine(scale=(0, 1)), "scale=\\(0, 1\\)"),
        (lambda: RandomAffine(scale=(1.2, 0.8)), "scale=\\(1.2, 0.8\\)"),
        (lambda: RandomAffine(shear=90), "shear=90"),
        (lambda: RandomFlip(1.5), "p=1.5"),
        (lambda: RandomFlip(direction=cast(Any, "sideways")), "direction='sideways'"),
        (lambda: RandomCrop(-1), "padding=-1"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
