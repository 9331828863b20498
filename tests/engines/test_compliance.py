"""A run is what its config asks for, or the difference is said in words."""

import pandas as pd
import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.engines.compliance import check_configs, check_run, logged_updates
from reproduce_kit.store.run import open_run
from reproduce_kit.testing.fake_runs import fake_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished smoke run."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    cfg = make_config(example_settings())
    values = pd.DataFrame({'nDCG@10': [0.5, 0.6]}, index=pd.Index(['1', '2'], name='qid'))
    return fake_run(cfg, dict.fromkeys((1, 2), dict.fromkeys(cfg.test_sets, values)), seconds=1.0)


def state(cfg):
    return check_configs([cfg])[0].state


@pytest.mark.parametrize(
    'epoch_updates, log_steps, epochs', [(588, 5, 3), (125, 5, 3), (7, 3, 4), (4, 1, 2)]
)
def test_logged_updates_also_where_an_epoch_is_no_multiple_of_log_steps(
    epoch_updates, log_steps, epochs
):
    cfg = make_config(
        example_settings(
            train_pairs=16 * epoch_updates, epochs=epochs, log_steps=log_steps, save_steps=log_steps
        )
    )
    every = set(range(log_steps, epochs * epoch_updates + 1, log_steps))
    ends = {epoch * epoch_updates for epoch in range(1, epochs + 1)}
    assert logged_updates(cfg) == len(every | ends)


def test_the_state_of_each_config(run):
    started = make_config(example_settings(seed=13))
    open_run(started)
    assert state(run.cfg) == 'as configured'
    assert state(started) == 'unfinished'
    assert state(make_config(example_settings(seed=14))) == 'not run'


def test_another_number_of_devices_is_a_difference(run):
    run.note(batch=run.manifest['batch'] | dict(world=2))
    assert check_run(run) == ['global batch: the run has 32, the config asks for 16']
    assert state(run.cfg) == 'differs'


def test_another_learning_rate_is_a_difference(run):
    history = run.folder / 'history.jsonl'
    history.write_text(
        history.read_text().replace('"learning_rate": 2e-05', '"learning_rate": 2e-06')
    )
    (difference,) = check_run(run)
    assert difference.startswith('learning rate: 1 of ')
    assert difference.endswith('2e-06 instead of 2e-05')


def test_missing_lines_of_a_finished_history_are_a_difference(run):
    history = run.folder / 'history.jsonl'
    lines = history.read_text().splitlines(True)
    history.write_text(''.join(lines[:2]))
    (difference,) = check_run(run)
    assert difference.startswith('logged updates: the run has 2')


def test_another_optimizer_is_a_difference(run):
    optimizer = run.manifest['optimizer']
    run.note(optimizer=optimizer | dict(kind='torch.optim.sgd.SGD'))
    assert check_run(run) == [
        'optimizer: the run has torch.optim.sgd.SGD, '
        'the config asks for reproduce_kit.training.lion.Lion'
    ]
    run.note(optimizer=None)
    assert check_run(run) == ['optimizer: the manifest does not describe it']


def test_a_key_that_is_newer_than_a_run_has_its_default(tmp_path, monkeypatch):
    """Manifests hold the keys that there were; identities leave defaults out."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    run = open_run(make_config(example_settings()))
    began = run.manifest['config']
    run.note(config={key: value for key, value in began.items() if key != 'score_precision'})
    assert check_run(run) == []
    run.note(config=began | dict(learning_rate=0.1))
    assert 'learning_rate: the run has 0.1, the config asks for 2e-05' in check_run(run)
