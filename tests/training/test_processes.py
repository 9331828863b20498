"""Processes that are killed, and several that train together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from kit import reproduce, run_dir, write_yaml
from safetensors.numpy import load_file

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.engines.papermill import process_count
from reproduce_kit.store.history import read_history


@pytest.mark.soak
def test_runs_killed_at_random_moments_equal_uninterrupted_ones(tmp_path):
    """SIGKILL during steps, checkpoints and evaluations; KIT_KILLS=20 for the long version."""
    kills = os.environ.get('KIT_KILLS', '3')
    process = subprocess.run(
        [sys.executable, ROOT / 'tests/helpers/killed.py', tmp_path, kills],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=1800,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    results = json.loads(process.stdout.splitlines()[-1])
    assert len(results) == 2
    assert all(result['identical'] for result in results.values()), results


def train(path, runs, processes):
    result = reproduce('run', path, env=dict(REPRODUCE_RUNS=runs, REPRODUCE_PROCESSES=processes))
    assert result.returncode == 0, result.stdout + result.stderr
    return run_dir(runs, 'smoke')


def environment(proc):
    try:
        return (proc / 'environ').read_text().split('\0')
    except OSError:
        return []


def kill_all_of(runs):
    """Kill every process that works in this run store."""
    for proc in Path('/proc').iterdir():
        if proc.name.isdigit() and f'REPRODUCE_RUNS={runs}' in environment(proc):
            os.kill(int(proc.name), signal.SIGKILL)


def train_and_kill(path, runs, processes, checkpoint, seconds=240):
    """Start a run and kill all its processes once it has written a whole checkpoint."""
    process = subprocess.Popen(
        [Path(sys.executable).parent / 'reproduce', 'run', path],
        cwd=ROOT,
        env=os.environ | dict(REPRODUCE_RUNS=str(runs), REPRODUCE_PROCESSES=str(processes)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + seconds
    while time.time() < deadline:
        if list(runs.glob(f'smoke/smoke/*/{checkpoint}/sha256.json')):
            break
        time.sleep(0.02)
    kill_all_of(runs)
    process.wait(60)
    assert not list(runs.glob('smoke/smoke/*/done.json'))


def history_losses(folder):
    return [
        (line['step'], line.get('loss', line.get('eval_loss'))) for line in read_history(folder)
    ]


@pytest.mark.soak
def test_two_processes_equal_one_also_when_killed(tmp_path):
    """torchrun with gloo: the notebook, global batch, losses and weights of one process.

    Killed in the second epoch and resumed, two processes equal themselves to the bit.
    """
    path = write_yaml(
        tmp_path,
        'smoke',
        dropout=0.0,
        optimizer='adamw',
        learning_rate=1.0e-4,
        beta2=0.999,
        device_batch=8,
        save_steps=1,
        select_on='dev',
        final_test_sets=['unseen'],
    )
    one = train(path, tmp_path / 'one', 1)
    two = train(path, tmp_path / 'two', 2)
    train_and_kill(path, tmp_path / 'cut', 2, 'checkpoint-6')
    cut = train(path, tmp_path / 'cut', 2)

    batches = [json.loads((run / 'manifest.json').read_text())['batch'] for run in (one, two)]
    assert batches == [
        {'per_device': 8, 'world': 1, 'accumulation': 2, 'global': 16},
        {'per_device': 8, 'world': 2, 'accumulation': 1, 'global': 16},
    ]
    for (step, loss), (other_step, other_loss) in zip(
        history_losses(one), history_losses(two), strict=True
    ):
        assert step == other_step
        assert abs(loss - other_loss) < 1e-5, step
    weights, other_weights = (
        load_file(run / 'epoch-2/model/model.safetensors') for run in (one, two)
    )
    assert max(abs(weights[name] - other_weights[name]).max() for name in weights) < 1e-5
    (once,) = two.glob('epoch-*/also-unseen/perquery.csv')
    names = ['history.jsonl', 'epoch-2/model/model.safetensors', 'epoch-2/perquery.csv']
    for name in (*names, once.relative_to(two)):
        assert (two / name).read_bytes() == (cut / name).read_bytes(), name


@pytest.mark.soak
def test_two_processes_print_one_error(tmp_path):
    path = write_yaml(tmp_path, 'smoke', train_pairs=100_000, global_batch=16)
    result = reproduce(
        'run', path, env=dict(REPRODUCE_RUNS=tmp_path / 'runs', REPRODUCE_PROCESSES=2)
    )
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert 'lower train_pairs' in output
    assert 'Traceback' not in output


def test_a_batch_that_does_not_divide_uses_fewer_processes(monkeypatch):
    monkeypatch.setenv('REPRODUCE_PROCESSES', '3')
    configs = [
        make_config(example_settings(global_batch=batch, device_batch=batch)) for batch in (16, 12)
    ]
    assert [process_count(cfg) for cfg in configs] == [2, 3]
