"""The chain on a real SLURM cluster of one node: an array of runs, each with a fate of its own."""

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT
from kit import REPRODUCE, reproduce, write_yaml
from slurm_cluster import cluster, missing_programs

from reproduce_kit.store.progress import read_progress

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(missing_programs()), reason=missing_programs()),
]
RUN = dict(epochs=10, cpus=1, ram_gib=1, save_steps=1, timeout_hours=0.2)  # 40 updates
MACHINES = 6  # cores that SLURM believes in; more runs at once than this machine has cores
TOLD_SECONDS = 100  # before the end of its time, a task gets the signal


def wait(is_over, seconds=180, what=lambda: 'waited in vain'):
    end = time.time() + seconds
    while not is_over():
        assert time.time() < end, what()
        time.sleep(0.2)


class Study:
    """Runs on a cluster, and how far they are."""

    def __init__(self, base: Path, slurm, **env):
        self.base, self.slurm, self.params = base, slurm, base / 'params'
        self.params.mkdir()
        self.temporary = base / 'tmp'
        self.temporary.mkdir()
        settings = base / 'slurm.yaml'
        settings.write_text(f'partition: main\nsignal_seconds: {TOLD_SECONDS}\ncpus: 1\n')
        self.env = slurm.env | dict(
            REPRODUCE_RUNS=str(base / 'runs'),
            REPRODUCE_SLURM=str(settings),
            REPRODUCE_BEAT='1',
            TMPDIR=str(self.temporary),
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

    def task(self, name: str) -> psutil.Process:
        """The process of a run's task."""
        note = json.loads((self.folder(name) / 'job.json').read_text())
        words = [str(self.base / 'runs/.slurm' / note['submission']), str(note['task'])]
        tasks = [
            p for p in psutil.process_iter(['cmdline']) if (p.info['cmdline'] or [])[-2:] == words
        ]
        return min(tasks, key=psutil.Process.create_time)

    def wait_for_the_end(self, names: list, seconds=240):
        """Wait for runs. What was queued again waits for two minutes, unless it is told not to.

        SLURM needs some seconds of them: a job that starts at once has no valid credential."""
        since = {}

        def have_ended():
            for line in self.slurm.ask('squeue', '--noheader', '--format=%i %r').splitlines():
                job, reason = line.split(maxsplit=1)
                if reason == 'BeginTime' and time.time() - since.setdefault(job, time.time()) > 5:
                    self.slurm.ask('scontrol', 'update', f'jobid={job}', 'StartTime=now')
            return all(self.has_ended(name) for name in names)

        wait(have_ended, seconds, lambda: self.outputs() + self.slurm.logs())
        wait(lambda: not self.slurm.ask('squeue', '--noheader'), 60)

    def outputs(self) -> str:
        files = (self.base / 'runs/.slurm').glob('*/task-*.txt')
        return '\n'.join(f'{path}:\n{path.read_text()[-1500:]}' for path in sorted(files))


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp('slurm'), MACHINES) as running:
        yield running


class Held:
    """A run whose training stands still in mid-course, so that there is time to meet its fate."""

    def __init__(self, study: Study, name: str):
        self.study, self.name, self.task = study, name, study.task(name)
        self.training = self.task.children(recursive=True)
        for process in self.training:
            process.suspend()

    def go_on(self):
        for process in self.training:
            process.resume()

    def reach_the_limit(self):
        """Let its time be over soon, and SLURM tell it so; a limit is a number of minutes."""
        self._limit(int((time.time() - self.task.create_time() + 60) / 60) + 1)
        asks = self.study.temporary.glob
        wait(lambda: any(asks('stop-*/stop')), what=self.study.slurm.logs)
        self._limit(60)  # of the next attempt
        self.go_on()

    def _limit(self, minutes: int):
        job = f'jobid={self.study.job(self.name)}'
        self.study.slurm.ask('scontrol', 'update', job, f'TimeLimit={minutes}')


def hold(study: Study, names: list) -> dict:  # {name: Held}
    """Hold each of some runs once it has made six updates."""
    held = {}

    def are_held():
        for name in names:
            if name not in held and study.updates(name) >= 6:
                held[name] = Held(study, name)
        return len(held) == len(names)

    wait(are_held, what=study.outputs)
    return held


@pytest.fixture(scope='module')
def study(slurm, tmp_path_factory):
    """Five runs of one submission, whose client is killed; each meets another fate."""
    study = Study(tmp_path_factory.mktemp('study'), slurm)
    for name in ('whole', 'requeued', 'limit', 'cancelled'):
        write_yaml(study.params, name, **RUN)
    write_yaml(study.params, 'fails', **RUN, attention='flash_attention_2', precision='bf16')
    client = study.start()
    lines = iter(client.stdout.readline, '')
    submitted = next((line for line in lines if 'submitted as array' in line), 'no array')
    client.kill()
    client.communicate()
    held = hold(study, ['requeued', 'limit', 'cancelled'])
    slurm.ask('scontrol', 'requeue', study.job('requeued'))
    held['limit'].reach_the_limit()
    stop = reproduce('stop', study.params / 'cancelled.yaml', '--on', 'slurm', env=study.env)
    study.wait_for_the_end(['whole', 'requeued', 'limit', 'fails'])
    return SimpleNamespace(stop=stop, rows=study.rows(), study=study, submitted=submitted)


def ends(study, name: str) -> list:
    return [attempt.ended for attempt in read_progress(study.study.folder(name)).attempts]


def artefacts(folder: Path) -> list:
    """What must not differ between an interrupted run and an undisturbed one."""
    names = ['history.jsonl', *(f'epoch-{n}/model/model.safetensors' for n in (5, 10))]
    return [(folder / name).read_bytes() for name in names]


def test_all_runs_are_one_array(study):
    assert study.submitted.startswith('5 runs submitted as array 1;')


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
    assert ends(study, 'limit') == ['stopped', 'done']
    assert read_progress(study.study.folder('limit')).last.first_step >= 6
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
    settings = RUN | dict(device_batch=8)
    write_yaml(two.params, 'whole', **settings)
    write_yaml(two.params, 'asked', **settings)
    started = two.run('--detach')
    assert started.returncode == 0, started.stdout + started.stderr
    asked = hold(two, ['asked'])['asked']
    slurm.ask('scancel', '--batch', '--signal=USR1', two.job('asked'))
    wait(lambda: any(two.temporary.glob('stop-*/stop')))
    asked.go_on()
    two.wait_for_the_end(['whole', 'asked'])
    progress = read_progress(two.folder('asked'))
    assert [attempt.ended for attempt in progress.attempts] == ['stopped', 'done']
    assert progress.openings[0]['batch']['world'] == 2
    for name in ('history.jsonl', 'epoch-10/model/model.safetensors'):
        assert (two.folder('whole') / name).read_bytes() == (
            two.folder('asked') / name
        ).read_bytes()
