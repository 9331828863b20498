"""Runs that began before there was an event log: read as before, billed, and continued."""

import json

import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, write_json
from reproduce_kit.engines import attempt as attempt_module
from reproduce_kit.engines.attempt import attempt, is_settled
from reproduce_kit.engines.cost import cost
from reproduce_kit.engines.local_engine import ENGINE
from reproduce_kit.engines.modal_costs import record_costs
from reproduce_kit.engines.run_rows import run_status
from reproduce_kit.store.events import EVENTS_FILE
from reproduce_kit.store.old_runs import remote_old_events
from reproduce_kit.store.progress import fold
from reproduce_kit.store.run import Run, RunState, run_folder

GPU = dict(where='modal', devices=['NVIDIA L4'], dollars_per_hour=0.8, rates='modal_rates.csv')
ATTEMPTS = [
    GPU | dict(number=1, started=0.0, seen=900.0, seconds=900.0, step=2, ended='stopped'),
    GPU | dict(number=2, started=2000.0, seen=2900.0, seconds=900.0, step=4, ended=None),
]
PROGRESS = dict(
    state='running',
    attempt=2,
    step=5,
    of=8,
    first_step=2,
    started=2000.0,
    beat=2900.0,
    devices=['NVIDIA L4'],
    dollars=0.4,
    seconds=1800.0,
)
SUMS = dict(
    updates=dict(planned=8, done=4),
    seconds=dict(train=1200.0, evaluate=80.5),
    cost=dict(seconds=900.0, gpu_seconds=900.0, dollars=0.2, source='estimated: x', attempts=1),
    attempts=[dict(started='2026-05-07T08:00:00Z', threads=8, batch=dict(world=1))] * 2,
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An old run of two attempts; the second machine disappeared after update 5."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    cfg = make_config(example_settings())
    run = Run(cfg, run_folder(cfg))
    manifest = dict(config=cfg.model_dump(), identity=cfg.identity, batch=cfg.batch(1))
    write_json(run.folder / 'manifest.json', manifest | SUMS)
    write_json(run.folder / 'progress.json', PROGRESS)
    for old in ATTEMPTS:
        write_json(run.folder / f'attempts/{old["number"]:03d}.json', old)
    return run


def finish(run, billed_attempts):
    bill = SUMS['cost'] | dict(attempts=billed_attempts)
    run.note(cost=bill)
    for name in ('done.json', 'train.ipynb'):
        (run.folder / name).write_text('{}')


def contents(run) -> dict:
    return {path: path.read_bytes() for path in run.folder.rglob('*') if path.is_file()}


def test_its_manifest_is_what_its_file_has(run):
    assert run.manifest == json.loads((run.folder / 'manifest.json').read_text())


def test_its_cost_counts_all_its_attempts(run):
    spent = cost(run)
    assert (spent['seconds'], spent['dollars'], spent['attempts']) == (1800.0, 0.4, 2)


def test_reading_it_writes_nothing(run):
    before = contents(run)
    cost(run)
    is_settled(run)
    ENGINE.log(run.cfg, lines=8)
    assert contents(run) == before


@pytest.mark.parametrize('billed_attempts, settled', [(2, True), (1, False)])
def test_it_is_settled_once_its_bill_is(run, billed_attempts, settled):
    finish(run, billed_attempts)
    assert is_settled(run) is settled


def test_its_log_here_is_what_its_progress_file_says(run):
    log = ENGINE.log(run.cfg, lines=8)
    assert (log.state, log.step, log.of) == (RunState.STOPPED, 5, 8)
    assert (log.dollars, log.device) == (0.4, 'NVIDIA L4')


def test_its_state_on_modal_is_what_its_progress_file_says():
    progress = fold(remote_old_events(PROGRESS))
    status = run_status(None, None, progress, now=2910.0)
    assert (status.state, status.step, status.of) == (RunState.RUNNING, 5, 8)
    assert (status.dollars, status.device) == (0.4, 'NVIDIA L4')
    assert progress.last.first_step == 2
    ended = fold(remote_old_events(PROGRESS | dict(state='done')))
    assert run_status(dict(epochs={}), None, ended).step == 8
    assert fold(remote_old_events({})).last is None


def test_it_continues_with_the_next_attempt_and_keeps_its_files(run, monkeypatch):
    def notebook(*args):
        raise KitError('no data')

    before = contents(run)
    monkeypatch.setattr(attempt_module, 'execute_notebook', notebook)
    answer = attempt(run.cfg)
    progress = run.progress
    assert [a.ended for a in progress.attempts] == ['stopped', None, 'failed']
    assert [a.first_step for a in progress.attempts] == [0, 2, 4]
    assert (progress.updates_done, progress.train_seconds) == (4, 1200.0)
    assert answer.cost['attempts'] == 3 and answer.cost['dollars'] == 0.4
    assert before.items() <= contents(run).items()


def test_modals_own_figure_is_added_to_it(run, monkeypatch):
    monkeypatch.setattr('reproduce_kit.engines.modal_costs.billed_dollars', lambda *args: 0.5)
    name = str(run.folder.relative_to(run.folder.parents[2]))
    bill = record_costs([name], {name: [[0.0, 900.0, 0.2]]}, 'reproduce-kit')
    assert bill['dollars'] == 0.5
    assert (run.manifest['cost']['dollars'], run.manifest['cost']['estimated']) == (0.5, 0.2)
    assert (run.folder / EVENTS_FILE).exists() and len(run.progress.attempts) == 2
