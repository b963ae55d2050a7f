import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plcourse.data.randoms import keys_of, mix, normals, permutation, run_seed, uniforms

KNOWN_KEY = 7058037866072501940
KNOWN_UNIFORMS = [0.21178989365910672, 0.8603229249217627, 0.863251321214529]
KNOWN_PERMUTATION = [8, 1, 3, 6, 7, 9, 4, 2, 5, 0]

KEYS = keys_of([f"sample/{i}" for i in range(4000)])


@given(seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6), picks=st.lists(st.integers(0, 3999), max_size=20))
def test_a_draw_depends_on_seed_epoch_and_sample_alone(seed, epoch, picks):
    together = uniforms(seed, epoch, KEYS[picks], 3)
    alone = [uniforms(seed, epoch, KEYS[[pick]], 5)[0, :3] for pick in picks]
    np.testing.assert_array_equal(together, np.reshape(alone, (-1, 3)))


def test_the_numbers_never_change():
    # a resumed run must draw what the interrupted one would have drawn, on any machine and release
    assert keys_of(["mnist5k/00012"]).tolist() == [KNOWN_KEY]
    np.testing.assert_array_equal(uniforms(7, 3, np.array([12], np.uint64), 3)[0], KNOWN_UNIFORMS)
    assert permutation(7, 3, 10).tolist() == KNOWN_PERMUTATION


def test_mix_is_the_published_function():
    # the first outputs of SplitMix64 from state 0, as the reference implementation prints them
    states = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], np.uint64)
    assert [hex(v) for v in mix(states).tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_draws_are_uniform_and_uncorrelated_along_every_coordinate():
    by_sample = uniforms(0, 0, KEYS, 2)
    by_epoch = np.array([uniforms(0, epoch, KEYS[:1], 1)[0, 0] for epoch in range(4000)])
    by_seed = np.array([uniforms(seed, 0, KEYS[:1], 1)[0, 0] for seed in range(4000)])
    for draws in (by_sample[:, 0], by_sample[:, 1], by_epoch, by_seed):
        assert stats.kstest(draws, "uniform").pvalue > 0.001
        assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.06
    assert abs(np.corrcoef(by_sample.T)[0, 1]) < 0.06
    assert abs(np.corrcoef(by_epoch, by_seed)[0, 1]) < 0.06


@given(seed=st.integers(-5, 2**64), epoch=st.integers(0, 1000), n=st.integers(0, 300))
def test_a_permutation_holds_every_index_once_and_repeats(seed, epoch, n):
    order = permutation(seed, epoch, n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order, permutation(seed, epoch, n))


def test_epochs_and_seeds_have_their_own_permutations():
    orders = {tuple(permutation(seed, epoch, 20).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_runs_seed_is_lightnings(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "41")
    assert run_seed() == 41
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert run_seed() == 0


@given(seed=st.integers(-5, 2**64), n=st.integers(1, 7))
def test_a_normal_draw_depends_on_its_coordinates_alone(seed, n):
    ids = np.arange(30, dtype=np.uint64)
    draws = normals(seed, 3, ids, n)
    assert draws.shape == (30, n)
    assert np.isfinite(draws).all()
    np.testing.assert_array_equal(normals(seed, 3, ids[7:9], n), draws[7:9])


def test_normal_draws_are_normal_and_independent():
    draws = normals(5, 0, np.arange(4000, dtype=np.uint64), 3)
    for column in draws.T:
        assert stats.kstest(column, "norm").pvalue > 0.001
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.06
