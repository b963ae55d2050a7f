"""The statistics: equal to scipy's and to hand-computed examples, and right under the null."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from plcourse.stats.significance import corrected_resampled_t_test, effect_size, hedges_correction, holm, paired_t_test

A = [0.981, 0.977, 0.984, 0.979, 0.990]
B = [0.975, 0.978, 0.979, 0.970, 0.981]

scores = st.lists(st.tuples(*[st.integers(-1000, 1000).map(lambda i: i / 512)] * 2), min_size=2, max_size=12)


def compared(a: Any, b: Any, ratio: float | None = None) -> Any:
    """The corrected test where a ratio is given, the paired one elsewhere."""
    return paired_t_test(a, b) if ratio is None else corrected_resampled_t_test(a, b, ratio)


class TestPairedTTest:
    def test_equals_scipy(self):
        result, reference = paired_t_test(A, B, 0.9), stats.ttest_rel(A, B)
        interval = reference.confidence_interval(0.9)
        assert result.state == "tested"
        assert (result.n, result.df, result.confidence) == (5, 4, 0.9)
        assert result.t == pytest.approx(reference.statistic, rel=1e-9)
        assert result.p == pytest.approx(reference.pvalue, rel=1e-9)
        assert (result.low, result.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert result.sd == pytest.approx(np.std(np.subtract(A, B), ddof=1), rel=1e-9)

    def test_by_hand(self):
        # differences 1, 2, 3: mean 2, sd 1, standard error 1/sqrt(3), t = 2 sqrt(3), t(2, 0.975) = 4.302653
        result = paired_t_test([2, 4, 6], [1, 2, 3])
        assert (result.difference, result.sd) == (2, 1)
        assert result.t == pytest.approx(2 * math.sqrt(3))
        assert result.high == pytest.approx(2 + 4.302653 / math.sqrt(3), rel=1e-6)
        # two-sided p of t with two degrees of freedom: 1 - t / sqrt(2 + t^2)
        assert result.p == pytest.approx(1 - math.sqrt(12 / 14))
        assert result.effect_size == pytest.approx(2 * hedges_correction(2))

    @pytest.mark.parametrize("pairs", [[], [(1.0, 2.0)]])
    def test_too_few(self, pairs):
        result = paired_t_test([a for a, _ in pairs], [b for _, b in pairs])
        assert (result.state, result.n, result.p, result.low) == ("too_few", len(pairs), None, None)
        assert result.difference == (-1 if pairs else None)

    def test_identical(self):
        result = paired_t_test(A, A)
        assert (result.state, result.difference, result.sd, result.p) == ("identical", 0, 0, None)

    def test_a_constant_difference_has_no_test(self):
        # 0.99 - 0.98 and 0.98 - 0.97 differ by rounding alone
        result = paired_t_test([0.99, 0.98, 0.5], [0.98, 0.97, 0.49])
        assert result.state == "constant"
        assert result.difference == pytest.approx(0.01)
        assert (result.p, result.low, result.effect_size) == (None, None, None)

    def test_an_offset_that_hides_the_spread_is_not_noise(self):
        # a spread of 1e-9 beside scores near 1 is still far above rounding
        result = paired_t_test([1 + 1e-9, 1 + 3e-9, 1 + 2e-9], [1, 1, 1])
        assert result.state == "tested"

    @pytest.mark.parametrize(
        ("a", "b", "confidence", "words"),
        [
            ([1], [1, 2], 0.95, "1 scores but 2"),
            ([1, math.nan], [1, 2], 0.95, "nan"),
            ([1, 2], [1, math.inf], 0.95, "inf"),
            ([1, 2], [1, 3], 95, "confidence=95"),
        ],
    )
    def test_mistakes(self, a, b, confidence, words):
        with pytest.raises(ValueError, match=words):
            paired_t_test(a, b, confidence)

    @given(scores)
    @settings(max_examples=60)
    def test_exchanging_the_arms_changes_the_sign_alone(self, pairs):
        a, b = zip(*pairs, strict=True)
        forth, back = compared(a, b), compared(b, a)
        assert (forth.state, forth.sd, forth.p) == (back.state, back.sd, back.p)
        assert forth.difference == -back.difference
        if forth.state == "tested":
            assert (forth.low, forth.high) == (-back.high, -back.low)
            assert forth.t == -back.t
            if forth.effect_size is not None:
                assert forth.effect_size == -back.effect_size

    @given(scores, st.integers(-5, 5), st.sampled_from([0.25, 2, 8]))
    @settings(max_examples=60)
    def test_a_shift_of_both_arms_changes_nothing_and_a_unit_only_the_unit(self, pairs, shift, unit):
        a, b = zip(*pairs, strict=True)
        plain, moved = compared(a, b), compared([x * unit + shift for x in a], [x * unit + shift for x in b])
        assert plain.state == moved.state
        assert moved.difference == pytest.approx(plain.difference * unit)
        if plain.state == "tested":
            assert (moved.p, moved.effect_size) == pytest.approx((plain.p, plain.effect_size))
            assert (moved.low, moved.high) == pytest.approx((plain.low * unit, plain.high * unit))

    @given(scores)
    @settings(max_examples=60)
    def test_the_interval_excludes_zero_just_when_p_is_small(self, pairs):
        a, b = zip(*pairs, strict=True)
        result = compared(a, b)
        assume(result.state == "tested" and abs(result.p - 0.05) > 1e-9)
        assert (result.p < 0.05) == (result.low > 0 or result.high < 0)


class TestCorrectedResampledTTest:
    def test_by_hand(self):
        # 3 folds, n_test/n_train = 1/2: the factor is 1/3 + 1/2 = 5/6 in place of 1/3
        result = compared([2, 4, 6], [1, 2, 3], 0.5)
        assert result.variance_factor == pytest.approx(5 / 6)
        assert result.t == pytest.approx(2 / math.sqrt(5 / 6))
        assert result.p == pytest.approx(2 * stats.t.sf(2 / math.sqrt(5 / 6), 2))
        assert result.high - result.low == pytest.approx(2 * stats.t.ppf(0.975, 2) * math.sqrt(5 / 6))

    def test_without_a_test_part_it_is_the_paired_test(self):
        assert corrected_resampled_t_test(A, B, 0) == paired_t_test(A, B)

    @given(scores, st.floats(0.01, 1))
    @settings(max_examples=60)
    def test_is_more_careful_than_the_naive_test(self, pairs, ratio):
        a, b = zip(*pairs, strict=True)
        naive, corrected = compared(a, b), compared(a, b, ratio)
        assert naive.difference == corrected.difference
        if naive.state == "tested":
            assert corrected.p >= naive.p
            assert corrected.low <= naive.low

    @pytest.mark.parametrize("ratio", [-0.1, math.nan, math.inf])
    def test_mistakes(self, ratio):
        with pytest.raises(ValueError, match="n_test / n_train"):
            corrected_resampled_t_test(A, B, ratio)

    def test_is_exact_where_its_assumption_holds(self):
        # differences with the correlation n_test / (n_train + n_test) that the correction takes
        rng, ratio, n, trials = np.random.default_rng(0), 1 / 9, 15, 4000
        rho = ratio / (1 + ratio)
        common = rng.normal(size=(trials, 1)) * math.sqrt(rho)
        differences = common + rng.normal(size=(trials, n)) * math.sqrt(1 - rho)
        corrected, naive = _rejections(differences, ratio)
        assert abs(corrected - 0.05) < 3 * math.sqrt(0.05 * 0.95 / trials)
        assert naive > 0.15

    def test_false_positives_of_real_learners_on_repeated_splits(self):
        # y = x1 + x2 + noise; one learner sees x1 only, the other x2 only: by symmetry neither is better
        rng, n, n_test, repeats, trials = np.random.default_rng(1), 100, 10, 15, 1000
        differences = np.empty((trials, repeats))
        for trial in range(trials):
            x = rng.normal(size=(2, n))
            y = x.sum(axis=0) + rng.normal(size=n)
            test = rng.random((repeats, n)).argsort(axis=1) < n_test
            differences[trial] = _loss(x[0], y, test) - _loss(x[1], y, test)
        corrected, naive = _rejections(differences, n_test / (n - n_test))
        error = 3 * math.sqrt(0.05 * 0.95 / trials)
        assert corrected <= 0.05 + error
        assert naive > 0.05 + 3 * error


def _loss(x_N: np.ndarray, y_N: np.ndarray, test_RN: np.ndarray) -> np.ndarray:
    """Test errors [R] of a straight line through the origin, fitted to each training part."""
    train_RN = ~test_RN
    slope_R = (train_RN * x_N * y_N).sum(axis=1) / (train_RN * x_N**2).sum(axis=1)
    return (test_RN * (y_N - slope_R[:, None] * x_N) ** 2).sum(axis=1) / test_RN.sum(axis=1)


def _rejections(differences_TN: np.ndarray, ratio: float) -> tuple[float, float]:
    """How often the corrected and the naive test find a difference at the 5 % level."""
    zeros = [0.0] * differences_TN.shape[1]
    corrected = [compared(list(row), zeros, ratio).p < 0.05 for row in differences_TN]
    naive = [compared(list(row), zeros).p < 0.05 for row in differences_TN]
    return float(np.mean(corrected)), float(np.mean(naive))


class TestEffectSize:
    def test_by_hand(self):
        # J(2) = Gamma(1) / (1 * Gamma(1/2)) = 1 / sqrt(pi), J(4) = Gamma(2) / (sqrt(2) Gamma(3/2)) = sqrt(2 / pi)
        assert hedges_correction(2) == pytest.approx(1 / math.sqrt(math.pi))
        assert hedges_correction(4) == pytest.approx(math.sqrt(2 / math.pi))
        assert effect_size([1, 2, 3]) == pytest.approx(2 / math.sqrt(math.pi))

    @pytest.mark.parametrize("df", [5, 20, 500, 10_000])
    def test_the_correction_is_near_its_approximation(self, df):
        assert hedges_correction(df) == pytest.approx(1 - 3 / (4 * df - 1), rel=0.01 / df)

    def test_removes_the_bias(self):
        sets = np.random.default_rng(0).normal(0.5, 1, (20_000, 5))
        plain = sets.mean(axis=1) / sets.std(axis=1, ddof=1)
        corrected = float((hedges_correction(4) * plain).mean())
        assert corrected == pytest.approx(0.5, abs=0.02)
        assert plain.mean() > 0.6

    @pytest.mark.parametrize("differences", [[], [1.0], [1.0, 2.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    def test_is_undefined_for_few_or_equal_differences(self, differences):
        assert effect_size(differences) is None

    def test_mistakes(self):
        with pytest.raises(ValueError, match="df=1"):
            hedges_correction(1)


p_lists = st.lists(st.floats(0, 1), max_size=8)


class TestHolm:
    def test_by_hand(self):
        # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04, made monotone
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([]) == []
        assert holm([0.3]) == [0.3]

    @given(p_lists)
    def test_keeps_the_order_and_lies_between_p_and_bonferroni(self, p):
        adjusted = holm(p)
        for i, low in enumerate(p):
            assert low <= adjusted[i] <= min(1, len(p) * low)
            assert all(adjusted[i] <= adjusted[j] for j, high in enumerate(p) if low <= high)

    @given(p_lists, st.randoms())
    def test_does_not_depend_on_the_order(self, p, random):
        order = list(range(len(p)))
        random.shuffle(order)
        assert holm([p[i] for i in order]) == [holm(p)[i] for i in order]

    @given(p_lists, st.integers(0, 7), st.floats(0, 1))
    def test_a_larger_p_never_makes_another_smaller(self, p, at, more):
        assume(at < len(p))
        raised = [*p[:at], max(p[at], more), *p[at + 1 :]]
        assert all(after >= before for before, after in zip(holm(p), holm(raised), strict=True))

    @pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
    def test_mistakes(self, p):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm([0.5, p])


@pytest.mark.medium
@pytest.mark.parametrize("module", ["stats.bootstrap", "stats.significance", "verbs.compare.verb"])
def test_the_module_imports_nothing_heavy(module):
    code = f"import sys, plcourse.{module}; assert not {{'torch', 'scipy', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
