"""What the tests promise when nothing differs, and when something does."""

import numpy as np
import pytest
from scipy import stats

from reproduce_kit.core import KitError
from reproduce_kit.evaluation.power import detectable_difference, power, sample_size
from reproduce_kit.evaluation.significance import (
    TESTS,
    VarianceParts,
    correct_p_values,
    randomization,
    t_test,
    topics_and_seeds,
    variance_components,
)


def study_without_effect(rng, runs=19, topics=43):
    """Per-topic differences of a study's runs to its first: topics differ widely, runs by noise."""
    level = rng.normal(0.5, 0.2, topics)
    values = level + rng.normal(0, 0.1, (runs, topics))
    return values[1:] - values[0]


@pytest.mark.parametrize('test', ['t', 'randomization'])
def test_no_difference_is_rarely_found(test, monkeypatch):
    """2,000 simulated studies of 18 comparisons without a difference.

    After Holm at most 5 % find one; without correction more than 25 % do."""
    monkeypatch.setattr('gc.collect', lambda *_: 0)  # statsmodels calls it each time: slow here
    rng = np.random.default_rng(12)
    options = dict(permutations=2_000, seed=3) if test == 'randomization' else {}
    p = [TESTS[test](study_without_effect(rng), **options) for _ in range(2_000)]
    corrected = np.mean([correct_p_values(family).min() <= 0.05 for family in p])
    uncorrected = np.mean([family.min() <= 0.05 for family in p])
    assert corrected <= 0.05 and uncorrected > 0.25, (corrected, uncorrected)


def test_power_follows_the_closed_form():
    """How often a difference of half a standard deviation over 43 topics is found.

    The noncentral t distribution's figure."""
    rng = np.random.default_rng(12)
    n, d = 43, 0.5
    found = np.mean(t_test(rng.normal(d, 1, (4_000, n))) <= 0.05)
    edge, shift = stats.t.ppf(0.975, n - 1), d * np.sqrt(n)
    closed = stats.nct.sf(edge, n - 1, shift) + stats.nct.cdf(-edge, n - 1, shift)
    assert found == pytest.approx(closed, abs=3 * np.sqrt(closed * (1 - closed) / 4_000))
    assert power(0.5, 0.75, 0, 0.25, n, 1) == pytest.approx(closed, abs=1e-9)


def variance_parts(topics, seeds=0.0, rest=0.0, k=1):
    return VarianceParts(0.0, topics, seeds, rest, n=43, k=k, squares=(topics, seeds, rest))


@pytest.mark.parametrize('k', [1, 3])
def test_values_that_do_not_vary_have_no_smallest_difference(k):
    with pytest.raises(KitError, match='the values do not vary'):
        detectable_difference(variance_parts(0.0, k=k))


@pytest.mark.parametrize('power_wanted', [0.01, 1.2])
def test_a_power_that_no_difference_has_is_named_with_those_there_are(power_wanted):
    with pytest.raises(KitError, match='ask for one between 0.05 and 1.00'):
        detectable_difference(variance_parts(0.01), at=power_wanted)


def permutation_p(d, **options):
    """scipy's p-value of the same test."""
    return stats.permutation_test((d,), np.sum, permutation_type='samples', **options).pvalue


@pytest.mark.parametrize('topics', [2, 5, 9, 16])
def test_exact_randomization_is_scipys(topics):
    """With ties and zeros."""
    d = np.random.default_rng(topics).integers(-3, 4, topics) / 10
    assert randomization(d)[0] == pytest.approx(permutation_p(d, n_resamples=np.inf), abs=1e-9)


def test_sampled_randomization_is_scipys_within_monte_carlo_error():
    d = np.random.default_rng(1).normal(0.03, 0.1, (18, 43))
    for row, p in zip(d[:4], randomization(d)):
        other = permutation_p(row, n_resamples=50_000, rng=np.random.default_rng(2))
        error = np.sqrt(p * (1 - p) * (1 / 50_000 + 1 / 100_000))
        assert abs(p - other) <= 4 * error + 1e-4


# paired_student_t_test, and fisher_randomization_test with 100,000 permutations, of ranx 0.3.21
RANX = {
    0: (0.972131175714, 0.97231),
    0.01: (0.6813544901, 0.68373),
    0.02: (0.785616521646, 0.78601),
    0.04: (0.00621513524, 0.00709),
    0.06: (0.183976179895, 0.18508),
}


def test_p_values_are_those_of_ranx():
    """t to 1e-6, randomization within both Monte-Carlo errors."""
    rng = np.random.default_rng(7)
    base = rng.uniform(0, 1, 43)
    for effect, (t, fisher) in RANX.items():
        d = np.clip(base + effect + rng.normal(0, 0.1, 43), 0, 1) - base
        error = np.sqrt(2 * fisher * (1 - fisher) / 100_000)
        assert t_test(d)[0] == pytest.approx(t, abs=1e-6)
        assert randomization(d)[0] == pytest.approx(fisher, abs=4 * error + 1e-4)


def differences_of(rng, effect, seed_spread, seeds, topics=43):
    """Differences over topics and seeds.

    An effect, a part of each topic, one of each seed, the rest."""
    parts = (
        rng.normal(0, 0.1, (topics, 1)),
        rng.normal(0, seed_spread, (1, seeds)),
        rng.normal(0, 0.05, (topics, seeds)),
    )
    return effect + sum(parts)


@pytest.mark.parametrize('seeds, most', [(2, 0.13), (3, 0.1), (5, 0.07)])
def test_seeds_are_part_of_the_noise(seeds, most):
    """Without a true difference and with seeds that matter, a test over topics finds one far
    too often; over topics and seeds rarely (more often with two seeds, as Hillis' degrees
    of freedom are few)."""
    rng = np.random.default_rng(12)
    studies = [differences_of(rng, 0, 0.05, seeds) for _ in range(1_500)]
    over_both = np.mean([topics_and_seeds(d).p <= 0.05 for d in studies])
    over_topics = np.mean([t_test(d.mean(1))[0] <= 0.05 for d in studies])
    assert over_both <= most and over_topics > 2.5 * over_both, (over_both, over_topics)


def test_power_is_what_simulation_finds():
    """The closed form over topics and seeds against simulated studies."""
    rng = np.random.default_rng(12)
    studies = [differences_of(rng, 0.06, 0.02, seeds=5) for _ in range(1_500)]
    found = np.mean([topics_and_seeds(d).p <= 0.05 for d in studies])
    closed = power(0.06, 0.1**2, 0.02**2, 0.05**2, n=43, k=5)
    assert found == pytest.approx(closed, abs=0.06)


@pytest.fixture
def parts():
    """Variance components of 43 topics and three seeds."""
    return variance_components(differences_of(np.random.default_rng(12), 0.03, 0.02, seeds=3))


def test_one_topic_fewer_is_too_few(parts):
    variances = parts.topics, parts.seeds, parts.rest
    n = sample_size(0.1, parts, 'topics')
    assert power(0.1, *variances, n, 3) >= 0.8
    assert n == 2 or power(0.1, *variances, n - 1, 3) < 0.8


def test_larger_differences_need_fewer_seeds(parts):
    assert sample_size(0.1, parts, 'seeds') <= sample_size(0.06, parts, 'seeds')
    assert sample_size(1e-5, parts, 'seeds') is None


def test_a_missing_value_is_an_error():
    with pytest.raises(KitError, match='1 differences are missing'):
        variance_components([[0.1, np.nan], [0.1, 0.2]])
