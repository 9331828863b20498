"""Processes that are killed, and several that train together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT
from kit import reproduce, run_dir, write_yaml


def test_killed_at_random_moments(tmp_path):
    """SIGKILL during steps, checkpoints and evaluations; the same weights, bit for bit, as never killed. KIT_KILLS=20 for the long version."""
    p = subprocess.run(
        [
            sys.executable,
            ROOT / 'tests/helpers/killed.py',
            tmp_path,
            os.environ.get('KIT_KILLS', '3'),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=1800,
    )
    assert p.returncode == 0, p.stderr[-3000:]
    got = json.loads(p.stdout.splitlines()[-1])
    assert len(got) == 2 and all(r['identical'] for r in got.values()), got


def test_two_processes_equal_one_also_when_killed(tmp_path):
    """torchrun with gloo: the same notebook and global batch give the same losses and weights as one process; SIGKILL in the second epoch, and the resumed run equals to the bit."""
    from safetensors.numpy import load_file

    from reproduce_kit.store.history import read_history

    change = dict(
        dropout=0.0,
        optimizer='adamw',
        learning_rate=1.0e-4,
        beta2=0.999,
        device_batch=8,
        save_steps=1,
    )
    one, two, cut = (tmp_path / n for n in ('one', 'two', 'cut'))
    path = write_yaml(tmp_path, 'smoke', **change)
    for runs, n in ((one, 1), (two, 2)):
        p = reproduce('run', path, env=dict(REPRODUCE_RUNS=runs, REPRODUCE_PROCESSES=n))
        assert p.returncode == 0, p.stdout + p.stderr
    env = os.environ | dict(REPRODUCE_RUNS=str(cut), REPRODUCE_PROCESSES='2')
    p = subprocess.Popen(
        [Path(sys.executable).parent / 'reproduce', 'run', path],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 240
    while time.time() < deadline and not list(cut.glob('smoke/smoke/*/checkpoint-6/sha256.json')):
        time.sleep(0.02)
    for d in Path('/proc').iterdir():
        if d.name.isdigit() and f'REPRODUCE_RUNS={cut}' in _environ(d):
            os.kill(int(d.name), signal.SIGKILL)
    p.wait(60)
    assert not list(cut.glob('smoke/smoke/*/done.json'))
    p = reproduce('run', path, env=dict(REPRODUCE_RUNS=cut, REPRODUCE_PROCESSES=2))
    assert p.returncode == 0, p.stdout + p.stderr
    f1, f2, f3 = (run_dir(r, 'smoke') for r in (one, two, cut))
    m = [json.loads((f / 'manifest.json').read_text())['batch'] for f in (f1, f2)]
    assert m == [
        {'per_device': 8, 'world': 1, 'accumulation': 2, 'global': 16},
        {'per_device': 8, 'world': 2, 'accumulation': 1, 'global': 16},
    ]
    h = [
        [(l['step'], l.get('loss', l.get('eval_loss'))) for l in read_history(f)] for f in (f1, f2)
    ]
    assert [s for s, _ in h[0]] == [s for s, _ in h[1]] and all(
        abs(a - b) < 1e-5 for (_, a), (_, b) in zip(*h)
    ), h
    w = [load_file(f / 'epoch-2/model/model.safetensors') for f in (f1, f2)]
    assert max(abs(w[0][k] - w[1][k]).max() for k in w[0]) < 1e-5
    for f in ('history.jsonl', 'epoch-2/model/model.safetensors', 'epoch-2/perquery.csv'):
        assert (f2 / f).read_bytes() == (f3 / f).read_bytes(), f


def _environ(proc):
    try:
        return (proc / 'environ').read_text().split('\0')
    except OSError:
        return []


def test_two_processes_say_one_error(tmp_path):
    p = reproduce(
        'run',
        write_yaml(tmp_path, 'smoke', train_pairs=100_000, global_batch=16),
        env=dict(REPRODUCE_RUNS=tmp_path / 'runs', REPRODUCE_PROCESSES=2),
    )
    assert (
        p.returncode == 1
        and 'lower train_pairs' in p.stdout + p.stderr
        and 'Traceback' not in p.stdout + p.stderr
    ), p.stdout + p.stderr


def test_a_batch_that_does_not_divide_uses_fewer_processes(tmp_path, monkeypatch):
    from reproduce_kit.config.files import example_settings, make_config
    from reproduce_kit.engines.papermill import process_count

    monkeypatch.setenv('REPRODUCE_PROCESSES', '3')
    assert [
        process_count(make_config(example_settings(global_batch=b, device_batch=b)))
        for b in (16, 12)
    ] == [
        2,
        3,
    ]
