"""The chain on Modal, against a stand-in on this machine: start, lose machines, fetch, bill."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from loopback import Fault
from modal_study import (
    BIN,
    CACHE,
    HUB,
    RUNS,
    artefacts,
    client_env,
    has_ended,
    has_reached,
    modal_with_hub,
    slow,
    small,
    start_client,
    stored,
    training_calls,
    wait,
    write_configs,
)
from warm import reproduce_warm

from reproduce_kit.config.files import read_config
from reproduce_kit.core import KitError, NotLoggedIn
from reproduce_kit.engines import modal_calls, modal_client
from reproduce_kit.engines.engine import JobAnswer, JobState
from reproduce_kit.engines.following import follow_runs
from reproduce_kit.engines.modal_engine import ENGINE
from reproduce_kit.engines.run_rows import RunRow
from reproduce_kit.store.progress import read_progress
from reproduce_kit.store.run import RunState

SECRET = 'hf_secretsecretsecret'


@pytest.fixture(scope='session')
def cloud(tmp_path_factory):
    """One stand-in for Modal per worker."""
    with modal_with_hub(tmp_path_factory.mktemp('modal')) as modal:
        yield modal


def run_of(home: Path, name: str) -> Path:
    return next(home.glob(f'tiny/as-run/{name}-*'))


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / 'manifest.json').read_text())


# --- One run, whose client is killed


def launch_and_kill(cloud, configs, env) -> str:
    """Start a study, kill the client once the runs are started, and return what it printed."""
    client = start_client(configs, '--secret', 'huggingface', '--max-dollars', '10', env=env)
    names = {path.stem for path in configs.glob('*.yaml')}
    wait(lambda: names & set(training_calls(cloud)), 120)
    client.kill()
    output = client.communicate()[0]
    wait(lambda: all(has_ended(cloud, name) for name in names))
    wait(lambda: all(call.output is not None for call in cloud.calls.values()), 60)
    return output


def files_with_a_secret(cloud, home: Path) -> list:
    """What was fetched, machines' logs and the run store's volume are searched."""
    logs = cloud.folder.glob('tasks/*/log')
    paths = [*home.rglob('*'), *logs, *cloud.volume(RUNS).rglob('*')]
    contents = {path: path.read_bytes() for path in paths if path.is_file()}
    return [
        path
        for path, content in contents.items()
        if SECRET.encode() in content or b'as-good' in content
    ]


def test_a_run_ends_without_its_client_and_is_fetched(cloud, tmp_path):
    configs = write_configs(tmp_path / 'configs', small('as-run/minilm-lion', 'alone'))
    cloud.secrets['huggingface'] = dict(HF_TOKEN=SECRET)
    env = client_env(cloud, tmp_path / 'home')
    output = launch_and_kill(cloud, configs, env)
    assert re.search(r'1 run to do: .* GPU hours, \$\d', output), output
    p = reproduce_warm('fetch', 'tiny', env=env)
    assert p.returncode == 0 and 'estimated' in p.stdout, p.stdout + p.stderr
    folder = run_of(tmp_path / 'home', 'alone')
    for file in ('done.json', 'train.ipynb', 'epoch-3/perquery.csv', 'epoch-3/mini.run.gz'):
        assert (folder / file).exists(), file
    assert not list(folder.rglob('*.safetensors'))
    check_bill(folder, ['done'])
    assert files_with_a_secret(cloud, tmp_path / 'home') == []


# --- A study: one machine is taken away, one run fails, and the client is killed


@pytest.fixture(scope='module')
def study(cloud, tmp_path_factory):
    """Three runs that have ended on Modal, and one client."""
    folder = tmp_path_factory.mktemp('study')
    configs = write_configs(
        folder / 'configs',
        small('as-run/minilm-lion', 'whole', train_pairs=60),
        small('as-run/minilm-lion', 'preempted', train_pairs=60),
        small('as-run/gte-adamw', 'fails', attention='flash_attention_2', precision='bf16'),
    )
    cloud.secrets['huggingface'] = dict(HF_TOKEN=SECRET)
    cloud.faults['preempted'] = [Fault('preempt', has_reached(cloud, 'preempted', 3))]
    env = client_env(cloud, folder / 'home')
    output = launch_and_kill(cloud, configs, env)
    return SimpleNamespace(cloud=cloud, configs=configs, env=env, output=output)


@pytest.fixture(scope='module')
def fetched(study, tmp_path_factory):
    """The run store at home after `fetch --checkpoints`, and what the command printed."""
    home = tmp_path_factory.mktemp('fetched')
    env = study.env | dict(REPRODUCE_RUNS=str(home))
    p = reproduce_warm('fetch', 'tiny', '--checkpoints', env=env)
    assert p.returncode == 0, p.stderr
    return SimpleNamespace(home=home, env=env, output=p.stdout)


@pytest.mark.soak
def test_the_price_is_shown_before_a_study_starts(study):
    assert re.search(r'3 runs to do: .* GPU hours, \$\d', study.output), study.output
    assert 'watching' in study.output, study.output


@pytest.mark.soak
def test_a_study_goes_on_when_its_client_is_killed(study):
    for name, end in dict(whole='done', preempted='done', fails='failed').items():
        assert (stored(study.cloud, name) / f'{end}.json').exists(), name


@pytest.mark.soak
def test_every_config_has_one_call_and_a_lost_machine_is_replaced(study):
    calls = training_calls(study.cloud)
    attempts = {
        name: [call.attempts for call in calls[name]] for name in ('whole', 'preempted', 'fails')
    }
    assert attempts == dict(whole=[1], preempted=[2], fails=[1])


def states_of(study) -> dict:
    p = reproduce_warm('list', study.configs, '--on', 'modal', '--json', env=study.env)
    return {row['name']: row for row in json.loads(p.stdout)}


@pytest.mark.soak
def test_list_shows_the_states_and_what_each_run_has_cost(study):
    rows = states_of(study)
    states = {name: row['state'] for name, row in rows.items()}
    assert states == dict(whole='done', preempted='done', fails='failed')
    assert all(row['dollars'] > 0 for row in rows.values())
    assert 'flash' in rows['fails']['message'].lower()


@pytest.mark.soak
def test_logs_show_the_cell_and_the_traceback_of_a_failure(study):
    output = reproduce_warm('logs', study.configs / 'fails.yaml', env=study.env).stdout
    assert 'stopped in cell' in output and 'Traceback' in output and 'load_backbone' in output


@pytest.mark.soak
def test_fetch_brings_all_results_but_no_weights(study):
    home = Path(study.env['REPRODUCE_RUNS'])
    p = reproduce_warm('fetch', 'tiny', env=study.env)
    assert p.returncode == 0 and 'estimated' in p.stdout, p.stdout + p.stderr
    assert not list(home.rglob('*.safetensors')) and not list(home.rglob('.*part'))
    for name in ('whole', 'preempted'):
        for file in ('done.json', 'train.ipynb', 'epoch-3/perquery.csv', 'epoch-3/mini.run.gz'):
            assert (run_of(home, name) / file).exists(), file
        assert (run_of(home, name) / 'first-stage/metrics.json').exists()


@pytest.mark.soak
def test_fetch_takes_again_only_what_is_missing_or_damaged(fetched):
    (run_of(fetched.home, 'whole') / 'history.jsonl').write_text('cut')
    (run_of(fetched.home, 'preempted') / 'done.json').unlink()
    again = json.loads(reproduce_warm('fetch', 'tiny', '--json', env=fetched.env).stdout)
    files = sorted(re.sub(r'-[0-9a-f]{8}', '', path) for path in again['fetched'])
    assert files == ['tiny/as-run/preempted/done.json', 'tiny/as-run/whole/history.jsonl']


@pytest.mark.soak
def test_an_interrupted_run_equals_an_undisturbed_one(fetched):
    whole, preempted = (run_of(fetched.home, name) for name in ('whole', 'preempted'))
    assert artefacts(preempted) == artefacts(whole)


def check_bill(folder: Path, ends: list):
    """Every attempt's seconds are in the bill, also of a machine that vanished."""
    progress = read_progress(folder)
    cost, attempts = progress.cost, progress.attempts
    assert [attempt.ended for attempt in attempts] == ends
    assert cost['attempts'] == len(ends)
    assert cost['source'].startswith('estimated: modal_rates.csv')
    seconds = sum(attempt.seconds for attempt in attempts)
    dollars = seconds * attempts[0].dollars_per_hour / 3600
    assert cost['dollars'] == pytest.approx(dollars, abs=2e-4)


@pytest.mark.soak
@pytest.mark.parametrize(
    ('name', 'ends'), [('whole', ['done']), ('preempted', ['stopped', 'done'])]
)
def test_the_bill_counts_every_attempt(fetched, name, ends):
    check_bill(run_of(fetched.home, name), ends)


@pytest.mark.soak
def test_a_run_knows_the_commit_of_the_clone_that_started_it(fetched):
    assert len(manifest_of(run_of(fetched.home, 'whole'))['git']['commit']) == 40


@pytest.mark.soak
def test_no_secret_is_written_anywhere(study, fetched):
    assert files_with_a_secret(study.cloud, fetched.home) == []


@pytest.mark.soak
def test_a_second_run_starts_nothing(study, tmp_path):
    configs = write_configs(
        tmp_path / 'configs',
        *(small('as-run/minilm-lion', n, train_pairs=60) for n in ('whole', 'preempted')),
    )
    before = len(study.cloud.calls)
    p = reproduce_warm('run', configs, '--on', 'modal', '--yes', env=study.env)
    assert p.returncode == 0, p.stdout + p.stderr
    later = list(study.cloud.calls.values())[before:]
    assert not any(study.cloud.config_name(call) for call in later)


RECORD_COSTS = """
import json, sys
from reproduce_kit.engines.modal_costs import record_costs
print(record_costs([sys.argv[1]], json.loads(sys.argv[2]), 'reproduce-kit'))
"""


@pytest.mark.soak
def test_modals_own_figure_replaces_the_estimate(cloud, fetched):
    folder = run_of(fetched.home, 'whole')
    name = str(folder.relative_to(fetched.home))
    mine = read_progress(folder).cost['dollars']
    yesterday = time.time() - 90_000
    spent = {
        name: [[yesterday, yesterday + 60, mine]],
        'x/as-run/at-the-same-time-00000000': [[yesterday + 30, yesterday + 90, 3 * mine]],
        'x/as-run/days-before-00000000': [[yesterday - 200_000, yesterday - 190_000, 99.0]],
    }

    def recorded():
        command = [sys.executable, '-c', RECORD_COSTS, name, json.dumps(spent)]
        env = os.environ | fetched.env
        return subprocess.run(command, env=env, text=True, capture_output=True, check=True).stdout

    assert 'estimated' in recorded()
    ours = [('reproduce-kit-0a1b2c3d', '1.00'), ('reproduce-kit-ffffffff', '.24')]
    cloud.report = [*ours, ('another app', '7')]
    assert "billed: Modal's report" in recorded()
    assert read_progress(folder).cost['dollars'] == pytest.approx(0.31)
    cloud.report = None


# --- One run that is stopped and goes on


@pytest.fixture(scope='module')
def stopped(cloud, tmp_path_factory):
    """A run that was stopped while a client watched it, after an attempt to change it."""
    folder = tmp_path_factory.mktemp('stopped')
    env = client_env(cloud, folder / 'home')
    longer = dict(
        recipe='as-run/minilm-adamw', name='stopped', train_pairs=360
    )  # than two commands
    configs = write_configs(folder / 'configs', slow(**longer))
    changed = slow(**longer, learning_rate=1e-4)
    client = start_client(configs, env=env)
    wait(has_reached(cloud, 'stopped', 2))
    change = reproduce_warm(
        'run', write_configs(folder / 'changed', changed), '--on', 'modal', '--yes', env=env
    )
    stop = reproduce_warm('stop', configs / 'stopped.yaml', env=env)
    output = client.communicate(timeout=120)[0]
    return SimpleNamespace(
        home=folder / 'home',
        env=env,
        configs=configs,
        config=configs / 'stopped.yaml',
        change=change,
        stop=stop,
        client=SimpleNamespace(returncode=client.returncode, output=output),
        fetched=list((folder / 'home').rglob('manifest.json')),
    )


@pytest.mark.soak
def test_a_changed_config_is_rejected_while_its_run_is_under_way(stopped):
    message = 'was changed since it was started on Modal (learning_rate was 2e-05, is 0.0001)'
    assert stopped.change.returncode == 1 and message in stopped.change.stderr
    assert 'reproduce stop' in stopped.change.stderr


@pytest.mark.soak
def test_stop_ends_a_run_in_mid_training(stopped):
    assert stopped.stop.returncode == 0 and 'stopped at' in stopped.stop.stdout, stopped.stop.stderr


@pytest.mark.soak
def test_the_client_that_watches_reports_the_stop(stopped):
    assert stopped.client.returncode == 1
    assert 'stopped: stopped' in stopped.client.output, stopped.client.output


@pytest.mark.soak
def test_a_stopped_run_is_not_fetched(stopped):
    assert not stopped.fetched


@pytest.mark.soak
def test_a_stopped_run_cannot_be_stopped_again(stopped):
    p = reproduce_warm('stop', stopped.config, env=stopped.env)
    assert p.returncode == 1 and 'not under way' in p.stderr


@pytest.fixture(scope='module')
def continued(stopped):
    """The same run after it was started again and has ended."""
    rows = reproduce_warm(
        'list', stopped.configs, '--on', 'modal', '--json', env=stopped.env
    ).stdout
    state = json.loads(rows)[0]['state']
    p = reproduce_warm('run', stopped.configs, '--on', 'modal', '--yes', env=stopped.env)
    assert p.returncode == 0, p.stdout + p.stderr
    folder = run_of(stopped.home, 'stopped')
    return SimpleNamespace(before=state, run=p, folder=folder, **vars(stopped))


@pytest.mark.soak
def test_a_stopped_run_is_listed_as_stopped(continued):
    assert continued.before == 'stopped'


@pytest.mark.soak
def test_the_client_that_stays_fetches_the_results_and_the_bill(continued):
    assert 'stopped: done' in continued.run.stderr
    assert 'runs brought home' in continued.run.stdout and 'estimated' in continued.run.stdout


@pytest.mark.soak
def test_a_stopped_run_continues_at_its_last_checkpoint(continued):
    lines = (continued.folder / 'history.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    updates = read_config(continued.config).updates
    assert [row['step'] for row in rows if 'loss' in row] == list(range(1, updates + 1))
    assert read_progress(continued.folder).cost['attempts'] == 2


@pytest.mark.soak
def test_check_accepts_a_fetched_run(continued):
    assert reproduce_warm('check', continued.configs, env=continued.env).returncode == 0


@pytest.mark.soak
def test_a_stored_checkpoint_is_measured_on_modal(continued):
    p = reproduce_warm(
        *('evaluate', continued.config, '--epoch', 2, '--set', 'qa', '--on', 'modal', '--json'),
        env=continued.env,
    )
    assert p.returncode == 0, p.stderr
    done = json.loads((continued.folder / 'done.json').read_text())
    assert json.loads(p.stdout)['qa'] == done['epochs']['2']['means']['qa']


@pytest.mark.soak
def test_an_unknown_test_set_is_an_error(continued):
    p = reproduce_warm(
        *('evaluate', continued.config, '--epoch', 3, '--set', 'nothing', '--on', 'modal'),
        env=continued.env,
    )
    assert p.returncode == 1 and "no set 'nothing'" in p.stderr, p.stderr


# --- Trouble: one message, and nothing half-done


@pytest.fixture
def client(cloud, tmp_path):
    """A client with an empty run store and one config."""
    cfg = small('as-run/minilm-adamw', 'troubled', train_pairs=60)
    configs = write_configs(tmp_path / 'configs', cfg)
    return SimpleNamespace(
        configs=configs, home=tmp_path / 'home', env=client_env(cloud, tmp_path / 'home')
    )


RUN = ('run', '{configs}', '--on', 'modal', '--yes')


@pytest.mark.parametrize(
    ('arguments', 'changes', 'message'),
    [
        (
            RUN,
            dict(MODAL_TOKEN_ID='', MODAL_TOKEN_SECRET=''),
            'no Modal token on this machine: run `modal setup`',
        ),
        (('list', '--on', 'modal'), dict(MODAL_TOKEN_ID='ak-bad'), 'does not accept the token'),
        (
            (*RUN, '--secret', 'wandb'),
            {},
            "Modal has no secret 'wandb' with WANDB_API_KEY",
        ),
        (
            (*RUN, '--secret', 'wandbb'),
            {},
            "--secret wandbb is unknown; did you mean 'wandb'?",
        ),
        ((*RUN, '--rates', 'none.csv'), {}, 'none.csv does not exist'),
        (('stop', 'nobody'), {}, "no run 'nobody'"),
        (('fetch', 'tiny-nothing'), {}, 'no run of tiny-nothing has ended on Modal'),
    ],
    ids=['no token', 'bad token', 'no secret', 'typing error', 'no rates', 'no run', 'no study'],
)
def test_trouble_is_one_message_before_anything_is_spent(
    cloud,
    client,
    arguments,
    changes,
    message,
):
    before = len(cloud.calls)
    words = [word.format(configs=client.configs) for word in arguments]
    p = reproduce_warm(*words, env=client.env | changes)
    assert p.returncode == 1 and message in p.stderr, p.stdout + p.stderr
    assert 'Traceback' not in p.stderr
    assert not any(cloud.config_name(call) for call in list(cloud.calls.values())[before:])


def test_an_unknown_gpu_is_an_error(client, tmp_path):
    configs = write_configs(tmp_path / 'q', small('as-run/minilm-adamw', 'odd', gpu='A100-90GB'))
    p = reproduce_warm('run', configs, '--on', 'modal', '--yes', env=client.env)
    assert p.returncode == 1
    assert "gpu 'A100-90GB' is unknown; did you mean 'A100-80GB'?" in p.stderr, p.stderr


def test_a_run_that_would_exceed_the_limit_is_not_started(client):
    config = 'params/lion-vs-adamw/as-run/gte-adamw.yaml'
    p = reproduce_warm('run', config, '--on', 'modal', '--yes', '--max-dollars', 5, env=client.env)
    assert p.returncode == 0, p.stdout + p.stderr
    assert '5.00 dollars would not cover them: gte-adamw' in p.stderr, p.stderr


def test_nothing_is_started_without_a_yes(client):
    p = subprocess.run(
        [BIN / 'reproduce', 'run', client.configs, '--on', 'modal'],
        input='n\n',
        env=os.environ | client.env,
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert p.returncode == 1 and 'nothing was started' in p.stderr


def test_a_full_volume_is_noticed_before_training(cloud, client):
    cloud.full.add(RUNS)
    p = reproduce_warm('run', client.configs, '--on', 'modal', '--yes', env=client.env)
    cloud.full.clear()
    output = p.stdout + p.stderr
    assert p.returncode == 1 and 'volume reproduce-kit-runs could not be saved' in output, output
    assert 'free some space' in output and not list(client.home.rglob('manifest.json'))


@pytest.mark.soak
def test_a_run_whose_volume_fills_up_continues_once_there_is_space(cloud, client):
    cloud.faults['troubled'] = [Fault('full', has_reached(cloud, 'troubled', 3))]
    p = reproduce_warm('run', client.configs, '--on', 'modal', '--yes', env=client.env)
    cloud.full.clear()
    message = 'troubled failed: volume reproduce-kit-runs could not be saved'
    assert p.returncode == 1 and message in p.stdout, p.stdout + p.stderr
    p = reproduce_warm('run', client.configs, '--on', 'modal', '--yes', env=client.env)
    assert p.returncode == 0, p.stdout + p.stderr


@pytest.mark.soak
def test_nothing_is_trained_when_the_hub_cannot_be_reached(cloud, client, tmp_path):
    cfg = small('as-run/minilm-adamw', 'away', backbone='minilm-l12-h384')
    configs = write_configs(tmp_path / 'r', cfg)
    before = dict(cloud.env)
    cloud.env |= dict(HF_HUB_OFFLINE='0', HF_ENDPOINT='http://127.0.0.1:9')
    p = reproduce_warm('run', configs, '--on', 'modal', '--yes', env=client.env)
    cloud.env = before
    output = p.stdout + p.stderr
    assert p.returncode == 1 and 'preparing failed, nothing was trained' in output, output
    assert 'the hub cannot be reached' in output, output


def test_the_end_of_a_call_is_read_before_its_runs(monkeypatch):
    """If preparing fails between two looks, the run's own message wins over the call's."""
    lines, asked, cfg = [], [], small('as-run/minilm-adamw', 'away')

    def call_answer(call):
        asked.append(call)
        return JobAnswer(JobState.FAILED, 'the hub is away')

    def remote_states(configs):
        state = RunState.FAILED if asked else RunState.PREPARING
        message = 'preparing failed' if asked else ''
        return [RunRow(cfg=cfg, path='a', job='fc-1', state=state, message=message)]

    monkeypatch.setattr(modal_calls, 'call_answer', call_answer)
    monkeypatch.setattr(modal_client, 'remote_states', remote_states)
    (row,) = follow_runs(ENGINE, [cfg], 'fc-1', lines.append, 0.01)
    assert row.message == 'preparing failed'
    assert lines == ['away: failed; preparing failed']


@pytest.mark.parametrize(('error', 'looks'), [('network', 31), ('token', 1)])
def test_a_look_is_repeated_unless_the_token_is_rejected(monkeypatch, error, looks):
    errors = dict(network=KitError('Modal cannot be reached'), token=NotLoggedIn('no access'))
    tried = []

    def remote_states(configs):
        tried.append(1)
        raise errors[error]

    monkeypatch.setattr(modal_client, 'remote_states', remote_states)
    with pytest.raises(type(errors[error])):
        follow_runs(ENGINE, [], '', lambda line: None, 0.001)
    assert len(tried) == looks


def test_a_file_outside_the_run_store_is_not_fetched(cloud, client):
    cfg = small('as-run/minilm-adamw', 'evil', study='evil')
    run = cloud.volume(RUNS) / f'evil/as-run/evil-{cfg.identity}'
    (run / 'attempts').mkdir(parents=True)
    (run / 'failed.json').write_text('{}')
    (run / 'manifest.json').write_text(json.dumps(dict(config=cfg.model_dump())))
    (run / 'attempts/x.pkl').write_bytes(b'cos\nsystem\n')
    p = reproduce_warm('fetch', 'evil', env=client.env)
    assert p.returncode == 1 and not client.home.exists()
    offered = r"offered the file 'evil/as-run/evil-[0-9a-f]{8}/attempts/x.pkl'"
    assert re.search(offered, p.stderr), p.stderr


# --- Without the command line


@pytest.mark.soak
def test_modal_run_trains_a_study_in_an_app_of_its_own(cloud, tmp_path):
    configs = write_configs(tmp_path / 'p', small('as-run/minilm-adamw', 'known'))
    env = client_env(cloud, tmp_path / 'home', REPRODUCE_PARAMS=str(configs))
    p = subprocess.run(
        [BIN / 'modal', 'run', '-m', 'reproduce_kit.engines.modal_app', '--paths', str(configs)],
        env=os.environ | env,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )
    output = p.stdout + p.stderr
    assert p.returncode == 0, output
    assert re.search(r'known-[0-9a-f]{8}: done, 0\.0\d dollars', p.stdout), output


LOCAL = """
import json, sys
from reproduce_kit.config.files import read_config
from reproduce_kit.engines.modal_app import function_name, make_app
cfg = read_config(sys.argv[1])
_, functions = make_app([cfg])
answer = functions[function_name(cfg)].local(json.loads(cfg.model_dump_json()))
print('answer', json.dumps(answer))
"""


def start_local(config: Path, runs: Path, cloud) -> subprocess.Popen:
    """The function's body in a process of its own, on folders in place of the volumes."""
    env = os.environ | dict(
        REPRODUCE_RUNS=str(runs),
        REPRODUCE_CACHE=str(cloud.volume(CACHE)),
        HF_HUB_CACHE=str(cloud.volume(HUB)),
        HF_DATASETS_CACHE=str(cloud.volume(CACHE) / 'datasets'),
        HF_HUB_OFFLINE='1',
        OMP_NUM_THREADS='1',
        REPRODUCE_BEAT='1',
    )
    return subprocess.Popen(
        [sys.executable, '-c', LOCAL, str(config)],
        env=env,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def answer_of(process) -> dict:
    output = process.communicate(timeout=300)[0]
    line = re.search(r'^answer (.*)$', output, re.MULTILINE)
    assert line, output
    return json.loads(line[1])


def kill_group(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def local_run(runs: Path, name: str) -> Path:
    return next((runs / 'local/as-run').glob(f'{name}-*'), runs / 'none')


def history_lines(folder: Path) -> int:
    history = folder / 'history.jsonl'
    return len(history.read_text().splitlines()) if history.exists() else 0


@pytest.fixture(scope='module')
def twice(cloud, tmp_path_factory):
    """A config that was started by two processes at the same time."""
    folder = tmp_path_factory.mktemp('twice')
    configs = write_configs(folder, small('as-run/minilm-lion', 'twice', study='local'))
    runs, config = folder / 'runs', configs / 'twice.yaml'
    processes = [start_local(config, runs, cloud) for _ in range(2)]
    answers = [answer_of(process) for process in processes]
    return SimpleNamespace(runs=runs, config=config, answers=answers)


@pytest.mark.soak
def test_of_two_starts_at_once_one_trains(twice):
    assert sorted(answer['state'] for answer in twice.answers) == ['done', 'elsewhere']
    assert len(read_progress(local_run(twice.runs, 'twice')).openings) == 1


@pytest.mark.soak
def test_a_run_that_is_done_is_skipped(cloud, twice):
    assert answer_of(start_local(twice.config, twice.runs, cloud))['state'] == 'skipped'


@pytest.mark.soak
def test_a_run_killed_in_training_equals_an_undisturbed_one(cloud, twice):
    cfg = small('as-run/minilm-lion', 'killed', study='local')
    config = write_configs(twice.config.parent, cfg) / 'killed.yaml'
    process = start_local(config, twice.runs, cloud)
    wait(lambda: history_lines(local_run(twice.runs, 'killed')) >= 6, 120)
    kill_group(process)
    assert answer_of(start_local(config, twice.runs, cloud))['state'] == 'done'
    killed, whole = (local_run(twice.runs, name) for name in ('killed', 'twice'))
    assert artefacts(killed) == artefacts(whole)


# --- Long proofs


@pytest.mark.soak
def test_six_configs_through_modals_container_program(cloud, tmp_path):
    """One machine is taken away, one vanishes, one reaches its time limit, one run fails."""
    same = ('whole6', 'preempted6', 'vanished6', 'limited6')
    configs = write_configs(
        tmp_path / 'six',
        *(small('as-run/minilm-lion', name, train_pairs=124) for name in same),
        small('as-run/modernbert-adamw', 'other6'),
        small('as-run/gte-adamw', 'fails6', attention='flash_attention_2', precision='bf16'),
    )
    cloud.secrets['huggingface'] = dict(HF_TOKEN=SECRET)
    for name, kind, step in (
        ('preempted6', 'preempt', 3),
        ('vanished6', 'vanish', 4),
        ('limited6', 'timeout', 5),
    ):
        cloud.faults[name] = [Fault(kind, has_reached(cloud, name, step))]
    home = tmp_path / 'home'
    env = client_env(cloud, home)
    launch_and_kill(cloud, configs, env)

    calls = training_calls(cloud)
    attempts = {name: sum(c.attempts for c in calls[name]) for name in (*same, 'other6', 'fails6')}
    assert list(attempts.values()) == [1, 2, 2, 2, 1, 1], attempts
    assert calls['limited6'][0].retry == 1

    p = reproduce_warm('fetch', 'tiny', '--checkpoints', env=env)
    assert p.returncode == 0, p.stdout + p.stderr
    for name in same[1:]:
        assert artefacts(run_of(home, name)) == artefacts(run_of(home, 'whole6')), name
    check_bill(run_of(home, 'vanished6'), [None, 'done'])
    check_bill(run_of(home, 'limited6'), [None, 'done'])


def random_moment(rng, process, folder, seconds, by_time: bool):
    """Wait for a random moment: any time, or a random number of history lines."""
    if by_time:
        time.sleep(rng.uniform(0.3, 1) * seconds)
        return
    lines, end = rng.randrange(1, 12), time.time() + 2 * seconds
    while process.poll() is None and time.time() < end and history_lines(folder()) < lines:
        time.sleep(0.01)


@pytest.mark.soak
@pytest.mark.parametrize(
    'recipe', ['as-run/minilm-lion', 'as-run/gte-adamw', 'as-run/modernbert-lion']
)
def test_a_run_killed_at_random_moments_equals_an_undisturbed_one(
    cloud,
    tmp_path,
    recipe,
):
    """KIT_KILLS sets how often (20 by hand)."""
    rng = random.Random(recipe)
    kills = -(-int(os.environ.get('KIT_KILLS', 3)) // 3)
    names = [f'cut{i}' for i in range(kills)]
    configs = [small(recipe, name, study='local') for name in ('whole', *names)]
    folder, runs = write_configs(tmp_path / 'p', *configs), tmp_path / 'runs'

    begin = time.time()
    whole = answer_of(start_local(folder / 'whole.yaml', runs, cloud))
    seconds = time.time() - begin
    assert whole['state'] == 'done', whole

    killed_at = []
    for name in names:
        while not (local_run(runs, name) / 'done.json').exists():
            process = start_local(folder / f'{name}.yaml', runs, cloud)
            if len(killed_at) == kills:
                assert answer_of(process)['state'] in ('done', 'skipped')
                continue

            by_time = len(killed_at) % 2 == 1
            random_moment(rng, process, lambda n=name: local_run(runs, n), seconds, by_time)
            if process.poll() is None:
                kill_group(process)
                killed_at.append(history_lines(local_run(runs, name)))
            else:
                process.communicate()
        if len(killed_at) == kills:
            break
    used = [name for name in names if local_run(runs, name).exists()]
    for name in used:
        assert artefacts(local_run(runs, name)) == artefacts(local_run(runs, 'whole')), name
    print(f'{recipe}: {len(killed_at)} kills, {len(used)} runs, lines at each: {killed_at}')
