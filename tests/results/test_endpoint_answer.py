"""The answers to a study's endpoint: not before all runs are there, and with its error."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

import reproduce_kit.results.endpoint as endpoint
from reproduce_kit.config.endpoint import read_endpoint
from reproduce_kit.config.files import read_configs
from reproduce_kit.core import KitError
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.results.significance_tables import variance_table
from reproduce_kit.results.table import MISSING
from reproduce_kit.testing.fake_runs import fake_run

OWN_MEASURES = dict(qa=['mrr10_qa_v11'], dev=['mrr10_passage_dev'])


def invent_runs(folder: str, score) -> list:
    """Finished runs of all configs of a folder; `score(config, test_set)` is a Series by topic."""
    runs = []
    for config in read_configs([ROOT / 'params' / folder]):
        frames = {}
        for test_set in config.all_test_sets:
            values = score(config, test_set)
            measures = OWN_MEASURES.get(test_set, MEASURES)
            frames[test_set] = pd.DataFrame(dict.fromkeys(measures, values))
        runs.append(fake_run(config, dict.fromkeys(config.measured_epochs, frames)))
    return runs


def topics(*names) -> pd.Index:
    return pd.Index(names, name='qid')


@pytest.fixture(scope='module', autouse=True)
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_RUNS', str(tmp_path_factory.mktemp('runs')))
        yield


@pytest.fixture(scope='module')
def runs(store):
    """All runs of the embedded study, finished; Lion is lower by 0.01 on every topic."""
    index = topics(*(f'numpy.part.f{i}' for i in range(20)))
    return invent_runs(
        'embedded',
        lambda config, _: pd.Series(0.49 if config.optimizer == 'lion' else 0.5, index=index),
    )


SIZES = dict(dl19=43, dl20=54, qa=30, dev=20)
GAINS = {'MiniLM': 0.012, 'GTE': 0.0, 'ModernBERT': -0.02}  # of Lion, on the topics of dl20


@pytest.fixture(scope='module')
def controlled(store):
    """All runs of the controlled recipe; on dl20 Lion differs, by another amount for each backbone."""
    rng = np.random.default_rng(12)

    def score(config, test_set):
        index = topics(*(f'{test_set}-{i}' for i in range(SIZES[test_set])))
        gain = next(value for name, value in GAINS.items() if name in config.title)
        is_better = test_set == 'dl20' and config.optimizer == 'lion'
        noise = rng.normal(0, 0.02, len(index))
        return pd.Series(0.5 + gain * is_better + noise, index=index)

    return invent_runs('lion-vs-adamw/controlled', score)


def test_the_sign_is_that_of_the_endpoint(runs, monkeypatch):
    stated = read_endpoint('embedded')
    (answer,) = endpoint.endpoint_answers(runs)
    assert answer.test.parts.mean == pytest.approx(-0.01)
    swapped = stated.model_copy(update=dict(baseline='lion', advanced='adamw'))
    monkeypatch.setattr(endpoint, 'endpoint_of', lambda config: swapped)
    (answer,) = endpoint.endpoint_answers(runs)
    assert answer.test.parts.mean == pytest.approx(0.01)


def test_nothing_is_answered_while_a_run_is_missing(runs):
    assert endpoint.endpoint_answers(runs[:-1]) == []


def test_an_unknown_measure_is_named_with_its_file(runs, monkeypatch):
    wrong = read_endpoint('embedded').model_copy(update=dict(measure='nDCG@100'))
    monkeypatch.setattr(endpoint, 'endpoint_of', lambda config: wrong)
    with pytest.raises(KitError, match=r"endpoint.yaml: measure 'nDCG@100' is unknown"):
        endpoint.endpoint_answers(runs)


def test_each_backbone_answers_over_the_pooled_topics(controlled):
    answers = endpoint.endpoint_answers(controlled)
    assert [answer.test.parts.n for answer in answers] == [97, 97, 97]
    assert [answer.test.parts.k for answer in answers] == [5, 5, 5]
    for answer in answers:
        (gain,) = [value for name, value in GAINS.items() if name in answer.backbone]
        assert answer.test.parts.mean == pytest.approx(gain * 54 / 97, abs=0.003)


def test_the_p_values_of_several_backbones_are_holm_s(controlled):
    answers = endpoint.endpoint_answers(controlled)
    for kind in ('p', 'p_equivalent'):
        alone = [a.test.p if kind == 'p' else a.equivalence.p for a in answers]
        order = np.argsort(alone)
        by_hand = np.maximum.accumulate(np.array([3, 2, 1]) * np.array(alone)[order])
        found = np.array([getattr(answer, kind) for answer in answers])[order]
        assert found == pytest.approx(np.minimum(by_hand, 1))


def test_the_table_has_the_pooled_question_with_the_same_numbers(controlled):
    answers = endpoint.endpoint_answers(controlled)
    frame = variance_table(controlled).frame
    pooled = frame['nDCG@10 (dl19 + dl20)']
    assert pooled.shape[1] == 3
    for answer, column in zip(answers, pooled):
        mean = f'{answer.test.parts.mean:+.3f}'
        assert pooled.loc['Lion minus AdamW [95 %]', column].replace('−', '-').startswith(mean)
    tested = frame.loc['p, topics and seeds'] != MISSING
    assert list(tested[tested].index.get_level_values(0)) == ['nDCG@10 (dl19 + dl20)'] * 3


def test_another_recipe_answers_nothing(runs):
    other = [
        dataclasses.replace(run, cfg=run.cfg.model_copy(update=dict(recipe='smoke')))
        for run in runs
    ]
    assert endpoint.endpoint_answers(other) == []


def test_a_set_that_is_measured_for_another_epoch_is_no_endpoint(controlled, monkeypatch):
    late = read_endpoint('lion-vs-adamw').model_copy(update=dict(test_sets=('dl19', 'dev')))
    monkeypatch.setattr(endpoint, 'endpoint_of', lambda config: late)
    with pytest.raises(KitError, match='dev is measured for the selected epoch only'):
        endpoint.endpoint_answers(controlled)
