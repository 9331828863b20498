"""A new study is written whole, and says what the embedded one found."""

import shutil

import pytest
from conftest import ROOT
from kit import reproduce_here

from reproduce_kit.config.endpoint import read_endpoint
from reproduce_kit.config.files import read_config, read_configs
from reproduce_kit.config.study import read_study


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with the embedded study's backbone alone."""
    (tmp_path / 'params/embedded').mkdir(parents=True)
    shutil.copy(ROOT / 'params/embedded/backbones.yaml', tmp_path / 'params/embedded')
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    return tmp_path


def test_its_files_describe_runs_an_endpoint_and_measures(clone):
    p = reproduce_here('new', 'my-study')
    assert p.returncode == 0 and 'next: reproduce run params/my-study' in p.stdout
    configs = read_configs([clone / 'params/my-study'])
    assert [config.optimizer for config in configs] == ['adamw', 'lion']
    assert {config.study for config in configs} == {'my-study'}
    endpoint = read_endpoint('my-study')
    assert endpoint.recipe == configs[0].recipe
    assert endpoint.measure in read_study('my-study').measures


@pytest.mark.parametrize('optimizer', ['adamw', 'lion'])
def test_its_settings_of_an_optimizer_are_those_that_the_embedded_study_tuned(clone, optimizer):
    reproduce_here('new', 'my-study')
    new = read_config(clone / f'params/my-study/{optimizer}.yaml')
    tuned = read_configs([ROOT / f'params/embedded/minilm-l4-{optimizer}.yaml'])[0]
    for key in ('learning_rate', 'weight_decay', 'warmup', 'beta1', 'beta2'):
        assert getattr(new, key) == getattr(tuned, key), key


def test_an_existing_study_is_left_alone(clone):
    reproduce_here('new', 'my-study')
    file = clone / 'params/my-study/adamw.yaml'
    file.write_text('mine')
    p = reproduce_here('new', 'my-study')
    assert p.returncode == 1 and 'nothing was written' in p.stderr
    assert file.read_text() == 'mine'
