"""What the stages of a study will cost."""

import shutil

import pytest
from conftest import ROOT

from reproduce_kit.engines.cost import read_rates
from reproduce_kit.engines.modal_costs import plan_with_cost
from reproduce_kit.engines.stages import study_stages


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A project with the study of the paper, whose sweeps a test may change."""
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    shutil.copytree(ROOT / 'params/lion-vs-adamw', tmp_path / 'params/lion-vs-adamw')
    return tmp_path / 'params/lion-vs-adamw'


def stages():
    rates, known = read_rates(), {}
    planned = study_stages('lion-vs-adamw', lambda config: plan_with_cost(config, rates, known))
    return {stage.name: stage for stage in planned}


def change(study, old, new):
    for file in study.glob('tuning-*.yaml'):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


def test_each_stage_costs_something_and_counts_its_runs(study):
    planned = stages()
    assert {name: stage.runs for name, stage in planned.items()} == dict(S1=56, S2=50, S3=6)
    assert all(stage.dollars > 0 for stage in planned.values())


def test_a_set_that_is_not_scored_costs_nothing(study):
    change(study, 'once: [dev]', 'once: []')
    assert set(stages()) == {'S1', 'S2'}


def test_longer_trials_cost_more_and_change_no_other_stage(study):
    before = stages()
    change(study, 'train_pairs: 500000', 'train_pairs: 1000000')
    after = stages()
    assert after['S1'].dollars > 1.5 * before['S1'].dollars
    assert [after[name] for name in ('S2', 'S3')] == [before[name] for name in ('S2', 'S3')]
