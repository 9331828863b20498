"""The measures of reproducibility against repro_eval 0.5.0, and what it cannot do."""

import numpy as np
import pytest
from repro_eval.measure.document_order import _KTU, _rbo
from repro_eval.measure.effectiveness import RMSE, nRMSE
from repro_eval.measure.overall_effects import DRI, ER

from reproduce_kit.evaluation.reproducibility import (
    bootstrap,
    delta_relative_improvement,
    effect_ratio,
    kendall_union,
    normalized_rmse,
    rank_biased_overlap,
    rmse,
)

RNG = np.random.default_rng(12)


def ranking(size=50, pool=80):
    """Documents with names in the order of numbers."""
    return [f'd{number:02}' for number in RNG.permutation(pool)[:size]]


def scores(topics=43):
    return RNG.uniform(0.05, 0.95, topics)


def as_run(values, measure='ndcg_cut_10'):
    """{topic: {measure: value}}, as repro_eval reads scores."""
    return {str(topic): {measure: float(value)} for topic, value in enumerate(values)}


# Order of documents


def test_kendalls_tau_union_equals_repro_eval_if_names_are_in_order_of_appearance():
    """With such names, its order by name is the order of appearance."""
    first, second = ranking(), ranking()
    number = {d: i for i, d in enumerate(dict.fromkeys([*first, *second]))}
    first, second = ([f'd{number[d]:02}' for d in run] for run in (first, second))
    runs = ({'1': dict.fromkeys(run)} for run in (first, second))
    ((_, expected),) = _KTU(*runs)
    assert kendall_union(first, second) == pytest.approx(expected, abs=1e-12)


def test_kendalls_tau_union_does_not_depend_on_names():
    first, second = ranking(), ranking()
    before = kendall_union(first, second)
    names = dict(zip(sorted({*first, *second}), RNG.permutation(200)))
    renamed = [[f'x{names[d]}' for d in run] for run in (first, second)]
    assert kendall_union(*renamed) == pytest.approx(before, abs=1e-12)


def test_rankings_of_unequal_length_are_compared_as_far_as_the_shorter_goes():
    first = ranking()
    assert kendall_union(first, first[:20]) == pytest.approx(1)


@pytest.mark.parametrize('depth', [10, 50, 1000])
def test_rank_biased_overlap_equals_repro_eval(depth):
    first, second = ranking(), ranking(size=40)
    expected = _rbo(first, second, p=0.95, depth=min(depth, 50))
    assert rank_biased_overlap(first, second, depth=depth) == pytest.approx(expected, abs=1e-12)


def test_equal_rankings_overlap_wholly_whatever_their_length():
    """repro_eval's value of two equal rankings of 20 documents is below 1 at depth 1000."""
    first = ranking(size=20)
    assert rank_biased_overlap(first, first) == pytest.approx(1)
    assert _rbo(first, first, p=0.95, depth=1000) < 0.9


# Scores of topics


def test_errors_of_topic_scores_equal_repro_eval():
    first, second = scores(), scores()
    runs = as_run(first), as_run(second)
    assert rmse(first, second) == pytest.approx(RMSE(*runs)['ndcg_cut_10'], abs=1e-12)
    assert normalized_rmse(first, second) == pytest.approx(nRMSE(*runs)['ndcg_cut_10'], abs=1e-12)


# Effects


def test_effects_equal_repro_eval():
    baseline, advanced, new_baseline, new_advanced = (scores() for _ in range(4))
    runs = [as_run(s) for s in (advanced, baseline, new_advanced, new_baseline)]
    effect = advanced.mean() - baseline.mean()
    new_effect = new_advanced.mean() - new_baseline.mean()
    ratio = effect_ratio(effect, new_effect, least=0)
    assert ratio == pytest.approx(ER(*runs)['ndcg_cut_10'], abs=1e-10)
    delta = delta_relative_improvement(
        baseline.mean(), advanced.mean(), new_baseline.mean(), new_advanced.mean()
    )
    assert delta == pytest.approx(DRI(*runs)['ndcg_cut_10'], abs=1e-10)


# Intervals


def test_an_interval_over_topics_and_seeds_covers_the_effect():
    """A ratio of 1, estimated 200 times from 43 topics and five seeds."""
    covered = 0
    for _ in range(200):
        level = RNG.uniform(0.2, 0.8, (43, 1))

        def system(gain, level=level):
            return level + gain + RNG.normal(0, 0.05, (43, 5)) + RNG.normal(0, 0.005, 5)

        systems = [system(0), system(0.05), system(0), system(0.05)]
        interval = bootstrap(
            lambda b, a, c, d: (d.mean() - c.mean()) / (a.mean() - b.mean()), systems, 200
        )
        covered += interval.low <= 1 <= interval.high
    assert 176 <= covered <= 200  # 95 %, less 3.5 standard errors, and what five seeds cost


def test_the_same_seed_gives_the_same_interval():
    systems = [scores(), scores()]

    def gap(a, b):
        return a.mean() - b.mean()

    assert bootstrap(gap, systems) == bootstrap(gap, systems)
