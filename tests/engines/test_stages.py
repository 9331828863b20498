"""What the stages of a study will cost."""

import shutil

import pytest
from conftest import ROOT

from reproduce_kit.config.files import read_configs
from reproduce_kit.config.sweep import first_trials, read_sweep, sweep_names
from reproduce_kit.engines.cost import read_rates
from reproduce_kit.engines.modal_costs import plan_with_cost
from reproduce_kit.engines.stages import spent_elsewhere, study_stages, sweeps_that_tune
from reproduce_kit.store.events import EventKind
from reproduce_kit.store.run import open_run


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A project with the study of the paper, whose sweeps a test may change."""
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    shutil.copytree(ROOT / 'params/lion-vs-adamw', tmp_path / 'params/lion-vs-adamw')
    return tmp_path / 'params/lion-vs-adamw'


def stages():
    rates, known = read_rates(), {}
    sweeps = sweep_names('lion-vs-adamw')
    planned = study_stages(sweeps, lambda config: plan_with_cost(config, rates, known))
    return {stage.name: stage for stage in planned}


def change(study, old, new):
    for file in study.glob('tuning-*.yaml'):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


def test_each_stage_costs_something_and_counts_its_runs(study):
    planned = stages()
    assert {name: stage.runs for name, stage in planned.items()} == dict(S1=56, S2=30, S3=20)
    assert all(0 < s.dollars_low < s.dollars < s.dollars_high for s in planned.values())


def test_the_study_of_the_paper_stays_within_its_budget(study):
    """The whole controlled recipe, its MiniLM alone, and the runs as the authors made them."""
    rates, known = read_rates(), {}

    def dollars(configs):
        planned = study_stages(
            sweeps_that_tune(configs), lambda config: plan_with_cost(config, rates, known)
        )
        return {stage.name: stage.dollars for stage in planned}

    assert sum(dollars(read_configs([study / 'controlled'])).values()) <= 150
    minilm = [study / f'controlled/minilm-{name}.yaml' for name in ('adamw', 'lion')]
    alone = dollars(read_configs(minilm))
    assert alone['S1'] + alone['S2'] <= 25
    as_run = [plan_with_cost(config, rates, known) for config in read_configs([study / 'as-run'])]
    assert sum(row.dollars for row in as_run) <= 40


def test_what_trials_have_cost_counts_against_the_limit_of_the_runs(study):
    name = 'lion-vs-adamw/minilm'
    trial = open_run(first_trials(name, read_sweep(name))[0].config)
    paid = dict(where='modal', devices=[], dollars_per_hour=4.0, rates='today')
    trial.record(EventKind.STARTED, attempt=1, **paid)
    trial.record(EventKind.ALIVE, attempt=1, step=1)
    configs = read_configs([study / 'controlled'])
    assert spent_elsewhere([trial.cfg]) == 0
    assert spent_elsewhere(configs) == pytest.approx(trial.progress.dollars, abs=0.01)


def test_a_set_that_is_scored_once_costs_less_than_one_of_each_epoch(study):
    before = stages()['S2'].dollars
    for file in study.glob('controlled/*.yaml'):
        text = file.read_text().replace('qa]', 'qa, dev]')
        file.write_text(text.replace('final_test_sets: [dev]', 'final_test_sets: []'))
    assert stages()['S2'].dollars > 1.2 * before


def test_longer_trials_cost_more_and_change_no_other_stage(study):
    before = stages()
    change(study, 'train_pairs: 500000', 'train_pairs: 1000000')
    after = stages()
    assert after['S1'].dollars > 1.5 * before['S1'].dollars
    assert [after[name] for name in ('S2', 'S3')] == [before[name] for name in ('S2', 'S3')]
