"""What a command reads once, and what it notices when it reads again."""

import shutil

import pytest
import yaml
from conftest import ROOT

from reproduce_kit.cli.run import list_rows
from reproduce_kit.config.backbones import BACKBONES, BACKBONES_FILE
from reproduce_kit.config.files import read_configs
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, once, one_reading

TITLE = 'MiniLM-L{layers}'


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A clone with one study, its backbones and a run."""
    study = tmp_path / 'params/mine'
    study.mkdir(parents=True)
    shutil.copy(ROOT / 'settings.ini', tmp_path)
    shutil.copy(ROOT / 'params/embedded' / BACKBONES_FILE, study)
    settings = example_settings(study='mine', name='one')
    (study / 'one.yaml').write_text(yaml.safe_dump(settings, sort_keys=False))
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    return tmp_path


def rename(root, old, new):
    path = root / 'params/mine' / BACKBONES_FILE
    path.write_text(path.read_text().replace(old, new))


def test_a_backbone_that_changes_is_noticed_after_the_reading(root):
    with one_reading():
        before = BACKBONES['minilm-l6-h384'].title
        rename(root, TITLE, 'Renamed')
        assert BACKBONES['minilm-l6-h384'].title == before
    assert BACKBONES['minilm-l6-h384'].title == 'Renamed'


def test_a_list_shows_what_the_files_say_now(root):
    file = root / 'params/mine/one.yaml'
    before = list_rows([file])[0]
    rename(root, TITLE, 'Renamed')
    file.write_text(file.read_text().replace('seed: 12', 'seed: 13'))
    now = list_rows([file])[0]
    assert now.title == 'Renamed'
    assert now.identity != before.identity


def test_a_mistake_in_the_backbones_is_told_once_for_all_runs(root):
    study = root / 'params/mine'
    shutil.copy(study / 'one.yaml', study / 'two.yaml')
    (study / 'two.yaml').write_text((study / 'one.yaml').read_text().replace('one', 'two'))
    rename(root, 'title:', 'titel:')
    with pytest.raises(KitError) as told:
        read_configs([study])
    assert str(told.value).count("unknown key 'titel'") == 1


def test_a_block_within_another_ends_nothing(tmp_path):
    path = tmp_path / 'seed.txt'
    path.write_text('12')

    @once
    def seed():
        return path.read_text()

    with one_reading():
        with one_reading():
            seed()
        path.write_text('13')
        assert seed() == '12'
    assert seed() == '13'
