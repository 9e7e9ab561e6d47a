"""Intervals, gain, curve score, rank and Holm, against closed forms and brute force."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leaderboard import statistics as s
from leaderboard.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", Fraction(8, 255)), ("0.01", Fraction(1, 100)), ("1/2", Fraction(1, 2)), ("4", 4)],
)
def test_a_radius_is_read_exactly(text, value):
    assert s.radius(text) == value


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1/0", "nan", "inf", "8 / 255 / 2"])
def test_what_is_no_radius_is_refused(text):
    with pytest.raises(UserError, match="not a positive number"):
        s.radius(text)


@pytest.mark.parametrize("classes", [1, 2, 7, 300])
def test_every_resample_draws_as_many_classes_as_there_are(classes):
    counts = s.class_counts(classes)
    assert counts.shape == (s.RESAMPLES, classes)
    assert (counts.sum(1) == classes).all()
    assert len(np.unique(counts, axis=0)) > min(classes, 3) - 1
    expected = 1.0
    assert abs(counts.mean(0) - expected).max() < 6 / math.sqrt(s.RESAMPLES)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40))
def test_the_bootstrap_equals_one_written_with_loops(queries):
    labels = np.array([label for label, _ in queries]) * 7 - 3
    hits = np.array([[hit for _, hit in queries]])
    got = s.resample(hits, labels)
    names = sorted(set(labels.tolist()))
    for r in (0, 1, 1999):
        total = size = 0
        for name, times in zip(names, s.class_counts(len(names))[r], strict=True):
            for label, hit in zip(labels, hits[0], strict=True):
                if label == name:
                    total, size = total + int(times) * int(hit), size + int(times)
        assert got.samples[0, r] == total / size
    assert got.value[0] == hits.mean() and got.classes == len(names)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 60))
def test_an_interval_holds_its_value_and_ignores_the_order_of_queries(seed, classes, queries):
    rng = np.random.default_rng(seed)
    labels, hits = rng.integers(0, classes, queries), rng.random((1, queries)) < 0.5
    order = rng.permutation(queries)
    a = s.resample(hits, labels).interval(0)
    assert a == s.resample(hits[:, order], labels[order]).interval(0)
    assert 0 <= a.low <= a.value <= a.high <= 1


def test_the_interval_agrees_with_the_formula_for_many_equal_classes():
    rng = np.random.default_rng(0)
    share = rng.beta(2, 2, 400)
    hits = (np.arange(10) < 10 * share[:, None]).ravel()
    got = s.resample(hits[None], np.repeat(np.arange(400), 10)).interval(0)
    error = hits.reshape(400, 10).mean(1).std(ddof=0) / math.sqrt(400)
    assert got.high - got.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    # Resampling queries as if they were independent would be much narrower here.
    naive = math.sqrt(hits.mean() * (1 - hits.mean()) / 4000)
    assert got.high - got.low > 1.3 * 2 * 1.96 * naive


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        share = rng.beta(3, 3, 60)
        hits = (rng.random((60, 8)) < share[:, None]).ravel()
        got = s.resample(hits[None], np.repeat(np.arange(60), 8)).interval(0)
        covered += got.low <= 0.5 <= got.high
    assert 0.90 < covered / 300 < 0.985


@pytest.mark.parametrize("classes", [1, 2, 50, 100])
def test_all_and_none_have_the_exact_binomial_bounds(classes):
    labels = np.repeat(np.arange(classes), 3)
    none = s.resample(np.zeros((1, 3 * classes)), labels).interval(0)
    every = s.resample(np.ones((1, 3 * classes)), labels).interval(0)
    exact = stats.binomtest(0, classes).proportion_ci(0.95, "exact")
    assert (none.low, none.high) == pytest.approx((0, exact.high))
    exact = stats.binomtest(classes, classes).proportion_ci(0.95, "exact")
    assert (every.low, every.high) == pytest.approx((exact.low, 1))


def test_one_class_claims_nothing():
    one = s.resample(np.array([[1, 0, 1], [0, 0, 1]]), np.zeros(3, int))
    assert (one.interval(0).low, one.interval(0).high) == (0, 1)
    assert one.difference(0, 1).low < 0
    with pytest.raises(UserError, match="no query with a match"):
        s.resample(np.zeros((1, 0)), np.zeros(0, int))


def test_a_paired_interval_is_that_of_the_difference():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 30, 500)
    hard = rng.random(500)
    a, b = hard < 0.6, hard < 0.55  # b misses what a misses: strongly paired
    rows = s.resample(np.stack([a, b]), labels)
    direct = s.resample((a.astype(int) - b)[None], labels).samples[0]
    paired = rows.difference(0, 1)
    assert (paired.low, paired.high) == pytest.approx(tuple(np.quantile(direct, [0.025, 0.975])))
    assert paired.low > 0  # though the two intervals overlap
    assert rows.interval(0).low < rows.interval(1).high
    mirrored = rows.difference(1, 0)
    assert (mirrored.low, mirrored.high) == pytest.approx((-paired.high, -paired.low))


def test_gain_divides_and_bounds_a_sibling_at_zero():
    assert s.gain(0.3, 0.1, 100) == s.Gain(pytest.approx(3.0), at_least=False)
    bound = stats.beta.ppf(0.975, 1, 100)
    assert s.gain(0.3, 0.0, 100) == s.Gain(pytest.approx(0.3 / bound), at_least=True)
    assert str(s.Gain(8.25, at_least=True)) == "≥ 8.2×" and str(s.Gain(123.4)) == "123×"


@pytest.mark.parametrize(
    ("sibling", "index"),
    [([0.5, 0.2, 0.01, 0.0], 2), ([0.5, 0.0099], 0), ([0.009, 0.0], None), ([0.5, 0.4], 1)],
)
def test_the_headline_gain_is_where_the_sibling_last_keeps_one_percent(sibling, index):
    assert s.gain_budget(sibling) == index


PHOTO = ["1/255", "2/255", "0.01", "4/255", "8/255", "16/255"]


def test_the_curve_score_is_the_area_over_log_eps():
    assert s.curve_score([0.4] * 6, PHOTO) == pytest.approx(40)
    # linear in log eps from 1 to 0: a triangle
    line = [1 - math.log(float(s.radius(b)) * 255) / math.log(16) for b in PHOTO]
    assert s.curve_score(line, PHOTO) == pytest.approx(50)
    eps = np.array([float(s.radius(b)) for b in PHOTO])
    shares = np.array([0.7, 0.65, 0.6, 0.4, 0.2, 0.05])
    area = 100 * np.trapezoid(shares, np.log(eps)) / np.log(eps[-1] / eps[0])
    assert s.curve_score(shares, PHOTO) == pytest.approx(area)
    assert math.isnan(s.curve_score([0.4], ["0.1"]))


def test_rank_counts_only_rows_that_are_clearly_better():
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(100), 20)
    hard = rng.random(2000)
    noise = rng.random(2000) < 0.5
    best, same, worse = hard < 0.6, np.where(noise, hard < 0.6, hard > 0.4), hard < 0.3
    none = np.zeros(2000, bool)
    rows = s.resample(np.stack([worse, same, best, none, none]), labels)
    assert s.ranks(rows) == [3, 1, 1, 4, 4]


@given(st.lists(st.floats(0, 1), max_size=9))
def test_holm_equals_its_definition(p):
    adjusted = s.holm(p)
    order = sorted(range(len(p)), key=lambda i: p[i])
    for place, i in enumerate(order):
        terms = [(len(p) - j) * p[order[j]] for j in range(place + 1)]
        assert adjusted[i] == min(1, max(terms))


def test_ranks_are_those_of_the_paired_differences():
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(9), 7)
    rows = s.resample(rng.random((12, 63)) < np.linspace(0.1, 0.9, 12)[:, None], labels)
    better = [[rows.difference(j, i).low > 0 for j in range(12)] for i in range(12)]
    assert s.ranks(rows) == [1 + sum(row) for row in better] and len(set(s.ranks(rows))) > 3
    assert s.ranks(s.resample(rng.random((3, 5)), np.zeros(5, int))) == [1, 1, 1]
