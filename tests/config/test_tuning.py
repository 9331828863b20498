"""The file of a sweep, its trials and its edge rule."""

import shutil

import pytest
from conftest import ROOT

from reproduce_kit.config.files import describes_runs, read_runs
from reproduce_kit.config.sweep import (
    given_trials,
    next_rates,
    read_sweep,
    sweep_names,
    sweep_trials,
)
from reproduce_kit.core import KitError

TUNING = (ROOT / 'params/embedded/tuning.yaml').read_text()


PAPER = ROOT / 'params/lion-vs-adamw'
GIVEN = """    warmup: [0.02, 0.3]
    given: [{learning_rate: 1.0e-4, weight_decay: 0.01, warmup: 0.0}]
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A project with the embedded study, whose sweep a test may change."""
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    shutil.copytree(ROOT / 'params/embedded', tmp_path / 'params/mine')
    return tmp_path / 'params/mine'


def rates_of(sweep):
    return {name: tuple(space.learning_rate) for name, space in sweep.optimizers.items()}


@pytest.mark.parametrize(
    'old, new, problem',
    [
        ('trials: 8', 'trials: 1', r'tuning.yaml.*trials'),
        ('test_set: dev', 'test_set: test', r'test_set'),
        ('6.0e-6, 1.92e-4', '6.0e-6, 1.0e-4', 'not equally wide'),
        ('[3.0e-5, 9.6e-4]', '[9.6e-4, 3.0e-5]', 'must rise'),
        ('  lion:', '  lino:', 'is no optimizer'),
        ('edge:', 'egde:', 'egde'),
    ],
)
def test_an_unfair_or_misspelt_sweep_is_refused(study, old, new, problem):
    assert old in TUNING
    (study / 'tuning.yaml').write_text(TUNING.replace(old, new))
    with pytest.raises(KitError, match=problem):
        read_sweep('mine')


def test_a_study_without_a_sweep_says_what_is_missing(study):
    (study / 'tuning.yaml').unlink()
    with pytest.raises(KitError, match='tuning.yaml does not exist'):
        read_sweep('mine')


def test_trials_lie_inside_their_ranges_and_see_dev_topics_only():
    sweep = read_sweep('embedded')
    trials = sweep_trials('embedded', sweep, 0, 8, rates_of(sweep))
    assert len(trials) == 16
    for trial in trials:
        space, config = sweep.optimizers[trial.optimizer], trial.config
        for key in ('learning_rate', 'weight_decay', 'warmup'):
            low, high = getattr(space, key)
            assert 0.95 * low <= getattr(config, key) <= 1.05 * high
        assert (config.test_sets, config.select_on, config.seed) == (['dev'], 'none', sweep.seed)


def test_both_optimizers_are_tried_at_the_same_relative_points():
    sweep = read_sweep('embedded')
    trials = sweep_trials('embedded', sweep, 0, 8, rates_of(sweep))
    by_name = {(t.optimizer, t.number): t.config for t in trials}
    for number in range(1, 9):
        adamw, lion = by_name['adamw', number], by_name['lion', number]
        assert adamw.warmup == lion.warmup
        assert adamw.learning_rate / lion.learning_rate == pytest.approx(5, rel=0.06)


def test_an_edge_opens_the_stretch_beyond_it():
    first = (1e-5, 8e-5)
    assert next_rates(first, first, 'high') == pytest.approx((8e-5, 1.6e-4))
    assert next_rates(first, first, 'low') == pytest.approx((5e-6, 1e-5))
    assert next_rates(first, (5e-6, 8e-5), '') == first


def test_tuned_files_must_differ_in_the_optimizer_alone(study):
    text = (study / 'minilm-l4-lion.yaml').read_text()
    (study / 'minilm-l4-lion.yaml').write_text(text.replace('epochs: 3', 'epochs: 4'))
    with pytest.raises(KitError, match='differ in epochs too'):
        read_sweep('mine')


def test_the_base_of_an_optimizer_must_train_with_it(study):
    other = TUNING.replace('base: minilm-l4-lion.yaml', 'base: minilm-l4-adamw.yaml')
    (study / 'tuning.yaml').write_text(other)
    with pytest.raises(KitError, match='trains with adamw'):
        read_sweep('mine')


def give(text: str, times: int) -> str:
    """The text of a sweep with a given point for the first optimizers of it."""
    return text.replace('    warmup: [0.02, 0.3]\n', GIVEN, times)


def test_given_points_come_first_and_both_optimizers_have_as_many(study):
    (study / 'tuning.yaml').write_text(give(TUNING, 2))
    sweep = read_sweep('mine')
    given = given_trials('mine', sweep)
    assert [(t.optimizer, t.number) for t in given] == [('adamw', 1), ('lion', 1)]
    assert given[0].config.learning_rate == 1e-4
    drawn = sweep_trials('mine', sweep, 0, 2, rates_of(sweep))
    assert [trial.number for trial in drawn] == [2, 3, 2, 3]
    (study / 'tuning.yaml').write_text(give(TUNING, 1))
    with pytest.raises(KitError, match='need as many points'):
        read_sweep('mine')


def test_a_given_rate_lies_inside_the_searched_ones(study):
    (study / 'tuning.yaml').write_text(give(TUNING, 2).replace('1.0e-4', '5.0e-3'))
    with pytest.raises(KitError, match='learning_rate 0.005 is outside'):
        read_sweep('mine')


def test_a_study_has_a_sweep_for_each_of_its_backbones():
    backbones = ('gte', 'minilm', 'modernbert')
    assert sweep_names('lion-vs-adamw') == [f'lion-vs-adamw/{name}' for name in backbones]
    assert sweep_names('embedded') == ['embedded']
    assert not any(describes_runs(file) for file in PAPER.glob('*.yaml'))


@pytest.mark.parametrize('backbone', ['minilm', 'gte', 'modernbert'])
def test_a_sweep_of_the_paper_contains_the_authors_points_and_sees_no_test_topic(backbone):
    name = f'lion-vs-adamw/{backbone}'
    sweep = read_sweep(name)
    given = given_trials(name, sweep)
    for optimizer in ('adamw', 'lion'):
        authors = read_runs(PAPER / f'as-run/{backbone}-{optimizer}.yaml')[0]
        point = (authors.learning_rate, authors.weight_decay, authors.warmup)
        own = [trial.config for trial in given if trial.optimizer == optimizer]
        assert point in [(c.learning_rate, c.weight_decay, c.warmup) for c in own]
    trials = given + sweep_trials(name, sweep, 0, sweep.trials, rates_of(sweep))
    assert {tuple(trial.config.all_test_sets) for trial in trials} == {('held-out',)}
    assert {trial.config.train_pairs for trial in trials} == {500_000}
    assert {trial.config.holdout for trial in trials} == {'topics'}
    seeds = {
        c.seed
        for o in ('adamw', 'lion')
        for c in read_runs(PAPER / f'controlled/{backbone}-{o}.yaml')
    }
    assert len(seeds) == 5 and sweep.seed not in seeds


@pytest.mark.parametrize('optimizer', ['adamw', 'lion'])
@pytest.mark.parametrize('epochs', [1, 2])
def test_a_run_with_a_horizon_of_its_own_differs_in_its_epochs_alone(optimizer, epochs):
    own = read_runs(PAPER / f'own-horizon/minilm-{optimizer}-{epochs}.yaml')[0]
    whole = read_runs(PAPER / f'controlled/minilm-{optimizer}.yaml')[0]
    changed = {key for key, value in own if value != getattr(whole, key)}
    assert changed == {'recipe', 'name', 'epochs', 'measured', 'select_on', 'final_test_sets'}
    assert own.final_test_sets == []  # the question is about the sets of each epoch
    assert own.epochs == epochs


@pytest.mark.parametrize(
    'old, new, problem',
    [
        ('test_set: held-out', 'test_set: dev', 'write held-out'),
    ],
)
def test_settings_are_not_chosen_on_what_the_study_is_tested_on(
    tmp_path, monkeypatch, old, new, problem
):
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    shutil.copytree(PAPER, tmp_path / 'params/lion-vs-adamw')
    file = tmp_path / 'params/lion-vs-adamw/tuning-minilm.yaml'
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(KitError, match=problem):
        read_sweep('lion-vs-adamw/minilm')


@pytest.mark.parametrize('key', ['test_sets', 'final_test_sets'])
def test_settings_are_not_chosen_on_a_set_of_the_tuned_runs(tmp_path, monkeypatch, key):
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    shutil.copytree(PAPER, tmp_path / 'params/lion-vs-adamw')
    for optimizer in ('adamw', 'lion'):
        file = tmp_path / f'params/lion-vs-adamw/controlled/minilm-{optimizer}.yaml'
        text = file.read_text()
        assert f'\n{key}: [' in text
        file.write_text(text.replace(f'\n{key}: [', f'\n{key}: [held-out, '))
    with pytest.raises(KitError, match="is tested on 'held-out'"):
        read_sweep('lion-vs-adamw/minilm')
