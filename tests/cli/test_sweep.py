"""`reproduce sweep`: what is finished is read, the results are kept, and a failed trial ends it."""

import json
import math
import shutil

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import ROOT

from reproduce_kit.cli.app import main
from reproduce_kit.config.sweep import read_sweep, sweep_trials
from reproduce_kit.engines import local
from reproduce_kit.engines.local import StudyOutcome
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.results.selection import read_results
from reproduce_kit.testing.fake_runs import fake_run

BEST_RATES = dict(adamw=1.6e-4, lion=3.2e-5)


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    """An empty run store and an empty paper folder, seen from the clone."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path / 'paper'))


def finish(config):
    """Write a finished trial whose score falls with the distance from the best rate."""
    optimizer, rate = config.optimizer, config.learning_rate
    score = 0.5 - abs(math.log(rate / BEST_RATES[optimizer])) / 10
    topics = pd.Index(['q1', 'q2'], name='qid')
    frame = pd.DataFrame(score, index=topics, columns=MEASURES)
    fake_run(config, {epoch: {'dev': frame} for epoch in config.measured_epochs})


def first_trials():
    sweep = read_sweep('embedded')
    rates = {name: tuple(space.learning_rate) for name, space in sweep.optimizers.items()}
    return [trial.config for trial in sweep_trials('embedded', sweep, 0, sweep.trials, rates)]


def sweep(*words):
    return CliRunner().invoke(main, ['sweep', 'embedded', *words])


def test_a_finished_sweep_names_its_winners_and_keeps_its_results():
    for config in first_trials():
        finish(config)
    result = sweep('--json')
    assert result.exit_code == 0, result.output
    winners = json.loads(result.stdout)['winners']
    for optimizer, best in BEST_RATES.items():
        own = [c.learning_rate for c in first_trials() if c.optimizer == optimizer]
        nearest = min(own, key=lambda rate: abs(math.log(rate / best)))
        assert winners[optimizer]['learning_rate'] == nearest
    assert len(read_results('embedded')) == 2 * read_sweep('embedded').trials


def test_the_winners_are_printed_as_lines_of_a_parameter_file():
    for config in first_trials():
        finish(config)
    lines = sweep().output.splitlines()
    assert any(line.strip().startswith('learning_rate:') for line in lines)
    assert any(line.startswith('lion, trial') for line in lines)


def test_only_trials_that_are_not_finished_are_run(monkeypatch):
    done, *rest = first_trials()
    finish(done)
    asked = []

    def run_study(configs, say, jobs, show):
        asked.extend(configs)
        for config in configs:
            finish(config)
        return StudyOutcome(done=[config.name for config in configs])

    monkeypatch.setattr(local, 'run_study', run_study)
    assert sweep().exit_code == 0
    assert asked == rest


def test_a_trial_that_fails_ends_the_sweep(monkeypatch, tmp_path):
    outcome = StudyOutcome(failed={'adamw-01': 'the loss is not a number'})
    monkeypatch.setattr(local, 'run_study', lambda configs, say, jobs, show: outcome)
    result = sweep()
    assert result.exit_code == 1
    assert 'trial adamw-01 failed: the loss is not a number' in result.output
    assert not (tmp_path / 'paper').exists()


def test_trials_that_are_meant_for_a_gpu_are_not_trained_without_one(monkeypatch):
    monkeypatch.setattr('reproduce_kit.store.machine.devices', lambda: [])
    result = CliRunner().invoke(main, ['sweep', 'lion-vs-adamw/minilm'])
    assert result.exit_code == 1
    assert '18 trials are to do, on H100' in result.output
    assert 'reproduce run params/lion-vs-adamw/tuning-minilm.yaml --on modal' in result.output


def test_the_file_of_a_sweep_means_its_trials_and_a_folder_leaves_them_out():
    planned = CliRunner().invoke(main, ['plan', 'params/embedded/tuning.yaml', '--json'])
    assert [row['name'] for row in json.loads(planned.stdout)['runs']] == [
        config.name for config in first_trials()
    ]
    planned = CliRunner().invoke(main, ['plan', 'params/embedded', '--json'])
    assert len(json.loads(planned.stdout)['runs']) == 10


def test_the_trials_of_a_file_are_run_by_the_command_that_the_plan_names(monkeypatch):
    asked = []

    def run_study(configs, say, jobs, show):
        asked.extend(configs)
        return StudyOutcome(done=[config.name for config in configs])

    monkeypatch.setattr(local, 'run_study', run_study)
    result = CliRunner().invoke(main, ['run', 'params/embedded/tuning.yaml'])
    assert result.exit_code == 0, result.output
    assert asked == first_trials()


def test_a_trial_can_be_named():
    trial = first_trials()[0]
    result = CliRunner().invoke(
        main, ['logs', f'embedded-sweep/controlled/{trial.name}', '--on', 'local', '--json']
    )
    assert json.loads(result.stdout)['state'] == 'not run'


def test_a_measure_that_the_trials_would_not_have_is_refused_before_they_run(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    shutil.copytree(ROOT / 'params/lion-vs-adamw', tmp_path / 'params/lion-vs-adamw')
    file = tmp_path / 'params/lion-vs-adamw/tuning-gte.yaml'
    file.write_text(file.read_text().replace('measure: nDCG@10', 'measure: AP(rel=1)'))
    for words in (['sweep', 'lion-vs-adamw/gte'], ['plan', str(file), '--on', 'modal']):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 1
        assert 'not measured on held-out topics' in result.output


def test_runs_without_the_settings_of_their_sweep_are_named_before_they_cost():
    planned = CliRunner().invoke(main, ['plan', 'params/lion-vs-adamw/controlled', '--on', 'modal'])
    notes = [line for line in planned.output.splitlines() if line.startswith('untuned:')]
    assert len(notes) == 6
    assert '`reproduce sweep lion-vs-adamw/gte` has not been run' in notes[0]
    as_run = CliRunner().invoke(main, ['plan', 'params/lion-vs-adamw/as-run', '--on', 'modal'])
    assert 'untuned' not in as_run.output
