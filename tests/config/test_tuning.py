"""The file of a sweep, its trials and its edge rule."""

import shutil

import pytest
from conftest import ROOT

from reproduce_kit.config.sweep import next_rates, read_sweep, sweep_trials
from reproduce_kit.core import KitError

TUNING = (ROOT / 'params/embedded/tuning.yaml').read_text()


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
        ('  lion:', '  lino:', 'is none of'),
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
