"""From cells to verdicts: pairs, the test that fits what varies between them, and the sentence that says the result."""

from collections.abc import Hashable, Iterable, Sequence
from statistics import fmean
from typing import Any

from plcourse.errors import UserError
from plcourse.stats.intervals import within_difference
from plcourse.stats.significance import corrected_resampled_t_test, holm, paired_t_test, required_pairs
from plcourse.verbs.compare.cells import Cell, as_key
from plcourse.verbs.compare.checks import Checks
from plcourse.verbs.compare.wording import interval_name, p_equals, plural, what_differs

POWER = 0.8

Pair = tuple[Cell, Cell]  # the baseline's cell and the arm's


def pair(baseline: list[Cell], arm: list[Cell], checks: Checks) -> list[Pair]:
    """Cells of the same seed, fold and split; with `--force` also of another split, where that is unambiguous."""
    partners = {(cell.place, cell.resample): cell for cell in baseline}
    here, there = _by_place(arm), _by_place(baseline)
    pairs = []
    for cell in arm:
        base = partners.get((cell.place, cell.resample))
        ours, theirs = here[cell.place], there.get(cell.place, [])
        if base is None and theirs and not {c.resample for c in ours} & {c.resample for c in theirs}:
            problem = f"different splits: {what_differs(theirs[0].split, cell.split)} in"
            checks.refuse(problem, f"{theirs[0].name} and {cell.name}", "pairs them by seed and fold alone")
            base = theirs[0] if len(ours) == len(theirs) == 1 else None
        if base is not None:
            pairs.append((base, cell))
    return pairs


def _by_place(cells: list[Cell]) -> dict[Hashable, list[Cell]]:
    found: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.place, []).append(cell)
    return found


def unit_of(bases: Sequence[Cell]) -> str:
    """What varies between the pairs, by their baseline's cells: `seed`, `fold`, `split` or `fold of a split`."""
    folds, splits = {cell.fold for cell in bases}, {as_key(cell.split) for cell in bases}
    if len(splits) <= 1:
        return "fold" if len(folds) > 1 else "seed"
    return "fold of a split" if len(folds) > 1 else "split"


def size_ratio(bases: Sequence[Cell], metric: str, n_train: int | None, n_test: int | None) -> tuple[float, str]:
    """n_test / n_train of one fold or split, from the first source that knows, and which one that was.

    Args:
        bases: the baseline's cells of all pairs.
        metric: its first part says which part of the data was tested on.
        n_train: samples of the training part, where the user says so.
        n_test: samples of the test part.

    Raises:
        UserError: nothing tells.
    """
    if n_train and n_test:
        return n_test / n_train, "as --n_train and --n_test give it"
    stage = "val" if metric.startswith("val/") else "test"
    sizes = [cell.sizes for cell in bases]
    if all(size.get("n_train") and size.get(f"n_{stage}") for size in sizes):
        return fmean(size[f"n_{stage}"] / size["n_train"] for size in sizes), "from the sizes that the runs record"
    folds = {cell.fold for cell in bases}
    if folds != {None} and stage == "val":
        known = bases[0].split.get("n_splits")
        k = known if isinstance(known, int) else len(folds)
        if k > 1:
            return 1 / (k - 1), f"1/(k - 1) for {k} folds"
    shares = [cell.split.get(key) for cell in bases for key in ("val_size", "test_size")]
    if folds == {None} and all(isinstance(share, float) and 0 < share < 1 for share in shares):
        val, test = bases[0].split["val_size"], bases[0].split["test_size"]
        if val + test < 1:
            return (val if stage == "val" else test) / (1 - val - test), "from val_size and test_size"
    raise UserError(
        "folds and splits need the corrected test, and that the sizes of the training and test part, which these runs "
        "do not record; give --n_train N and --n_test N, the samples of one split"
    )


def paired_test(
    baseline: str, arm: str, pairs: list[Pair], ratio: float | None, alpha: float, checks: Checks, metric: str
) -> dict[str, Any]:
    """What the pairs say about arm - baseline, with what `judge` fills in still missing.

    Args:
        baseline: the baseline's name.
        arm: the arm's name.
        pairs: their cells.
        ratio: n_test / n_train where folds or splits vary; None for seeds.
        alpha: level of the test.
        checks: notes what is averaged.
        metric: the interval ends where the metric's differences do.
    """
    groups: dict[Hashable, list[Pair]] = {}
    for base, cell in pairs:
        groups.setdefault(base.place if ratio is None else base.resample, []).append((base, cell))
    if len(groups) < len(pairs):
        checks.note("several seeds of one fold or split are averaged first: they share its samples")
    before = [_mean_value(base for base, _ in group) for group in groups.values()]
    after = [_mean_value(cell for _, cell in group) for group in groups.values()]
    naive = paired_t_test(after, before, 1 - alpha)
    result = naive if ratio is None else corrected_resampled_t_test(after, before, ratio, 1 - alpha)
    low, high = within_difference(metric, result.low, result.high)
    return {
        "arm": arm,
        "baseline": baseline,
        "state": result.state,
        "n": result.n,
        "pairs": len(pairs),
        "baseline_mean": fmean(before) if before else None,
        "arm_mean": fmean(after) if after else None,
        "difference": result.difference,
        "sd_difference": result.sd,
        "low": low,
        "high": high,
        "confidence": result.confidence,
        "t": result.t,
        "df": result.df,
        "p": result.p,
        "p_holm": None,
        "p_naive": naive.p if ratio is not None else None,
        "variance_factor": result.variance_factor,
        "effect_size": result.effect_size,
        "test_train_ratio": ratio,
        "differences": [b - a for a, b in zip(before, after, strict=True)],
    }


def _mean_value(cells: Iterable[Cell]) -> float:
    return fmean(cell.value for cell in cells if cell.value is not None)


def judge(comparisons: list[dict[str, Any]], mode: str, alpha: float, target: float | None) -> None:
    """Adds to each test its `p_holm`, and `needed`, `verdict` and `sentence`, see `_verdict`.

    Holm over every test of the output: whoever reads them all may pick the smallest p of all.

    Args:
        comparisons: as the report lists them.
        mode: `max` or `min`.
        alpha: level of the tests together.
        target: the difference that matters to the user, if they said so.
    """
    tested = [test for comparison in comparisons for test in comparison["tests"] if test["p"] is not None]
    for test, p in zip(tested, holm([test["p"] for test in tested]), strict=True):
        test["p_holm"] = p
    for comparison in comparisons:
        for test in comparison["tests"]:
            needed, verdict, sentence = _verdict(test, comparison["unit"], mode, alpha, target, len(tested))
            test.update(needed=needed, verdict=verdict, sentence=sentence)


def _verdict(
    test: dict[str, Any], unit: str, mode: str, alpha: float, target: float | None, family: int
) -> tuple[int | None, str, str]:
    """The pairs that an inconclusive test would need, the verdict in a word or two, and the sentence that says it."""
    arm, baseline, n, difference = test["arm"], test["baseline"], test["n"], test["difference"]
    units = plural(n, unit)
    if test["state"] == "too_few":
        if n:
            sentence = f"{arm}: nothing can be said from one pair; at least 2 {unit}s are needed, better 5 or more."
        else:
            sentence = f"{arm}: nothing can be said: there is no {unit} for which it and {baseline} both have a score."
        return None, "nothing can be said", sentence
    if test["state"] == "identical":
        return None, "identical", f"{arm} and {baseline} are identical on all {units}."
    if test["state"] == "constant":
        sentence = (
            f"{arm}: all {units} differ by exactly {difference:+.4g}, which leaves no variance to test with; "
            f"more {unit}s would show some."
        )
        return None, "no test", sentence
    interval = f"{interval_name(test['confidence'])} {test['low']:+.4g} to {test['high']:+.4g}"
    evidence = f"{interval}, {p_equals(test['p_holm'])}{' after Holm' if family > 1 else ''}, {units}"
    if test["p_holm"] < alpha:
        verdict = "better" if (difference > 0) == (mode == "max") else "worse"
        return None, verdict, f"{arm} is {verdict} than {baseline} by {abs(difference):.4g} ({evidence})."
    if target is not None and _within(test, target, 1 - alpha / family):
        sentence = f"{arm} and {baseline} differ by less than {target:g}: {difference:+.4g} ({evidence})."
        return None, "equivalent", sentence
    needed = _needed(test, target, alpha / family)
    sentence = f"inconclusive: {arm} - {baseline} = {difference:+.4g} ({evidence}); {_need(test, needed, unit, target)}"
    return needed, "inconclusive", sentence


def _within(test: dict[str, Any], target: float, confidence: float) -> bool:
    """Whether the interval, widened for all tests together, lies inside plus and minus the target."""
    differences, ratio = test["differences"], test["test_train_ratio"] or 0.0
    wide = corrected_resampled_t_test(differences, [0.0] * len(differences), ratio, confidence)
    assert wide.low is not None
    assert wide.high is not None
    return -target < wide.low and wide.high < target


def _needed(test: dict[str, Any], target: float | None, alpha: float) -> int | None:
    to_detect = abs(test["difference"]) if target is None else target
    if to_detect <= 0:
        return None
    return required_pairs(to_detect, test["sd_difference"], alpha, POWER, test["test_train_ratio"] or 0.0)


def _need(test: dict[str, Any], needed: int | None, unit: str, target: float | None) -> str:
    what = "a true difference as large as this one" if target is None else f"a difference of {target:g}"
    goal = f"to detect {what} with {100 * POWER:g} % power"
    if needed is None and test["test_train_ratio"]:
        return f"no number of further {unit}s of these data is enough {goal}."
    if needed is None:
        return f"no affordable number of {unit}s is enough {goal}."
    if needed <= test["n"]:
        return f"its {plural(test['n'], unit)} are enough {goal}, but the interval does not exclude one."
    return f"about {needed:,} {unit}s would be needed {goal}."
