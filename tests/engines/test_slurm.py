"""SLURM without a cluster: scripts, settings, states and refusals, where text is enough.

The commands are stand-ins that print what a test wants; `test_slurm_cluster.py` has real ones."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT
from kit import reproduce_here, write_yaml

from reproduce_kit.config.files import make_config, read_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import DiskFull, KitError, write_json
from reproduce_kit.engines import local, slurm_engine, slurm_task
from reproduce_kit.engines.attempt import AttemptResult, OutOfTime
from reproduce_kit.engines.engine import Order
from reproduce_kit.engines.slurm_engine import ENGINE
from reproduce_kit.engines.slurm_jobs import SlurmJob, job_of, submissions_folder
from reproduce_kit.engines.slurm_script import arrays_of, batch_script
from reproduce_kit.engines.slurm_settings import (
    SlurmSettings,
    read_slurm_settings,
    slurm_file,
    slurm_template,
    write_slurm_template,
)
from reproduce_kit.evaluation import rerank
from reproduce_kit.results.memory_table import paid_for
from reproduce_kit.store.events import EventKind
from reproduce_kit.store.run import Run, RunState, run_folder

COMMANDS = ('sbatch', 'squeue', 'scancel', 'scontrol', 'sinfo', 'sacct')


class StandIn:
    """SLURM's commands, which say what a test wants and note how they were called."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / 'calls'
        for command in COMMANDS:
            self.says(command)
        self.says('sbatch', '17')
        self.says('scontrol', 'MaxArraySize            = 1001')
        self.says('sacct', error='Slurm accounting storage is disabled', code=1)

    def says(self, command: str, output: str = '', error: str = '', code: int = 0):
        path = self.folder / command
        path.write_text(
            f'#!/bin/bash\necho {command} "$@" >> {self.log}\n'
            f"cat <<'END'\n{output}\nEND\ncat >&2 <<'END'\n{error}\nEND\nexit {code}\n"
        )
        path.chmod(0o755)

    def calls(self, command: str) -> list:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.split()[0] == command]

    def queue(self, **states: str):
        """What squeue knows: `_0='RUNNING'`."""
        lines = [f'17{task}|{state}|Reason' for task, state in states.items()]
        self.says('squeue', '\n'.join(lines))

    def forgets(self):
        self.says('squeue', error='slurm_load_jobs error: Invalid job id specified', code=1)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins on the path, an empty run store, and nothing to prepare."""
    commands = tmp_path / 'commands'
    commands.mkdir()
    monkeypatch.setenv('PATH', f'{commands}:{os.environ["PATH"]}')
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    monkeypatch.setenv('REPRODUCE_SLURM', str(tmp_path / 'slurm.yaml'))
    (tmp_path / 'slurm.yaml').write_text('partition: gpu\n')
    monkeypatch.setattr(local, 'prepare_configs', lambda configs, say: None)
    monkeypatch.setattr(local, 'check_before_training', lambda configs: None)
    return StandIn(commands)


def configs(count: int, **changes) -> list:
    return [
        make_config(example_settings(name=f'run{seed}', seed=seed, **changes))
        for seed in range(count)
    ]


def submit(*cfgs) -> str:
    return ENGINE.submit(list(cfgs), Order(), say=lambda line: None)


def states(*cfgs) -> list:
    return [(row.state, row.message) for row in ENGINE.states(list(cfgs))]


def files_of(folder: Path) -> list:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


# --- the script


OPTIONS = """\
#!/bin/bash
#SBATCH --job-name=smoke
#SBATCH --array=0-1%20
#SBATCH --account=my-group
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --gres=gpu:a100:2
#SBATCH --time=720
#SBATCH --signal=B:USR1@300
#SBATCH --output=/store/.slurm/first/task-%a.txt
#SBATCH --open-mode=append
#SBATCH --chdir=/store/.slurm/first
#SBATCH --requeue
#SBATCH --exclusive

# 2 runs of smoke, by reproduce-kit; task N makes run N of tasks.json
# 0: smoke/run0
# 1: smoke/run1

export HF_HUB_OFFLINE=1
"""
ALL_SETTINGS = SlurmSettings(
    account='my-group',
    partition='gpu',
    qos='long',
    gres={'A100-80GB': 'gpu:a100'},
    memory='64G',
    time='12:00:00',
    array_limit=20,
    options=['--exclusive'],
    modules=['cuda/12.4'],
    before=['export NCCL_P2P_DISABLE=1'],
    python='/shared/venv/bin/python',
)


def script_of(settings, *cfgs, folder='/store/.slurm/first') -> str:
    ((machine, alike),) = arrays_of(list(cfgs), settings, 1000)
    return batch_script(machine, alike, Path(folder), settings)


def test_a_script_has_what_the_cluster_and_the_config_ask_for():
    script = script_of(ALL_SETTINGS, *configs(2, gpu='A100-80GB', gpus=2))
    assert script.startswith(OPTIONS), script
    assert 'module load cuda/12.4\nexport NCCL_P2P_DISABLE=1\nexec /shared/venv' in script
    assert script.endswith('/store/.slurm/first "$SLURM_ARRAY_TASK_ID"\n')


def test_a_container_is_entered_with_the_gpu_and_the_store():
    script = script_of(SlurmSettings(container='/shared/kit.sif'), *configs(1))
    last = script.splitlines()[-1]
    assert last.startswith('exec apptainer exec --nv --bind') and '/shared/kit.sif python3' in last


def test_a_path_with_a_space_and_a_quote_is_one_word(monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', "/my store/it's")
    script = script_of(SlurmSettings(), *configs(1), folder="/my store/it's/.slurm/a")
    subprocess.run(['bash', '-n'], input=script, text=True, check=True)


def test_runs_with_another_machine_are_another_array():
    mixed = [*configs(3), *configs(2, cpus=2)]
    arrays = arrays_of(mixed, SlurmSettings(), 2)
    assert [(machine.cpus, len(alike)) for machine, alike in arrays] == [(8, 2), (8, 1), (2, 2)]


def test_the_script_is_shown_before_anything_is_submitted(slurm, tmp_path):
    path = write_yaml(tmp_path, 'smoke')
    shown = reproduce_here('plan', path, '--on', 'slurm', '--script')
    assert shown.returncode == 0 and '#SBATCH --partition=gpu' in shown.stdout
    assert not slurm.calls('sbatch') and not submissions_folder().exists()
    elsewhere = reproduce_here('plan', path, '--script')
    assert elsewhere.returncode == 1 and 'add --on slurm' in elsewhere.stderr


# --- slurm.yaml


@pytest.mark.parametrize(
    'text, message',
    [
        ('acount: a\n', "line 1: unknown key 'acount'; did you mean 'account'?"),
        ('partition: 7\n', 'line 1: partition: expected a string; found 7'),
        ('qos: a\ntime: 12:00:00\n', 'line 2: time: expected "hours:minutes:seconds" in quotes'),
        ('time: half a day\n', 'line 1: time: expected "hours:minutes:seconds"'),
        ('gres: {A100-80GB: 1}\n', 'line 1: gres: expected text in quotes; found 1'),
        ('modules: [3.11]\n', 'line 1: modules: expected text in quotes; found 3.11'),
        ('array_limit: 0\n', 'line 1: array_limit: '),
        ('- account\n', 'expected `key: value` lines, found list'),
    ],
)
def test_a_mistake_in_the_settings_is_told_with_its_file_and_line(slurm, text, message):
    slurm_file().write_text(text)
    with pytest.raises(KitError) as error:
        read_slurm_settings()
    assert message in str(error.value) and str(error.value).startswith(str(slurm_file()))


def test_the_template_has_every_key_and_each_of_its_lines_is_valid(slurm):
    slurm_file().unlink()
    write_slurm_template()
    assert read_slurm_settings() == SlurmSettings()
    lines = slurm_template().splitlines()
    keys = [line[1:] for line in lines if line.startswith('#') and not line.startswith('# ')]
    slurm_file().write_text('\n'.join(keys))
    assert read_slurm_settings().model_fields_set == set(SlurmSettings.model_fields)
    with pytest.raises(KitError, match='is there already'):
        write_slurm_template()


def test_a_kind_of_gpu_that_the_cluster_does_not_name_is_an_error(slurm):
    slurm_file().write_text('gres: {A100: gpu:a100}\n')
    with pytest.raises(KitError, match="no entry for A100-80GB, .*did you mean 'A100'"):
        submit(*configs(1, gpu='A100-80GB'))


def test_a_signal_that_comes_before_the_start_is_an_error(slurm):
    with pytest.raises(KitError, match='signal_seconds .300. must be less than the time limit'):
        submit(*configs(1, timeout_hours=0.05))


# --- submitting


def test_a_submitted_run_waits_and_has_its_job(slurm):
    one, two = configs(2)
    assert submit(one, two) == '17'
    slurm.queue(_0='RUNNING', _1='PENDING')
    assert states(one, two) == [(RunState.RUNNING, ''), (RunState.WAITING, 'waits for: Reason')]
    assert [row.job for row in ENGINE.states([one, two])] == ['17_0', '17_1']
    tasks = json.loads((job_of(run_folder(one)).folder / 'tasks.json').read_text())
    assert [settings['name'] for settings in tasks['configs']] == ['run0', 'run1']


def test_a_thousand_runs_are_one_call_of_sbatch_and_one_of_squeue(slurm):
    many = configs(1000)
    submit(*many)
    slurm.queue(**{f'_{task}': 'PENDING' for task in range(1000)})
    assert {state for state, _ in states(*many)} == {RunState.WAITING}
    assert len(slurm.calls('sbatch')) == len(slurm.calls('squeue')) == 1


def test_an_array_is_no_longer_than_the_cluster_allows(slurm):
    slurm.says('scontrol', 'MaxArraySize            = 4')
    submit(*configs(10))
    assert len(slurm.calls('sbatch')) == 3


def test_without_sbatch_nothing_is_written(slurm, monkeypatch, tmp_path):
    path = write_yaml(tmp_path, 'smoke')
    monkeypatch.setenv('PATH', '/usr/bin:/bin')
    monkeypatch.setattr(slurm_engine.slurm_queue.shutil, 'which', lambda command: None)
    result = reproduce_here('run', path, '--on', 'slurm')
    assert result.returncode == 1
    assert 'error: sbatch, squeue, scancel, scontrol not found; --on slurm needs' in result.stderr
    assert not files_of(tmp_path / 'runs')


REFUSALS = {
    'unknown partition': (
        'sbatch: error: invalid partition specified: gpu\n'
        'sbatch: error: Batch job submission failed: Invalid partition name specified',
        "Invalid partition name specified; did you mean 'gpu1'?",
    ),
    'a full queue': (
        'sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed',
        'sbatch refused the runs: sbatch: error: QOSMaxSubmitJobPerUserLimit',
    ),
}


@pytest.mark.parametrize('refusal', REFUSALS)
def test_a_queue_that_refuses_is_one_message_and_leaves_nothing(slurm, refusal):
    said, message = REFUSALS[refusal]
    slurm.says('sbatch', error=said, code=1)
    slurm.says('sinfo', 'gpu1\ncpu')
    (cfg,) = configs(1)
    write_json(run_folder(cfg) / 'failed.json', dict(message='no data'))
    with pytest.raises(KitError) as error:
        submit(cfg)
    assert message in str(error.value) and str(slurm_file()) in str(error.value)
    assert '\n' not in str(error.value)
    assert files_of(run_folder(cfg)) == ['failed.json'] and not files_of(submissions_folder())
    assert states(cfg) == [(RunState.FAILED, 'no data')]


def test_a_full_disk_is_one_message_and_leaves_nothing(slurm, monkeypatch):
    write = slurm_engine.note_job

    def note_job(cfg, job):
        if cfg.name == 'run1':
            raise DiskFull(f'cannot write {run_folder(cfg)}: the disk is full')
        write(cfg, job)

    monkeypatch.setattr(slurm_engine, 'note_job', note_job)
    with pytest.raises(DiskFull):
        submit(*configs(2))
    assert not slurm.calls('sbatch')
    assert not [name for name in files_of(Path(os.environ['REPRODUCE_RUNS'])) if 'job' in name]


def test_an_array_whose_number_cannot_be_kept_is_cancelled(slurm, monkeypatch):
    def note_array(folder, array):
        raise DiskFull('cannot write: the disk is full')

    monkeypatch.setattr(slurm_engine, 'note_array', note_array)
    with pytest.raises(DiskFull):
        submit(*configs(1))
    assert slurm.calls('scancel') == ['scancel 17']


def test_a_config_that_was_changed_while_its_run_is_under_way_is_rejected(slurm):
    (cfg,) = configs(1)
    submit(cfg)
    slurm.queue(_0='PENDING')
    changed = make_config(cfg.model_dump() | dict(learning_rate=1e-4))
    with pytest.raises(KitError, match='learning_rate was 2e-05, is 0.0001.*--on slurm'):
        submit(changed)
    slurm.queue(_0='CANCELLED')
    assert submit(changed) == '17'


def test_a_client_that_is_killed_before_it_knows_the_number_loses_nothing(slurm, monkeypatch):
    (cfg,) = configs(1)
    submit(cfg)
    folder = job_of(run_folder(cfg)).folder
    (folder / 'submission.json').unlink()
    assert states(cfg) == [(RunState.NOT_RUN, '')]
    monkeypatch.setenv('SLURM_ARRAY_JOB_ID', '17')
    monkeypatch.setattr(slurm_task.sys, 'argv', ['-c', str(folder), '0'])
    monkeypatch.setattr(slurm_task, 'train_task', lambda *arguments: 0)
    with pytest.raises(SystemExit):
        slurm_task.main()
    slurm.queue(_0='RUNNING')
    assert states(cfg) == [(RunState.RUNNING, '')]


# --- states


ENDS = {
    'OUT_OF_MEMORY': (RunState.FAILED, 'the memory limit was exceeded; raise ram_gib'),
    'TIMEOUT': (RunState.FAILED, 'the time limit came before the run could be queued again'),
    'NODE_FAIL': (RunState.FAILED, 'its node failed'),
    'CANCELLED by 1000': (RunState.STOPPED, 'cancelled'),
    'PREEMPTED': (RunState.STOPPED, 'another job took its machine'),
    'COMPLETED': (RunState.STOPPED, ''),
    'BOOT_FAIL': (RunState.FAILED, 'it left no output; does its node see'),
}


@pytest.mark.parametrize('end', ENDS)
def test_a_job_that_vanished_says_why_also_when_slurm_has_forgotten_it(slurm, end):
    (cfg,) = configs(1)
    submit(cfg)
    slurm.queue(_0=end)
    ((state, message),) = states(cfg)
    assert state == ENDS[end][0] and message.startswith(ENDS[end][1])
    slurm.forgets()
    assert states(cfg) == [(state, message)]


def test_the_accounting_knows_what_the_queue_has_forgotten(slurm):
    (cfg,) = configs(1)
    submit(cfg)
    slurm.forgets()
    slurm.says('sacct', '17_0|OUT_OF_MEMORY')
    assert states(cfg)[0][0] == RunState.FAILED
    assert len(slurm.calls('sacct')) == 1


def test_a_job_that_nobody_remembers_has_stopped(slurm):
    (cfg,) = configs(1)
    submit(cfg)
    slurm.forgets()
    assert states(cfg) == [(RunState.STOPPED, '')]


def test_a_run_that_another_process_trains_is_running_although_its_own_job_has_ended(slurm):
    """Two people started it; the job that was noted last found it taken, and ended."""
    (cfg,) = configs(1)
    submit(cfg)
    run = Run(cfg, run_folder(cfg))
    run.record(EventKind.STARTED, attempt=1, where='slurm', devices=[], of=8)
    slurm.queue(_0='COMPLETED')
    assert states(cfg) == [(RunState.RUNNING, '')]


def test_a_run_that_is_done_or_failed_needs_no_answer_of_slurm(slurm):
    done, failed = configs(2)
    submit(done, failed)
    write_json(run_folder(done) / 'done.json', dict(epochs={}))
    write_json(run_folder(failed) / 'failed.json', dict(message='no data'))
    slurm.says('squeue', error='Unable to contact slurm controller', code=1)
    assert states(done, failed) == [(RunState.DONE, ''), (RunState.FAILED, 'no data')]


def test_a_controller_that_does_not_answer_is_an_error_that_says_so(slurm):
    (cfg,) = configs(1)
    submit(cfg)
    slurm.says('squeue', error='Unable to contact slurm controller (connect failure)', code=1)
    with pytest.raises(KitError, match='Unable to contact slurm controller.*submitted go on'):
        states(cfg)


def test_a_node_without_the_clone_says_so_in_the_log_and_in_the_state(slurm):
    (cfg,) = configs(1)
    submit(cfg)
    folder = job_of(run_folder(cfg)).folder
    script = (folder / 'script.sh').read_text().replace(f'cd {ROOT}', 'cd /nowhere/clone')
    task = subprocess.run(['bash', '-c', script], capture_output=True, text=True)
    assert task.returncode == 1 and task.stdout.startswith('error: node ')
    (folder / 'task-0.txt').write_text(task.stdout)
    slurm.queue(_0='FAILED')
    ((state, message),) = states(cfg)
    assert state == RunState.FAILED and 'does not see' in message and 'put the clone on' in message
    assert 'does not see' in ENGINE.log(cfg, 8).output


# --- stopping, fetching, asking


def test_stop_cancels_the_task_and_no_other_one(slurm, tmp_path):
    path = write_yaml(tmp_path, 'smoke')
    submit(read_config(path))
    slurm.queue(_0='RUNNING')
    scancel = (slurm.folder / 'scancel').read_text()
    ended = f"echo '17_0|CANCELLED|None' > {slurm.folder}/ended\n"
    (slurm.folder / 'scancel').write_text(scancel.replace('exit 0', f'{ended}exit 0'))
    squeue = (slurm.folder / 'squeue').read_text()
    look = f'if [ -e {slurm.folder}/ended ]; then cat {slurm.folder}/ended; exit 0; fi\n'
    (slurm.folder / 'squeue').write_text(squeue.replace('#!/bin/bash\n', f'#!/bin/bash\n{look}'))
    result = reproduce_here('stop', path, '--on', 'slurm')
    assert result.returncode == 0 and 'stopped at' in result.stdout, result.stderr
    assert slurm.calls('scancel') == ['scancel 17_0']


def test_there_is_nothing_to_fetch(slurm):
    (cfg,) = configs(1)
    result = reproduce_here('fetch', 'smoke', '--on', 'slurm')
    assert result.returncode == 1 and 'no run of smoke has ended on SLURM' in result.stderr
    write_json(run_folder(cfg) / 'manifest.json', dict(config=cfg.model_dump()))
    write_json(run_folder(cfg) / 'done.json', {})
    result = reproduce_here('fetch', 'smoke', '--on', 'slurm', '--json')
    assert 'nothing to fetch: the cluster writes to' in json.loads(result.stdout)['bill']


def test_options_that_cost_money_mean_nothing_here(slurm, tmp_path):
    path = write_yaml(tmp_path, 'smoke')
    result = reproduce_here('run', path, '--on', 'slurm', '--max-dollars', 5)
    assert result.returncode == 1 and '--max-dollars: machines of SLURM are not' in result.stderr


def test_run_submits_and_returns_with_detach(slurm, tmp_path):
    path = write_yaml(tmp_path, 'smoke')
    result = reproduce_here('run', path, '--on', 'slurm', '--detach', '--json')
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == dict(started=['smoke'], left=[], call='17')
    slurm.queue(_0='PENDING')
    again = reproduce_here('run', path, '--on', 'slurm', '--detach')
    assert 'nothing to start; 1 under way' in again.stdout
    assert len(slurm.calls('sbatch')) == 1


def test_doctor_asks_the_cluster(slurm):
    slurm.says('sinfo', 'gpu\ncpu')
    result = reproduce_here('doctor', '--on', 'slurm')
    assert result.returncode == 0 and 'SLURM answers; partitions: cpu, gpu' in result.stdout
    slurm_file().write_text('partition: gpus\n')
    result = reproduce_here('doctor', '--on', 'slurm')
    assert result.returncode == 1 and "'gpus' is unknown; did you mean 'gpu'?" in result.stdout
    slurm.says('sinfo', error='sinfo: error: Unknown host', code=1)
    result = reproduce_here('doctor', '--on', 'slurm')
    assert result.returncode == 1 and 'on another login node, or ask those who run' in result.stdout


def test_engines_lists_what_each_needs_and_writes_the_settings(slurm):
    engines = json.loads(reproduce_here('engines', '--json').stdout)
    assert [engine['name'] for engine in engines] == ['local', 'modal', 'slurm']
    needs = {need['what']: need['ok'] for need in engines[2]['needs']}
    assert needs == {'commands': True, 'settings': True, 'run store': True}
    slurm_file().unlink()
    result = reproduce_here('engines', '--write', 'slurm')
    assert result.returncode == 0 and slurm_file().exists()


@pytest.fixture
def measured(monkeypatch):
    scores = {'dl20': {'nDCG@10': 0.7}}
    monkeypatch.setattr(rerank, 'evaluate_extra_sets', lambda run, epoch, sets: scores)
    return scores


def test_a_stored_checkpoint_is_measured_by_a_job(slurm, measured, monkeypatch):
    monkeypatch.setattr(local, 'prepare_configs', lambda configs: None)
    (cfg,) = configs(1)
    slurm.queue(_0='COMPLETED')
    assert ENGINE.measure(cfg, 2, ['dl20']) == measured
    (folder,) = submissions_folder().iterdir()
    tasks = json.loads((folder / 'tasks.json').read_text())
    assert (tasks['epoch'], tasks['sets']) == (2, ['dl20'])
    assert not (run_folder(cfg) / 'job.json').exists()


def test_a_measurement_that_fails_says_what_its_job_said(slurm, measured, monkeypatch):
    monkeypatch.setattr(local, 'prepare_configs', lambda configs: None)
    slurm.queue(_0='OUT_OF_MEMORY')
    with pytest.raises(KitError, match='measuring: the memory limit was exceeded'):
        ENGINE.measure(configs(1)[0], 2, ['dl20'])


# --- on the node


JOB = SlurmJob('first', 3, '17')


@pytest.fixture
def task(slurm, monkeypatch):
    """A task whose training does what a test says."""

    def run(train):
        monkeypatch.setattr(slurm_task, 'attempt', train)
        return slurm_task.train_task(configs(1)[0], JOB, seconds=0)

    return run


def answer(state, message=''):
    return lambda cfg, host: AttemptResult(cfg.name, run_folder(cfg).name, state, message)


@pytest.mark.parametrize(
    'state, code, requeued',
    [('done', 0, 0), ('failed', 1, 0), ('elsewhere', 0, 0), ('stopped', 0, 1)],
)
def test_a_task_is_queued_again_only_if_its_training_was_asked_to_end(
    slurm, task, state, code, requeued
):
    assert task(answer(state)) == code
    assert slurm.calls('scontrol') == ['scontrol requeue 17_3'] * requeued


def test_a_training_that_does_not_end_in_time_is_ended_and_queued_again(slurm, task):
    def train(cfg, host):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(30)

    assert task(train) == 0
    assert slurm.calls('scontrol') == ['scontrol requeue 17_3']


def test_a_task_that_is_cancelled_is_not_queued_again(slurm, task):
    def train(cfg, host):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        task(train)
    assert not slurm.calls('scontrol')


def test_a_task_that_cannot_be_queued_again_keeps_the_reason(slurm, task):
    slurm.says('scontrol', error='Requested operation is presently disabled', code=1)
    (cfg,) = configs(1)
    assert task(answer('stopped')) == 1
    write_json(submissions_folder() / 'first/submission.json', dict(array='17'))
    slurm.forgets()
    ((state, message),) = states(cfg)
    assert state == RunState.STOPPED
    assert 'could not be queued again (scontrol requeue 17_3: Requested operation' in message


def test_three_attempts_that_run_out_of_time_at_the_same_checkpoint_end_the_run(slurm, monkeypatch):
    def execute(*arguments):
        raise OutOfTime

    monkeypatch.setattr('reproduce_kit.engines.attempt.execute_notebook', execute)
    (cfg,) = configs(1)
    run = Run(cfg, run_folder(cfg))
    run.folder.mkdir(parents=True)
    for _ in range(3):
        with pytest.raises(OutOfTime):
            slurm_task.attempt(cfg, slurm_task.slurm_host(JOB))
    assert [attempt.ended for attempt in run.progress.attempts] == [None] * 3
    last = slurm_task.attempt(cfg, slurm_task.slurm_host(JOB))
    assert last.state == 'failed' and 'three attempts were cut off' in last.message
    assert last.cost['source'] == 'slurm: own cluster' and last.cost['dollars'] is None


def test_a_table_says_on_which_engine_its_costs_arose(slurm):
    (cfg,) = configs(1)
    run = Run(cfg, run_folder(cfg))
    write_json(run.folder / 'manifest.json', dict(config=cfg.model_dump()))
    run.record(EventKind.STARTED, attempt=1, where='local', devices=[], of=8)
    bill = dict(seconds=1.0, gpu_seconds=1.0, dollars=None, attempts=1)
    run.record(EventKind.COST, **bill, source='own machine')
    assert paid_for([run]) == ''
    run.record(EventKind.STARTED, attempt=2, where='slurm', devices=['A100'], of=8)
    run.record(EventKind.COST, **bill, source='slurm: own cluster')
    assert 'Cost of a run (local, slurm), mean' in paid_for([run])
    assert paid_for([run]).endswith('slurm: own cluster.')


def test_gpu_seconds_are_counted_where_nothing_is_paid(slurm):
    (cfg,) = configs(1)
    run = Run(cfg, run_folder(cfg))
    run.record(EventKind.STARTED, attempt=1, where='slurm', devices=['A100', 'A100'], of=8)
    time.sleep(0.2)
    run.record(EventKind.ENDED, attempt=1, how='stopped', step=4, message='')
    (row,) = ENGINE.states([cfg])
    assert row.gpu_seconds >= 0.4 and row.dollars is None
