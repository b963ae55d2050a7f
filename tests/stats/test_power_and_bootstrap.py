"""The power of the tests, and bootstrap intervals."""

import math
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plcourse.stats.bootstrap import bootstrap_interval
from plcourse.stats.significance import paired_power, required_pairs


class TestPower:
    def test_of_a_known_case(self):
        # G*Power, paired t, d_z = 0.5, two-sided 0.05: 34 pairs for a power of 0.8
        assert required_pairs(0.5, 1) == 34
        assert paired_power(0.5, 1, 34) == pytest.approx(0.8077775)
        assert required_pairs(-1, 2) == 34

    def test_by_simulation(self):
        sets = np.random.default_rng(3).normal(0.9, 1, (20_000, 6))
        p: Any = stats.ttest_1samp(sets, 0, axis=1)[1]
        found = (p < 0.05).mean()
        assert paired_power(0.9, 1, 6) == pytest.approx(found, abs=0.012)

    def test_of_the_corrected_test_by_simulation(self):
        rng, ratio, n = np.random.default_rng(4), 0.25, 10
        # the sd that is seen is that of what the overlapping training sets do not share
        common = rng.normal(size=(20_000, 1)) * math.sqrt(ratio)
        sets = 1.2 + common + rng.normal(size=(20_000, n))
        t = sets.mean(axis=1) / (sets.std(axis=1, ddof=1) * math.sqrt(1 / n + ratio))
        found = (2 * stats.t.sf(abs(t), n - 1) < 0.05).mean()
        assert paired_power(1.2, 1, n, test_train_ratio=ratio) == pytest.approx(found, abs=0.012)

    def test_a_tail_that_scipy_cannot_compute_does_not_make_the_power_one(self):
        # nctdtr gives NaN for the wrong side here; the normal approximation of the power is 0.9274
        shift = 5.376124999531291
        assert paired_power(shift / math.sqrt(555), 1, 555, alpha=1e-4) == pytest.approx(0.9263, abs=1e-4)
        assert (required_pairs(shift / math.sqrt(555), 1, alpha=1e-4, power=0.99) or 0) > 742

    @given(st.floats(0.05, 5), st.sampled_from([0.001, 0.05, 0.2]), st.sampled_from([0.5, 0.8, 0.95]))
    @settings(max_examples=40)
    def test_the_number_is_the_smallest(self, effect, alpha, power):
        n: Any = required_pairs(effect, 1, alpha, power)
        assert paired_power(effect, 1, n, alpha) >= power
        assert n == 2 or paired_power(effect, 1, n - 1, alpha) < power

    def test_without_an_effect_there_is_no_number(self):
        assert paired_power(0, 1, 10) == pytest.approx(0.05)
        assert required_pairs(0, 1) is None

    def test_more_splits_of_the_same_data_have_a_limit(self):
        assert required_pairs(0.5, 1, test_train_ratio=0.25) is None
        assert (required_pairs(2, 1, test_train_ratio=0.25) or 99) < 20

    def test_an_enormous_effect(self):
        assert paired_power(1e6, 1, 5) == 1
        assert required_pairs(1e6, 1) == 2

    @pytest.mark.parametrize(
        "arguments", [(1, 0, 5), (math.nan, 1, 5), (1, 1, 1), (1, 1, 5, 0), (1, 1, 5, 1), (1, math.inf, 5)]
    )
    def test_mistakes(self, arguments):
        with pytest.raises(ValueError, match="="):
            paired_power(*arguments)
        with pytest.raises(ValueError, match="power=80"):
            required_pairs(1, 1, power=80)


class TestBootstrap:
    right = np.random.default_rng(5).random(200) < 0.95

    @pytest.mark.parametrize("method", ["bca", "percentile"])
    def test_equals_scipy(self, method):
        # so many resamples that an end's Monte Carlo error is 0.002; 0.01 is four times that of two such ends
        values, n_resamples = np.random.default_rng(6).exponential(size=60), 200_000
        reference = stats.bootstrap(
            (values,), np.mean, method=method, n_resamples=n_resamples, batch=20_000, rng=np.random.default_rng(7)
        ).confidence_interval
        own = bootstrap_interval(values, method=method, n_resamples=n_resamples)
        assert own == pytest.approx((reference.low, reference.high), abs=0.01)

    @pytest.mark.parametrize("method", ["bca", "percentile"])
    def test_the_fast_mean_is_the_mean(self, method):
        fast = bootstrap_interval(self.right, method=method)
        slow = bootstrap_interval(self.right, np.mean, method=method)
        assert fast == pytest.approx(slow, abs=0.006)

    def test_the_acceleration_is_the_same_for_both(self):
        values = np.random.default_rng(8).exponential(size=30)
        fast, slow = (bootstrap_interval(values, how, n_resamples=20_000) for how in (None, np.mean))
        assert fast == pytest.approx(slow, abs=0.01)

    def test_covers_a_skewed_error_rate_better_than_the_percentile_method(self):
        rng, trials, n, rate = np.random.default_rng(9), 300, 60, 1.0
        inside = {"bca": 0, "percentile": 0}
        for _ in range(trials):
            values = rng.lognormal(-0.5, 1, n) * rate  # of mean 1
            for method in inside:
                low, high = bootstrap_interval(values, method=cast(Any, method), n_resamples=999)
                inside[method] += low <= 1 <= high
        assert inside["bca"] >= inside["percentile"]
        assert inside["bca"] / trials > 0.88

    @pytest.mark.medium
    def test_covers_an_accuracy(self):
        rng, trials = np.random.default_rng(10), 400
        intervals = [bootstrap_interval(rng.random(200) < 0.9, n_resamples=999) for _ in range(trials)]
        covered = np.mean([low <= 0.9 <= high for low, high in intervals])
        assert abs(covered - 0.95) < 0.04

    def test_pairs_stay_together(self):
        ours = np.random.default_rng(11).random(300)
        both = np.stack([ours + 0.1, ours], axis=1)
        low, high = bootstrap_interval(both, lambda rows: float((rows[:, 0] - rows[:, 1]).mean()), n_resamples=199)
        assert (low, high) == pytest.approx((0.1, 0.1))

    def test_the_seed_fixes_it(self):
        values = self.right.astype(float)
        assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
        assert bootstrap_interval(values, n_resamples=999, seed=1) != bootstrap_interval(values, n_resamples=999)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
    def test_equal_values(self, value):
        assert bootstrap_interval(np.full(50, value)) == pytest.approx((value, value))

    def test_a_statistic_at_the_edge_of_its_resamples(self):
        low, high = bootstrap_interval(np.arange(20.0), np.max, n_resamples=199)
        assert 10 < low <= high <= 19

    @pytest.mark.parametrize(
        ("samples", "options", "words"),
        [
            ([1.0], {}, "2 rows"),
            (np.ones((3, 2)), {}, "one value per row"),
            ([1.0, math.nan], {}, "not finite"),
            ([1.0, 2.0], {"confidence": 95}, "confidence=95"),
            ([1.0, 2.0], {"method": "bac"}, "'bac'"),
            ([1.0, 2.0], {"n_resamples": 10}, "n_resamples=10"),
            ([1.0, 2.0], {"statistic": lambda rows: math.nan}, "every draw"),
        ],
    )
    def test_mistakes(self, samples, options, words):
        with pytest.raises(ValueError, match=words):
            bootstrap_interval(np.asarray(samples), **options)
