"""What the endpoint's test and its equivalence test promise, over a grid of variance shares."""

import numpy as np
import pytest

from reproduce_kit.core import KitError
from reproduce_kit.evaluation.equivalence import (
    cluster_interval,
    equivalence,
    equivalence_power,
)
from reproduce_kit.evaluation.power import power
from reproduce_kit.evaluation.significance import topics_and_seeds

TOPICS, SEEDS, SIMULATIONS = 100, 5, 2_000
ERROR = 0.012  # standard deviation of a study's mean difference
SHARES = (0, 0.25, 0.5, 1)  # of its variance that seeds have


def variances(share, n=TOPICS, k=SEEDS):
    """(topics, seeds, rest) whose mean over n topics and k seeds varies by `ERROR`."""
    total = ERROR**2
    return 0.7 * (1 - share) * total * n, share * total * k, 0.3 * (1 - share) * total * n * k


def normal_differences(rng, share, n=TOPICS, k=SEEDS):
    """Differences of two systems without a difference: topics x seeds."""
    topics, seeds, rest = np.sqrt(variances(share, n, k))
    values = rng.normal(0, topics, (n, 1)) + rng.normal(0, seeds, (1, k))
    return values + rng.normal(0, rest, (n, k))


def ndcg_like_differences(rng, share):
    """The same from scores between 0 and 1 with many zeros, ones and ties, as nDCG@10 has."""
    level = rng.normal(0.4, 0.5, (TOPICS, 1))
    systems = []
    for _ in range(2):
        own = rng.normal(0, 0.25, (TOPICS, 1)) * (1 - share)
        seed = rng.normal(0, 0.04, (1, SEEDS)) * share**0.5
        noise = rng.normal(0, 0.2, (TOPICS, SEEDS)) * (1 - share)
        systems.append(np.round(np.clip(level + own + seed + noise, 0, 1) * 12) / 12)
    return systems[0] - systems[1]


DRAWS = dict(normal=normal_differences, ndcg=ndcg_like_differences)


@pytest.fixture(scope='module')
def studies():
    """Simulated studies without a difference: {(kind, share): tests}."""
    rng = np.random.default_rng(12)
    return {
        (kind, share): [topics_and_seeds(draw(rng, share)) for _ in range(SIMULATIONS)]
        for kind, draw in DRAWS.items()
        for share in SHARES
    }


@pytest.mark.parametrize('share', SHARES)
@pytest.mark.parametrize('kind', DRAWS)
def test_no_difference_is_found_in_about_one_of_twenty_studies(studies, kind, share):
    size = np.mean([test.p <= 0.05 for test in studies[kind, share]])
    assert 0.03 <= size <= 0.07, size


@pytest.mark.parametrize('share', SHARES)
@pytest.mark.parametrize('kind', DRAWS)
def test_a_difference_of_the_margin_is_declared_equivalent_in_at_most_one_of_twenty(
    studies, kind, share
):
    """No difference against a margin moved by the margin is the same as a difference of it."""
    answers = [equivalence(test, 0.03) for test in studies[kind, share]]
    half_widths = [(answer.high - answer.low) / 2 for answer in answers]
    means = [test.parts.mean for test in studies[kind, share]]
    declared = [0.03 + mean + half <= 0.03 for mean, half in zip(means, half_widths)]
    assert np.mean(declared) <= 0.05 + 3 * (0.05 * 0.95 / SIMULATIONS) ** 0.5, np.mean(declared)


@pytest.mark.parametrize('share', [0, 0.25, 0.5])
def test_power_is_what_simulation_finds(studies, share):
    """Of a difference of 0.03, and of equivalence within 0.04 where there is none."""
    tests = studies['normal', share]
    parts = variances(share)
    found = np.mean([abs(test.parts.mean + 0.03) / test.error > _edge(test) for test in tests])
    assert power(0.03, *parts, TOPICS, SEEDS) == pytest.approx(found, abs=0.03)
    equal = np.mean([equivalence(test, 0.04).is_equivalent for test in tests])
    assert equivalence_power(0.04, *parts, TOPICS, SEEDS) == pytest.approx(equal, abs=0.03)


def _edge(test):
    from scipy.stats import t

    return t.ppf(0.975, test.df)


def test_equivalence_is_the_90_percent_interval_within_the_margin(studies):
    for test in studies['normal', 0.25][:200]:
        for margin in (0.01, 0.03):
            answer = equivalence(test, margin)
            inside = -margin < answer.low and answer.high < margin
            assert answer.is_equivalent == inside
            assert answer.is_not_inferior == (answer.low > -margin)


def test_values_that_do_not_vary_are_equivalent_if_they_are_near():
    same = topics_and_seeds(np.full((10, 3), 0.01))
    assert equivalence(same, 0.03).is_equivalent
    assert not equivalence(same, 0.01).is_equivalent


def test_a_margin_must_be_above_0():
    test = topics_and_seeds(normal_differences(np.random.default_rng(1), 0.25))
    with pytest.raises(KitError, match='it must be above 0'):
        equivalence(test, 0)


# Clusters


def test_clusters_that_resemble_each_other_widen_the_interval():
    rng = np.random.default_rng(12)
    labels = [i // 10 for i in range(TOPICS)]
    by_cluster = rng.normal(0, 0.1, 10).repeat(10)[:, None] + rng.normal(0, 0.02, (TOPICS, SEEDS))
    low, high = cluster_interval(by_cluster, labels)
    topic_low, topic_high = cluster_interval(by_cluster, list(range(TOPICS)))
    assert high - low > 2 * (topic_high - topic_low)


def test_the_interval_does_not_depend_on_the_order_of_topics():
    rng = np.random.default_rng(12)
    values, labels = rng.normal(0, 0.1, (20, 3)), [f'm{i % 4}' for i in range(20)]
    order = rng.permutation(20)
    moved = cluster_interval(values[order], [labels[i] for i in order])
    assert moved == pytest.approx(cluster_interval(values, labels), abs=1e-12)
