"""What the tests promise when nothing differs, and when something does."""
import numpy as np
import pytest
from scipy import stats

from reproduce_kit.significance import TESTS, correct, randomization, t_test


def study(rng, runs=19, topics=43, effect=0.):
    """Per-topic values of a study: topics differ widely, runs by noise, the last one by an effect; differences to the first."""
    level = rng.normal(.5, .2, topics); values = level + rng.normal(0, .1, (runs, topics)); values[-1] += effect
    return values[1:] - values[0]


@pytest.mark.parametrize('test', ['t', 'randomization'])
def test_no_difference_is_rarely_found(test, monkeypatch):
    """2,000 simulated studies of 18 comparisons without a difference: after Holm, at most 5 % of them find one; without correction, most would be more."""
    monkeypatch.setattr('gc.collect', lambda *_: 0)  # statsmodels collects garbage at each call, which is most of the time here
    rng = np.random.default_rng(12); options = dict(permutations=2_000, seed=3) if test == 'randomization' else {}
    p = [TESTS[test](study(rng), **options) for _ in range(2_000)]
    holm = np.mean([correct(x).min() <= .05 for x in p]); raw = np.mean([x.min() <= .05 for x in p])
    assert holm <= .05 and raw > .25, (holm, raw)


def test_power_follows_the_closed_form():
    """How often a difference of half a standard deviation over 43 topics is found: the noncentral t distribution's figure."""
    rng = np.random.default_rng(12); n, d = 43, .5
    found = np.mean(t_test(rng.normal(d, 1, (4_000, n))) <= .05); edge = stats.t.ppf(.975, n - 1)
    closed = stats.nct.sf(edge, n - 1, d * np.sqrt(n)) + stats.nct.cdf(-edge, n - 1, d * np.sqrt(n))
    assert found == pytest.approx(closed, abs=3 * np.sqrt(closed * (1 - closed) / 4_000))


def test_randomization_agrees_with_scipy():
    rng = np.random.default_rng(1)
    for n in (2, 5, 9, 16):                                                       # exact, with ties and zeros
        d = rng.integers(-3, 4, n) / 10
        assert randomization(d)[0] == pytest.approx(stats.permutation_test((d,), np.sum, permutation_type='samples', n_resamples=np.inf).pvalue, abs=1e-9), d
    d = rng.normal(.03, .1, (18, 43)); mine = randomization(d)
    for x, p in zip(d[:4], mine):                                                 # sampled: within the Monte-Carlo error of both
        other = stats.permutation_test((x,), np.sum, permutation_type='samples', n_resamples=50_000, rng=np.random.default_rng(2)).pvalue
        assert abs(p - other) <= 4 * np.sqrt(p * (1 - p) * (1 / 50_000 + 1 / 100_000)) + 1e-4
