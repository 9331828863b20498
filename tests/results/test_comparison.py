"""Two finished runs, compared level by level."""

import json

import numpy as np
import pandas as pd
import pytest
from kit import reproduce_here

from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, read_json, write_json
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.results.comparison import compare_runs, primad
from reproduce_kit.testing.fake_runs import fake_run

TOPICS = 40


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    return tmp_path


def invented(name, shift=0.0, topics=TOPICS, **settings):
    """A finished run of one epoch whose topics all moved by `shift`."""
    config = make_config(example_settings(name=name, epochs=1, **settings))
    level = np.random.default_rng(1).uniform(0.3, 0.6, topics) + shift
    index = pd.Index([str(i) for i in range(topics)], name='qid')
    frame = pd.DataFrame(dict.fromkeys(MEASURES, level), index=index)
    return fake_run(config, {1: dict.fromkeys(config.test_sets, frame)})


def marks(first, second):
    return ''.join(aspect.mark for aspect in primad(first, second))


def test_a_run_equals_itself(store):
    run = invented('one')
    orders, measures = compare_runs(run, run, (1, 1))
    assert orders[0].kendall_union.value == 1
    assert orders[0].rank_biased_overlap.value == pytest.approx(1)
    for measure in measures:
        assert measure.difference.value == measure.rmse == measure.normalized_rmse == 0
        assert measure.delta_improvement == 0
    assert marks(run, run) == 'prim?d'


def test_a_shift_of_all_topics_is_the_difference_and_the_error(store):
    _, measures = compare_runs(invented('one'), invented('two', shift=0.1, seed=13), (1, 1))
    for measure in measures:
        assert measure.difference.value == pytest.approx(0.1)
        assert measure.difference.low == pytest.approx(0.1)  # every topic moved alike
        assert measure.rmse == pytest.approx(0.1)


@pytest.mark.parametrize(
    'changes, letters',
    [
        (dict(seed=13), 'priM?d'),
        (dict(dev_pairs=100), 'prim?D'),
        (dict(recipe='another'), 'pRim?d'),
        (dict(workers=2), 'prim?d'),
    ],
)
def test_primad_names_what_was_changed(store, changes, letters):
    assert marks(invented('one'), invented('two', **changes)) == letters


def test_primad_names_other_packages_and_another_commit(store):
    first, second = invented('one'), invented('two', seed=13)
    file = second.folder / 'manifest.json'
    manifest = read_json(file)
    manifest['packages']['torch'] = '1.0'
    manifest['git']['commit'] = 'another'
    write_json(file, manifest)
    assert marks(first, second) == 'PrIM?d'


def change_sources(run, **changes):
    """Other hashes or commits of what a run was made from."""
    file = run.folder / 'manifest.json'
    manifest = read_json(file)
    manifest['data'] |= changes
    write_json(file, manifest)


@pytest.mark.parametrize(
    'source, letters',
    [
        ('weights', 'priM?d'),
        (BACKBONES['minilm-l12-h384'].repo, 'priM?d'),  # a backbone's repository is no data
        ('test', 'prim?D'),
        ('someone/a-data-set', 'prim?D'),
    ],
)
def test_weights_are_a_method_and_texts_are_data(store, source, letters):
    settings = dict(backbone='minilm-l12-h384', layers=12)
    first, second = invented('one', **settings), invented('two', **settings)
    change_sources(second, **{source: 'another'})
    assert marks(first, second) == letters


def test_other_topics_are_an_error(store):
    first, second = invented('one'), invented('two', topics=30, seed=13)
    with pytest.raises(KitError, match='40 and 30 topics'):
        compare_runs(first, second, (1, 1))


# The command


def test_the_command_prints_both_runs_and_valid_json(store):
    invented('one')
    invented('two', shift=0.1, seed=13)
    env = dict(REPRODUCE_RUNS=store)
    answer = reproduce_here('compare', 'one', 'two', env=env)
    assert answer.returncode == 0, answer.stderr
    assert 'PRIMAD: priM?d' in answer.stdout
    assert 'method: seed: 12 -> 13' in answer.stdout
    text = reproduce_here('compare', 'one', 'two', '--json', env=env).stdout
    compared = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert list(compared) == ['runs', 'primad', 'orders', 'measures']


def test_an_epoch_that_was_not_trained_is_named(store):
    invented('one')
    answer = reproduce_here('compare', 'one', 'one', '--epoch', '4', env=dict(REPRODUCE_RUNS=store))
    assert answer.returncode == 1
    assert '--epoch 4' in answer.stderr
