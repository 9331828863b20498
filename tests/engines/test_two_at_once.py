"""Two commands at once: on overlapping studies, and on two machines that share the run store."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from conftest import ROOT
from invented import TINY, invented_collection
from kit import REPRODUCE, metrics, reproduce, run_dir, tiny_backbone, write_yaml

from reproduce_kit.data.collection import write_collection
from reproduce_kit.store.progress import read_progress

pytestmark = pytest.mark.soak
NAMES = ('shared', 'then-left', 'then-right')  # runs go in the order of their names


def start(*words, env, host=''):
    """A command in a process group of its own; on a machine of that name, if one is given."""
    command = [str(REPRODUCE), *map(str, words)]
    if host:
        command = ['unshare', '--uts', 'sh', '-c', f'hostname {host} && exec "$@"', 'sh', *command]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {key: str(value) for key, value in env.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(value, seconds=240):
    deadline = time.monotonic() + seconds
    while not (result := value()):
        assert time.monotonic() < deadline, 'it did not happen'
        time.sleep(0.02)
    return result


def has_logged(runs, name, lines):
    files = list(runs.glob(f'smoke/smoke/{name}-*/history.jsonl'))
    return files and len(files[0].read_text().splitlines()) >= lines


def artefacts(folder) -> list:
    names = ('history.jsonl', 'epoch-20/model/model.safetensors', 'epoch-20/perquery.csv')
    return [(folder / name).read_bytes() for name in names]


@pytest.fixture
def study(tmp_path):
    """Three parameter files of runs of 40 updates."""
    write_collection(invented_collection(), tmp_path / 'texts')
    settings = TINY | tiny_backbone() | dict(epochs=20, collection=str(tmp_path / 'texts'))
    for name in NAMES:
        write_yaml(tmp_path, name, **settings)
    return tmp_path


def test_two_studies_that_overlap_train_each_run_once(study):
    env, files = dict(REPRODUCE_RUNS=study / 'runs'), {n: study / f'{n}.yaml' for n in NAMES}
    first = start('run', files['shared'], files['then-left'], env=env)
    wait_for(lambda: has_logged(study / 'runs', 'shared', 1))
    second = start('run', files['shared'], files['then-right'], env=env)
    told = [command.communicate(timeout=400)[0] for command in (first, second)]
    assert first.returncode == 0, told[0]
    assert 'Traceback' not in told[1]
    assert re.search('is being trained by another process|are done already', told[1]), told[1]
    for name in NAMES:
        (attempt,) = read_progress(run_dir(study / 'runs', name)).attempts
        assert attempt.ended == 'done'
    again = reproduce('run', *files.values(), '--json', env=env)
    assert sorted(json.loads(again.stdout)['skipped']) == sorted(NAMES)


def can_name_machines() -> bool:
    return subprocess.run(['unshare', '--uts', 'hostname', 'node0'], check=False).returncode == 0


def test_a_machine_that_stood_still_does_not_write_over_the_one_that_took_over(study):
    """It goes on after its lease was taken; whoever loses says so, and nothing is torn."""
    if not can_name_machines():
        pytest.skip('no right to give a process another host name')
    file, runs = study / 'shared.yaml', study / 'runs'
    whole = reproduce('run', file, env=dict(REPRODUCE_RUNS=study / 'whole'))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    env = dict(REPRODUCE_RUNS=runs, REPRODUCE_BEAT=0.5)
    first = start('run', file, env=env, host='node1')
    wait_for(lambda: has_logged(runs, 'shared', 3))
    os.killpg(first.pid, signal.SIGSTOP)
    second = start('run', file, env=env, host='node2')
    told = second.communicate(timeout=240)[0]
    assert 'Traceback' not in told
    os.killpg(first.pid, signal.SIGCONT)
    told_first = first.communicate(timeout=240)[0]
    assert 'Traceback' not in told_first, told_first
    again = reproduce('run', file, env=env)
    assert again.returncode == 0, again.stdout + again.stderr
    there, here = run_dir(runs, 'shared'), run_dir(study / 'whole', 'shared')
    assert metrics(there) == metrics(here) and artefacts(there) == artefacts(here)
