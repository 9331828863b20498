"""Processes that are killed, and several that train together."""
import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from kit import reproduce, run_dir, write_yaml


def test_killed_at_random_moments(tmp_path):
    """SIGKILL during steps, checkpoints and evaluations; the same weights, bit for bit, as never killed. KIT_KILLS=20 for the long version."""
    p = subprocess.run([sys.executable, ROOT / 'tests/killed.py', tmp_path, os.environ.get('KIT_KILLS', '3')], capture_output=True, text=True, cwd=ROOT, timeout=1800)
    assert p.returncode == 0, p.stderr[-3000:]
    got = json.loads(p.stdout.splitlines()[-1])
    assert len(got) == 2 and all(r['identical'] for r in got.values()), got


def test_two_processes_equal_one(tmp_path):
    """torchrun with gloo: the same notebook, the same global batch, the same losses, weights and manifest but for the division of the batch."""
    from safetensors.numpy import load_file
    from reproduce_kit.training import read_history
    folders = {}
    for n in (1, 2):
        runs = tmp_path / f'runs{n}'; path = write_yaml(tmp_path, 'smoke', dropout=0.0, optimizer='adamw', learning_rate=1.0e-4, beta2=0.999, device_batch=8, epochs=1)
        p = reproduce('run', path, env=dict(REPRODUCE_RUNS=runs, REPRODUCE_PROCESSES=n))
        assert p.returncode == 0, p.stdout + p.stderr
        folders[n] = run_dir(runs, 'smoke')
    m = {n: json.loads((f / 'manifest.json').read_text()) for n, f in folders.items()}
    assert m[1]['batch'] == {'per_device': 8, 'world': 1, 'accumulation': 2, 'global': 16} and m[2]['batch'] == {'per_device': 8, 'world': 2, 'accumulation': 1, 'global': 16}
    h = {n: [(l['step'], l.get('loss', l.get('eval_loss'))) for l in read_history(f)] for n, f in folders.items()}
    assert [s for s, _ in h[1]] == [s for s, _ in h[2]] and all(abs(a - b) < 1e-5 for (_, a), (_, b) in zip(h[1], h[2])), h
    w = {n: load_file(f / 'epoch-1/model/model.safetensors') for n, f in folders.items()}
    assert max(abs(w[1][k] - w[2][k]).max() for k in w[1]) < 1e-5
    assert (folders[2] / 'train.ipynb').exists() and (folders[2] / 'done.json').exists()


def test_two_processes_say_one_error(tmp_path):
    p = reproduce('run', write_yaml(tmp_path, 'smoke', train_pairs=100_000, global_batch=16), env=dict(REPRODUCE_RUNS=tmp_path / 'runs', REPRODUCE_PROCESSES=2))
    assert p.returncode == 1 and 'lower train_pairs' in p.stdout + p.stderr and 'Traceback' not in p.stdout + p.stderr, p.stdout + p.stderr


def test_a_batch_that_does_not_divide_uses_fewer_processes(tmp_path, monkeypatch):
    from reproduce_kit.config import example, make_config
    from reproduce_kit.study import processes
    monkeypatch.setenv('REPRODUCE_PROCESSES', '3')
    assert [processes(make_config(example(global_batch=b, device_batch=b))) for b in (16, 12)] == [2, 3]
