"""What the tests on Modal share.

The stand-in with a small hub, small configs, and waiting for runs."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml
from conftest import ROOT
from loopback import TOKEN, Modal
from tiny import hub, recipes, shrink

from reproduce_kit.store.progress import read_progress

RECIPES = recipes('as-run')
HUB, CACHE, RUNS = 'reproduce-kit-hub', 'reproduce-kit-cache', 'reproduce-kit-runs'
BIN = Path(sys.executable).parent


@contextlib.contextmanager
def environ(**changes):
    """Set environment variables for a block."""
    before = {key: os.environ.get(key) for key in changes}
    os.environ |= {key: str(value) for key, value in changes.items()}
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextlib.contextmanager
def modal_with_hub(folder: Path):
    """A stand-in for Modal whose volumes hold a small hub."""
    modal = Modal(folder, env=dict(REPRODUCE_BEAT='1', HF_HUB_OFFLINE='1'))
    with environ(
        HF_HUB_CACHE=modal.volume(HUB),
        REPRODUCE_CACHE=modal.volume(CACHE),
        HF_DATASETS_CACHE=modal.volume(CACHE) / 'datasets',
    ):
        hub(small('as-run/minilm-lion', 'hub'))
    try:
        yield modal
    finally:
        modal.close()


def small(recipe: str, name: str, **changes):
    """A config of the paper's at toy size, for a machine with a GPU."""
    machine = dict(gpu='A100-80GB', gpu_fallbacks=['H100'], cpus=1, ram_gib=1)
    size = dict(test_sets=['mini', 'qa'], save_steps=1)
    settings = dict(name=name, recipe='as-run') | size | machine | changes
    return shrink(RECIPES[recipe], **settings)


def slow(recipe: str, name: str, **changes):
    """A config with 90 updates, long enough to do something meanwhile."""
    batches = dict(train_pairs=120, global_batch=4, device_batch=4)
    return small(recipe, name, **batches | changes)


def write_configs(folder: Path, *configs) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for cfg in configs:
        text = yaml.safe_dump(cfg.model_dump(), sort_keys=False)
        (folder / f'{cfg.name}.yaml').write_text(text)
    return folder


def client_env(cloud, home: Path, **more) -> dict:
    """The variables of a client that is logged in; `home` is its run store."""
    return dict(
        MODAL_SERVER_URL=cloud.url,
        MODAL_TOKEN_ID=TOKEN,
        MODAL_TOKEN_SECRET='as-good',
        MODAL_CONFIG_PATH='/nowhere',
        REPRODUCE_BEAT='1',
        REPRODUCE_RUNS=str(home),
        REPRODUCE_CACHE=str(home / 'cache'),
        **more,
    )


def start_client(*arguments, env: dict) -> subprocess.Popen:
    """`reproduce run` on Modal, in the background."""
    return subprocess.Popen(
        [BIN / 'reproduce', 'run', *arguments, '--on', 'modal', '--yes'],
        env=os.environ | env,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait(is_over, seconds=400):
    end = time.time() + seconds
    while not is_over():
        assert time.time() < end, 'waited in vain'
        time.sleep(0.3)


def stored(cloud, name: str) -> Path:
    """The folder of a run on the volume."""
    folders = list(cloud.volume(RUNS).glob(f'tiny/as-run/{name}-*'))
    return folders[0] if folders else cloud.volume(RUNS) / 'none'


def has_reached(cloud, name: str, step: int):
    """A function that tells whether `step` updates of a run are committed."""

    def is_reached():
        return read_progress(stored(cloud, name)).updates_done >= step

    return is_reached


def has_ended(cloud, name: str) -> bool:
    return any((stored(cloud, name) / f'{end}.json').exists() for end in ('done', 'failed'))


def training_calls(cloud) -> dict:
    """{config's name: its calls}."""
    calls = {}
    for call in list(cloud.calls.values()):
        if cloud.config_name(call):
            calls.setdefault(cloud.config_name(call), []).append(call)
    return calls


def artefacts(folder: Path) -> list:
    """What must not differ between an interrupted run and an undisturbed one."""
    weights = [f'epoch-{n}/model/model.safetensors' for n in (1, 2, 3)]
    return [(folder / name).read_bytes() for name in ('history.jsonl', *weights)]
