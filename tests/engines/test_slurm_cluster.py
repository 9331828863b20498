"""The chain on a real SLURM cluster of one node: an array of runs, each with a fate of its own."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from kit import REPRODUCE, reproduce, write_yaml
from slurm_cluster import cluster, missing_programs

from reproduce_kit.store.progress import read_progress

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(missing_programs()), reason=missing_programs()),
]
# About half a minute of training: long enough to be interrupted.
LONG = dict(epochs=40, cpus=1, ram_gib=1, save_steps=1)
SHORT = LONG | dict(epochs=2)
TOLD_SECONDS = 50  # before the end of its time, a task gets the signal
ONE_MINUTE = 0.016  # hours; sbatch counts minutes


def wait(is_over, seconds=150):
    end = time.time() + seconds
    while not is_over():
        assert time.time() < end, 'waited in vain'
        time.sleep(0.2)


class Study:
    """Runs on a cluster, and how far they are."""

    def __init__(self, base: Path, slurm, **env):
        self.base, self.slurm, self.params = base, slurm, base / 'params'
        self.params.mkdir()
        settings = base / 'slurm.yaml'
        settings.write_text(f'partition: main\nsignal_seconds: {TOLD_SECONDS}\ncpus: 1\n')
        self.env = slurm.env | dict(
            REPRODUCE_RUNS=str(base / 'runs'),
            REPRODUCE_SLURM=str(settings),
            REPRODUCE_BEAT='1',
            **env,
        )

    def run(self, *options) -> subprocess.CompletedProcess:
        return reproduce('run', self.params, '--on', 'slurm', *options, env=self.env)

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [str(REPRODUCE), 'run', str(self.params), '--on', 'slurm'],
            cwd=ROOT,
            env=os.environ | self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def folder(self, name: str) -> Path:
        folders = list((self.base / 'runs').glob(f'smoke/smoke/{name}-*'))
        return folders[0] if folders else self.base / 'nothing'

    def job(self, name: str) -> str:
        note = json.loads((self.folder(name) / 'job.json').read_text())
        submission = self.base / 'runs/.slurm' / note['submission'] / 'submission.json'
        return f'{json.loads(submission.read_text())["array"]}_{note["task"]}'

    def updates(self, name: str) -> int:
        return read_progress(self.folder(name)).updates_done

    def rows(self) -> dict:
        listed = reproduce('list', self.params, '--on', 'slurm', '--json', env=self.env)
        assert listed.returncode == 0, listed.stderr
        return {row['name']: row for row in json.loads(listed.stdout)}

    def has_ended(self, name: str) -> bool:
        return any((self.folder(name) / f'{end}.json').exists() for end in ('done', 'failed'))

    def start_at_once(self, name: str):
        """A job that was queued again waits for two minutes, unless it is told not to."""
        self.slurm.ask('scontrol', 'update', f'jobid={self.job(name)}', 'StartTime=now')

    def outputs(self) -> str:
        files = (self.base / 'runs/.slurm').glob('*/task-*.txt')
        return '\n'.join(f'{path}:\n{path.read_text()[-1500:]}' for path in sorted(files))


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp('slurm'), cpus=6) as running:
        yield running


def wait_for_the_end(study: Study, names: list, seconds=150):
    """Wait for runs; those that were queued again start at once."""
    end = time.time() + seconds
    while not all(study.has_ended(name) for name in names):
        assert time.time() < end, study.outputs() + study.slurm.logs()
        for name in names:
            if not study.has_ended(name):
                study.start_at_once(name)
        time.sleep(1)


@pytest.fixture(scope='module')
def study(slurm, tmp_path_factory):
    """Five runs of one submission, whose client is killed; each meets another fate."""
    study = Study(tmp_path_factory.mktemp('study'), slurm)
    write_yaml(study.params, 'whole', **LONG)
    write_yaml(study.params, 'requeued', **LONG)
    write_yaml(study.params, 'limit', **LONG | dict(timeout_hours=ONE_MINUTE))
    write_yaml(study.params, 'cancelled', **LONG)
    flash = dict(attention='flash_attention_2', precision='bf16')
    write_yaml(study.params, 'fails', **SHORT | flash)
    client = study.start()
    lines = []
    while len(lines) < 2:  # two arrays: one has another time limit
        line = client.stdout.readline()
        assert line, ''.join(lines)
        lines += [line] if 'submitted as array' in line else []
    client.kill()
    client.communicate()
    wait(lambda: study.updates('requeued') >= 6)
    slurm.ask('scontrol', 'requeue', study.job('requeued'))
    wait(lambda: study.updates('cancelled') >= 6)
    stop = reproduce('stop', study.params / 'cancelled.yaml', '--on', 'slurm', env=study.env)
    wait_for_the_end(study, ['whole', 'requeued', 'limit', 'fails'])
    wait(lambda: not slurm.ask('squeue', '--noheader'), 30)
    return SimpleNamespace(stop=stop, rows=study.rows(), study=study)


def ends(study, name: str) -> list:
    return [attempt.ended for attempt in read_progress(study.study.folder(name)).attempts]


def artefacts(folder: Path) -> list:
    """What must not differ between an interrupted run and an undisturbed one."""
    names = (
        'history.jsonl',
        'epoch-20/model/model.safetensors',
        'epoch-40/model/model.safetensors',
    )
    return [(folder / name).read_bytes() for name in names]


def test_every_run_ends_once_and_in_the_right_state(study):
    states = {name: row['state'] for name, row in study.rows.items()}
    assert states == dict(
        whole='done', requeued='done', limit='done', cancelled='stopped', fails='failed'
    )
    assert [ends(study, name).count('done') for name in ('whole', 'requeued', 'limit')] == [1] * 3


def test_a_run_that_was_taken_from_its_node_equals_an_undisturbed_one(study):
    assert ends(study, 'requeued') == ['stopped', 'done']
    whole, requeued = (artefacts(study.study.folder(name)) for name in ('whole', 'requeued'))
    assert whole == requeued


def test_a_run_over_its_time_limit_saves_goes_on_and_equals_an_undisturbed_one(study):
    progress = read_progress(study.study.folder('limit'))
    assert {attempt.ended for attempt in progress.attempts[:-1]} == {'stopped'}
    assert len(progress.attempts) >= 2 and progress.attempts[-1].ended == 'done'
    assert progress.attempts[1].first_step > 0
    whole, limit = (artefacts(study.study.folder(name)) for name in ('whole', 'limit'))
    assert whole == limit


def test_a_run_that_fails_says_why_and_is_not_queued_again(study):
    assert ends(study, 'fails') == ['failed']
    assert 'flash' in study.rows['fails']['message'].lower()
    yaml = study.study.params / 'fails.yaml'
    logs = reproduce('logs', yaml, '--on', 'slurm', env=study.study.env).stdout
    assert 'stopped in cell' in logs and 'Traceback' in logs and 'its job printed' in logs


def test_stop_ends_a_run_in_mid_training(study):
    assert study.stop.returncode == 0 and 'stopped at' in study.stop.stdout, study.stop.stderr
    assert ends(study, 'cancelled') == ['stopped']
    assert 0 < study.rows['cancelled']['step'] < study.rows['cancelled']['of']


def test_costs_are_seconds_of_the_groups_own_cluster(study):
    cost = read_progress(study.study.folder('limit')).cost
    assert (cost['dollars'], cost['source']) == (None, 'slurm: own cluster')
    assert cost['attempts'] == len(ends(study, 'limit')) and cost['seconds'] > 0


def test_a_second_run_starts_only_what_has_not_ended_well(study):
    again = study.study.run('--detach', '--json')
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)['started'] == ['cancelled', 'fails']


# --- Several processes in one task


def test_two_processes_stop_after_the_same_update_and_equal_undisturbed_ones(slurm, tmp_path):
    """torchrun inside a task: asked to end in mid-training, queued again, the same losses."""
    two = Study(tmp_path, slurm, REPRODUCE_PROCESSES='2')
    settings = LONG | dict(epochs=12, dropout=0.0, device_batch=8, cpus=2)
    write_yaml(two.params, 'whole', **settings)
    write_yaml(two.params, 'asked', **settings)
    started = two.run('--detach')
    assert started.returncode == 0, started.stdout + started.stderr
    wait(lambda: two.updates('asked') >= 6)
    slurm.ask('scancel', '--batch', f'--signal={signal.SIGUSR1.value}', two.job('asked'))
    wait_for_the_end(two, ['whole', 'asked'])
    progress = read_progress(two.folder('asked'))
    assert [attempt.ended for attempt in progress.attempts] == ['stopped', 'done']
    assert progress.openings[0]['batch']['world'] == 2
    for name in ('history.jsonl', 'epoch-12/model/model.safetensors'):
        assert (two.folder('whole') / name).read_bytes() == (
            two.folder('asked') / name
        ).read_bytes()
