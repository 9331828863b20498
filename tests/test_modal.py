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
    before = {k: os.environ.get(k) for k in changes}; os.environ |= {k: str(v) for k, v in changes.items()}
    try: yield
    finally:
        for k, v in before.items():
            if v is None: os.environ.pop(k, None)
            else: os.environ[k] = v


def small(key, name, **more):
    return shrink(RECIPES[key], name=name, recipe='as-run', **dict(test_sets=['mini', 'qa'], save_steps=1, gpu='A100-80GB', gpu_fallbacks=['H100'], cpus=1, ram_gib=1) | more)


def write(folder: Path, *configs):
    folder.mkdir(parents=True, exist_ok=True)
    for c in configs: (folder / f'{c.name}.yaml').write_text(yaml.safe_dump(c.model_dump(), sort_keys=False))
    return folder


def cloud_env(cloud, home: Path, **more):
    return dict(MODAL_SERVER_URL=cloud.url, MODAL_TOKEN_ID='ak-good', MODAL_TOKEN_SECRET='as-good', MODAL_CONFIG_PATH='/nowhere', REPRODUCE_BEAT='1', REPRODUCE_RUNS=home, REPRODUCE_CACHE=home / 'cache') | more


def stored(cloud, name) -> Path:
    found = list(cloud.volume(RUNS).glob(f'tiny/as-run/{name}-*')); return found[0] if found else cloud.volume(RUNS) / 'none'


def reached(cloud, name, step):
    """Whether `step` updates of a run are committed."""
    def when():
        try: return json.loads((stored(cloud, name) / 'manifest.json').read_text())['updates']['done'] >= step
        except (OSError, ValueError): return False
    return when


def wait(what, seconds=400):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, 'waited in vain'
        time.sleep(.3)


@pytest.fixture(scope='module')
def cloud(tmp_path_factory):
    it = Modal(tmp_path_factory.mktemp('modal'), env=dict(REPRODUCE_BEAT='1', HF_HUB_OFFLINE='1'))
    with environ(HF_HUB_CACHE=it.volume(HUB), REPRODUCE_CACHE=it.volume(CACHE), HF_DATASETS_CACHE=it.volume(CACHE) / 'datasets'): hub(small('as-run/minilm-lion', 'x'))
    yield it
    it.close()


def test_six_configs(cloud, tmp_path):
    """Six runs at once: one machine is taken away, one vanishes, one runs into its limit, one run fails, and whoever started them is gone."""
    same = {n: small('as-run/minilm-lion', n) for n in ('whole', 'preempted', 'vanished', 'limited')}
    configs = write(tmp_path / 'six', *same.values(), small('as-run/modernbert-adamw', 'other'), small('as-run/gte-adamw', 'fails', attention='flash_attention_2', precision='bf16'))
    home = tmp_path / 'home'; env = cloud_env(cloud, home)
    cloud.faults |= {'preempted': [('preempt', reached(cloud, 'preempted', 3))], 'vanished': [('vanish', reached(cloud, 'vanished', 4))], 'limited': [('timeout', reached(cloud, 'limited', 5))]}
    cloud.secrets['huggingface'] = dict(HF_TOKEN='hf_secretsecretsecret')
    client = subprocess.Popen([Path(sys.executable).parent / 'reproduce', 'run', configs, '--on', 'modal', '--yes', '--secret', 'huggingface', '--max-dollars', '10'], env=os.environ | {k: str(v) for k, v in env.items()}, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait(lambda: any(cloud.name_of(c) for c in cloud.calls.values()), 120)
    client.kill(); said = client.stdout.read(); client.wait()
    assert '6 runs to do' in said and 'dollars' in said and 'watching' in said, said

    wait(lambda: all(list(cloud.volume(RUNS).glob(f'tiny/as-run/{n}-*/{e}.json')) for n, e in [*((n, 'done') for n in (*same, 'other')), ('fails', 'failed')]))
    wait(lambda: all(c.output is not None for c in cloud.calls.values()), 60)
    calls = [c for c in cloud.calls.values() if cloud.name_of(c)]
    assert sorted(cloud.name_of(c) for c in calls) == sorted([*same, 'other', 'fails'])                      # each was started once
    assert {cloud.name_of(c): c.attempts for c in calls} == dict(whole=1, preempted=2, vanished=2, limited=2, other=1, fails=1)
    assert {cloud.name_of(c): c.retry for c in calls}['limited'] == 1

    rows = {r['name']: r for r in json.loads(reproduce('list', configs, '--on', 'modal', '--json', env=env).stdout)}
    assert {n: r['state'] for n, r in rows.items()} == {n: 'done' for n in (*same, 'other')} | {'fails': 'failed'}
    assert all(r['dollars'] > 0 for r in rows.values()) and 'flash' in rows['fails']['message'].lower()
    told = reproduce('logs', configs / 'fails.yaml', env=env).stdout
    assert 'failed' in told and 'Traceback' in told and 'load_backbone' in told                              # with the cell that failed

    # home: hashes, resumption, no weights unless asked
    p = reproduce('fetch', 'tiny', env=env); assert p.returncode == 0 and '6 runs' in p.stdout and 'estimated' in p.stdout, p.stdout + p.stderr
    def here(name): return next(home.glob(f'tiny/as-run/{name}-*'))
    assert not list(home.rglob('*.safetensors')) and not list(home.rglob('.*part'))
    assert all((here(n) / f).exists() for n in same for f in ('done.json', 'train.ipynb', 'epoch-3/perquery.csv', 'epoch-3/mini.run.gz', 'first-stage/metrics.json'))
    (here('whole') / 'history.jsonl').write_text('cut'); (here('other') / 'done.json').unlink()
    again = json.loads(reproduce('fetch', 'tiny', '--json', env=env).stdout)
    assert sorted(re.sub(r'-[0-9a-f]{8}', '', f) for f in again['fetched']) == ['tiny/as-run/other/done.json', 'tiny/as-run/whole/history.jsonl']
    assert reproduce('fetch', 'tiny', '--checkpoints', env=env).returncode == 0

    # what was interrupted equals what was not
    def made(n): return [(here(n) / f).read_bytes() for f in ('history.jsonl', *(f'epoch-{e}/model/model.safetensors' for e in (1, 2, 3)))]
    for n in ('preempted', 'vanished', 'limited'): assert made(n) == made('whole'), n

    # the bill: every attempt's seconds, also of machines that went without a word
    for n in (*same, 'other'):
        m = json.loads((here(n) / 'manifest.json').read_text()); tries = [json.loads(f.read_text()) for f in sorted((here(n) / 'attempts').glob('*.json'))]
        assert len(tries) == m['cost']['attempts'] == (1 if n in ('whole', 'other') else 2)
        assert m['cost']['source'].startswith('estimated: modal_rates.csv') and m['cost']['dollars'] == pytest.approx(sum(t['seconds'] for t in tries) * tries[0]['dollars_per_hour'] / 3600, abs=2e-4)
        assert [t['ended'] for t in tries] == {'preempted': ['stopped', 'done'], 'vanished': [None, 'done'], 'limited': [None, 'done']}.get(n, ['done'])
        assert m['git']['commit'] and len(m['git']['commit']) == 40

    # nothing secret anywhere, and a second run starts nothing
    for f in [*home.rglob('*'), *cloud.folder.glob('tasks/*/log'), *cloud.volume(RUNS).rglob('*')]:
        if f.is_file(): assert b'hf_secretsecretsecret' not in f.read_bytes() and b'as-good' not in f.read_bytes(), f
    before = len(cloud.calls); (configs / 'fails.yaml').unlink()
    p = reproduce('run', configs, '--on', 'modal', '--yes', env=env); assert p.returncode == 0, p.stdout + p.stderr
    assert not any(cloud.name_of(c) for c in list(cloud.calls.values())[before:])
