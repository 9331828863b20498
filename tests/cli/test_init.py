"""`reproduce init` makes a folder to work in, and replaces nothing there."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from kit import reproduce_here

from reproduce_kit.cli.init import LINKS, shipped_files
from reproduce_kit.config.files import read_configs

sys.path.insert(0, str(ROOT / 'tools'))
from working_folder import listed_files


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('work') / 'my folder äöü'
    p = reproduce_here('init', folder, '--json')
    assert p.returncode == 0, p.stderr
    return folder, json.loads(p.stdout)


def test_a_working_folder_has_what_the_clone_has(made, monkeypatch):
    """Each study with all its runs, and each page that a run or a table executes."""
    folder, answer = made
    identities = {config.identity for config in read_configs([ROOT / 'params'])}
    monkeypatch.setenv('REPRODUCE_ROOT', str(folder))
    assert {config.identity for config in read_configs([folder / 'params'])} == identities
    for pages in ('experiments', 'analysis'):
        names = {path.name for path in (ROOT / 'nbs' / pages).glob('*.ipynb')}
        assert {path.name for path in (folder / 'nbs' / pages).glob('*.ipynb')} == names
    assert answer['kept'] == [] and answer['written'] == len(shipped_files())


def test_every_file_of_git_that_belongs_to_a_study_is_shipped():
    """And nothing that git does not know: no run, no cache, nothing half written."""
    p = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True)
    known = set(p.stdout.splitlines())
    parts = ('params/', 'nbs/experiments/', 'nbs/analysis/', 'nbs/tutorials/', 'paper/')
    wanted = {name for name in known if name.startswith(parts)} - LINKS.keys()
    assert wanted <= shipped_files().keys()
    assert {name for name in shipped_files() if name.startswith('params/')} <= known


def test_the_wheel_and_a_clone_ship_the_same_files():
    assert {name.as_posix() for name in listed_files()} == shipped_files().keys()


def test_files_that_are_there_stay_as_they_are(tmp_path):
    mine = tmp_path / 'params/demo/demo-lion.yaml'
    mine.parent.mkdir(parents=True)
    mine.write_text('mine')
    (tmp_path / 'settings.ini').symlink_to(tmp_path / 'nowhere')
    p = reproduce_here('init', tmp_path)
    assert p.returncode == 0 and 'kept your params/demo/demo-lion.yaml' in p.stdout
    assert 'kept your settings.ini' in p.stdout
    assert mine.read_text() == 'mine' and not (tmp_path / 'nowhere').exists()


def test_a_second_init_adds_what_is_missing_and_says_so(made):
    folder, _ = made
    (folder / 'params/demo/demo-adamw.yaml').unlink()
    p = reproduce_here('init', folder, '--json')
    assert json.loads(p.stdout) == dict(folder=str(folder), written=1, kept=[])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / 'taken').write_text('')
    p = reproduce_here('init', tmp_path / 'taken')
    assert p.returncode == 1 and 'is a file; name a folder' in p.stderr
