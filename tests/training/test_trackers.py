"""Curves in a tracker that needs no account: what it shows is what the run's history has."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import ROOT
from kit import tiny_backbone, write_yaml

from reproduce_kit.cli.app import main

TRAINS = """
import sys
import miniature
from reproduce_kit.config.files import read_config
from reproduce_kit.testing.fake_hub import fake_model
fake_model('tiny-bert')
try:
    miniature.go(read_config(sys.argv[1]), stop_after=int(sys.argv[2]))
except miniature.Stop:
    pass
"""
READS = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
runs = SQLiteStorage.get_runs(sys.argv[1])
print(json.dumps({name: SQLiteStorage.get_logs(sys.argv[1], name) for name in runs}))
"""


def python(code, *words, **env):
    paths = [str(ROOT / 'tests'), str(ROOT / 'tests/helpers'), os.environ.get('PYTHONPATH', '')]
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(paths)) | env
    command = [sys.executable, '-c', code, *map(str, words)]
    process = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_a_local_tracker_is_no_choice_on_a_rented_machine():
    result = CliRunner().invoke(
        main, ['run', 'params/embedded', '--on', 'modal', '--track', 'trackio']
    )
    assert result.exit_code == 1 and 'on Modal use --track wandb' in result.stderr


@pytest.fixture(scope='module')
def tracked(tmp_path_factory):
    """A run that stopped after its first epoch and was resumed: its folder, and trackio's curves."""
    pytest.importorskip(
        'trackio',
        reason='trackio asks for pillow<13, so it is not in the lock: pip install trackio',
    )
    folder = tmp_path_factory.mktemp('tracked')
    path = write_yaml(folder, 'curves', **tiny_backbone(), epochs=2)
    env = dict(TRACKIO_DIR=folder / 'trackio', REPRODUCE_RUNS=folder / 'runs')
    env = {name: str(value) for name, value in env.items()} | dict(REPRODUCE_TRACK='trackio')
    printed = [python(TRAINS, path, epoch, **env) for epoch in (1, 0)]
    curves = json.loads(python(READS, 'smoke', **env).splitlines()[-1])
    return next((folder / 'runs').glob('*/*/*')), curves, printed


def test_a_resumed_run_has_one_curve_with_the_name_of_its_folder(tracked):
    folder, curves, _ = tracked
    assert list(curves) == [folder.name]


def test_the_curve_has_the_losses_of_the_history_at_their_updates(tracked):
    folder, curves, _ = tracked
    lines = [json.loads(line) for line in (folder / 'history.jsonl').read_text().splitlines()]
    (curve,) = curves.values()
    for name in ('loss', 'learning_rate', 'eval_loss'):
        history = {line['step']: line[name] for line in lines if name in line}
        logged = {row['step']: row[name] for row in curve if name in row}
        assert logged == pytest.approx(history, rel=1e-6) and logged
