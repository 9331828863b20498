"""What the tests promise when nothing differs, and when something does."""

import numpy as np
import pytest
from scipy import stats

from reproduce_kit.evaluation.power import power
from reproduce_kit.evaluation.significance import (
    TESTS,
    correct_p_values,
    randomization,
    t_test,
    topics_and_seeds,
)


def study(rng, runs=19, topics=43, effect=0.0):
    """Per-topic values of a study: topics differ widely, runs by noise, the last one by an effect; differences to the first."""
    level = rng.normal(0.5, 0.2, topics)
    values = level + rng.normal(0, 0.1, (runs, topics))
    values[-1] += effect
    return values[1:] - values[0]


@pytest.mark.parametrize('test', ['t', 'randomization'])
def test_no_difference_is_rarely_found(test, monkeypatch):
    """2,000 simulated studies of 18 comparisons without a difference: after Holm, at most 5 % of them find one; without correction, most would be more."""
    monkeypatch.setattr(
        'gc.collect', lambda *_: 0
    )  # statsmodels collects garbage at each call, which is most of the time here
    rng = np.random.default_rng(12)
    options = dict(permutations=2_000, seed=3) if test == 'randomization' else {}
    p = [TESTS[test](study(rng), **options) for _ in range(2_000)]
    holm = np.mean([correct_p_values(x).min() <= 0.05 for x in p])
    raw = np.mean([x.min() <= 0.05 for x in p])
    assert holm <= 0.05 and raw > 0.25, (holm, raw)


def test_power_follows_the_closed_form():
    """How often a difference of half a standard deviation over 43 topics is found: the noncentral t distribution's figure."""
    rng = np.random.default_rng(12)
    n, d = 43, 0.5
    found = np.mean(t_test(rng.normal(d, 1, (4_000, n))) <= 0.05)
    edge = stats.t.ppf(0.975, n - 1)
    closed = stats.nct.sf(edge, n - 1, d * np.sqrt(n)) + stats.nct.cdf(-edge, n - 1, d * np.sqrt(n))
    assert found == pytest.approx(closed, abs=3 * np.sqrt(closed * (1 - closed) / 4_000))


def test_randomization_agrees_with_scipy():
    rng = np.random.default_rng(1)
    for n in (2, 5, 9, 16):  # exact, with ties and zeros
        d = rng.integers(-3, 4, n) / 10
        assert randomization(d)[0] == pytest.approx(
            stats.permutation_test(
                (d,), np.sum, permutation_type='samples', n_resamples=np.inf
            ).pvalue,
            abs=1e-9,
        ), d
    d = rng.normal(0.03, 0.1, (18, 43))
    mine = randomization(d)
    for x, p in zip(d[:4], mine):  # sampled: within the Monte-Carlo error of both
        other = stats.permutation_test(
            (x,),
            np.sum,
            permutation_type='samples',
            n_resamples=50_000,
            rng=np.random.default_rng(2),
        ).pvalue
        assert abs(p - other) <= 4 * np.sqrt(p * (1 - p) * (1 / 50_000 + 1 / 100_000)) + 1e-4


RANX = [
    (0.972131175714, 0.97231),
    (0.6813544901, 0.68373),
    (0.785616521646, 0.78601),
    (0.00621513524, 0.00709),
    (0.183976179895, 0.18508),
]  # paired_student_t_test, fisher_randomization_test with 100,000 permutations, of ranx 0.3.21 on the values below


def test_agrees_with_ranx():
    """The same p-values as ranx: t to 1e-6, randomization within both Monte-Carlo errors."""
    rng = np.random.default_rng(7)
    base = rng.uniform(0, 1, 43)
    for e, (t, fisher) in zip((0, 0.01, 0.02, 0.04, 0.06), RANX):
        d = np.clip(base + e + rng.normal(0, 0.1, 43), 0, 1) - base
        assert t_test(d)[0] == pytest.approx(t, abs=1e-6) and randomization(d)[0] == pytest.approx(
            fisher, abs=4 * np.sqrt(2 * fisher * (1 - fisher) / 100_000) + 1e-4
        )


@pytest.mark.parametrize('seeds', [2, 3, 5])
def test_seeds_are_part_of_the_noise(seeds):
    """Without a true difference and with seeds that matter, a test over topics finds one far too often; over topics and seeds rarely (more often with two seeds, as Hillis' degrees of freedom are few)."""
    rng = np.random.default_rng(12)
    p, q = [], []
    for _ in range(1_500):
        d = (
            rng.normal(0, 0.1, (43, 1))
            + rng.normal(0, 0.05, (1, seeds))
            + rng.normal(0, 0.05, (43, seeds))
        )
        p.append(topics_and_seeds(d)['p'])
        q.append(t_test(d.mean(1))[0])
    found, over_topics = np.mean(np.array(p) <= 0.05), np.mean(np.array(q) <= 0.05)
    assert found <= {2: 0.13, 3: 0.1, 5: 0.07}[seeds] and over_topics > 2.5 * found, (
        found,
        over_topics,
    )


def test_power_is_what_simulation_finds():
    """The closed form over topics and seeds against simulated studies."""
    rng = np.random.default_rng(12)
    n, k, parts = 43, 5, (0.1**2, 0.02**2, 0.05**2)
    effect = 0.06
    found = np.mean(
        [
            topics_and_seeds(
                effect
                + rng.normal(0, 0.1, (n, 1))
                + rng.normal(0, 0.02, (1, k))
                + rng.normal(0, 0.05, (n, k))
            )['p']
            <= 0.05
            for _ in range(1_500)
        ]
    )
    assert found == pytest.approx(power(effect, *parts, n, k), abs=0.06)
