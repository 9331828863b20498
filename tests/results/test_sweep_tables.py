"""What is printed of a sweep, and of how seeds and optimizers agree."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from conftest import ROOT

from reproduce_kit.config.files import read_configs
from reproduce_kit.config.sweep import read_sweep
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.results.rank_agreement import kind_of_pair, rank_agreement
from reproduce_kit.results.selection import (
    TrialResult,
    first_round,
    read_results,
    sweep_state,
    winner,
    write_results,
)
from reproduce_kit.results.sweep_tables import sweep_macros, sweep_table
from reproduce_kit.results.trial_budget import sweep_figure
from reproduce_kit.testing.fake_runs import fake_run


def result_of(trial, sweep):
    """A score that falls with the rate, so that the best trial lies at the lower edge."""
    config = trial.config
    score = 0.5 - math.log(config.learning_rate * 1e5) / 50
    point = (config.learning_rate, config.weight_decay, config.warmup, score)
    left = None if trial.number == 1 else 12
    rest = (0.4, left, 168, 70.0, config.identity, 'dev-1', '2026-11-29', trial.is_given)
    return TrialResult(trial.optimizer, trial.number, *point, *rest)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The kept results of a sweep that the edge rule extended."""
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path))
    write_results('embedded', sweep_state('embedded', result_of))
    return read_results('embedded')


def test_the_table_has_a_row_per_trial_and_one_winner_per_optimizer(results):
    table = sweep_table('embedded', results)
    assert len(table.frame) == len(results)
    best = {cell.row[0]: cell.row[1] for cell in table.cells if cell.is_best}
    assert best == {
        'AdamW': str(winner(results, 'adamw').number),
        'Lion': str(winner(results, 'lion').number),
    }
    assert '3 more of each by the edge rule, from number 9 on' in table.caption


def test_a_trial_that_never_learned_has_a_dash(results):
    frame = sweep_table('embedded', results).frame
    assert frame.loc[('AdamW', '1'), 'Below 0.65 after'] == '–'
    assert frame.loc[('AdamW', '2'), 'Below 0.65 after'] == '12 of 168'


def test_the_budget_counts_the_first_round_alone(results):
    sweep = read_sweep('embedded')
    assert len(first_round(results, 'lion', sweep)) == sweep.trials < len(results) / 2
    macros = sweep_macros('embedded', results).frame['value']
    assert (macros['kitSweepTrials'], macros['kitSweepFurther']) == ('8', '3')


def test_the_figure_has_a_dot_per_trial(results):
    figure = sweep_figure(results, read_sweep('embedded'))
    left = figure.axes[0]
    assert sum(len(line.get_xdata()) for line in left.lines[:2]) == len(results)
    plt.close(figure)


def test_pairs_of_runs_differ_in_the_seed_or_in_the_optimizer(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    topics = pd.Index(['q1', 'q2'], name='qid')
    frame = pd.DataFrame(0.5, index=topics, columns=MEASURES)
    configs = [c for c in read_configs([ROOT / 'params/embedded']) if c.seed in (12, 13)]
    runs = [fake_run(c, {c.epochs: dict.fromkeys(c.test_sets, frame)}) for c in configs]
    pairs = rank_agreement(runs, 'test')
    assert pairs.kind.value_counts().to_dict() == {
        'other optimizer, same seed': 2,
        'AdamW, other seed': 1,
        'Lion, other seed': 1,
    }
    assert pairs.overlap.between(0, 1).all()
    assert kind_of_pair(runs[0], runs[0]) == ''


def test_a_sweep_of_one_backbone_has_a_table_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path))
    name = 'lion-vs-adamw/modernbert'
    write_results(name, sweep_state(name, result_of))
    table = sweep_table(name, read_results(name))
    assert (tmp_path / 'sweeps/lion-vs-adamw-modernbert.csv').exists()
    assert table.name == 'sweep-modernbert'
    assert (
        '8 trials of each optimizer at the same relative points and 2 at given ones'
        in table.caption
    )
    assert 'nDCG@10 on held-out topics' in table.caption
    assert len(first_round(read_results(name), 'lion', read_sweep(name))) == 8
