"""Tutorials open in Colab and in a container, and their list is complete."""

import json
import re

import pytest
from conftest import ROOT
from nbdev.config import get_config

FOLDER = ROOT / 'nbs/tutorials'
INDEX = FOLDER / 'index.ipynb'
TUTORIALS = sorted(path for path in FOLDER.glob('*.ipynb') if path != INDEX)


def sources(path) -> list:
    return [''.join(cell['source']) for cell in json.loads(path.read_text())['cells']]


def name(path) -> str:
    return path.stem


def repository() -> str:
    config = get_config(path=ROOT)
    return f'{config.user}/{config.repo}'


def test_the_list_has_every_tutorial_once():
    linked = re.findall(r'\]\((\w+)\.ipynb\)', '\n'.join(sources(INDEX)))
    assert sorted(linked) == [name(path) for path in TUTORIALS]


def test_the_list_says_one_sentence_about_each_tutorial():
    lines = [line for line in '\n'.join(sources(INDEX)).splitlines() if line.startswith('- ')]
    assert len(lines) == len(TUTORIALS)
    for line in lines:
        assert re.fullmatch(r'- \[[^\]]+\]\(\w+\.ipynb\): [^.]+\.', line), line


@pytest.mark.parametrize('path', TUTORIALS, ids=name)
def test_a_tutorial_opens_in_colab_by_its_badge(path):
    title, badge, *_ = sources(path)
    assert title.startswith('# ') and '\n> ' in title
    page = path.relative_to(ROOT)
    address = f'https://colab.research.google.com/github/{repository()}/blob/main/{page}'
    assert badge == f'[![Open in Colab](colab.svg)]({address})'
    assert (FOLDER / 'colab.svg').exists()


@pytest.mark.parametrize('path', TUTORIALS, ids=name)
def test_the_first_code_of_a_tutorial_installs_the_kit_in_colab_only(path):
    setup = sources(path)[2]
    assert setup == sources(TUTORIALS[0])[2]
    assert setup.startswith('#| hide') and "if 'google.colab' in sys.modules:" in setup
    assert f'https://github.com/{repository()}\n' in setup
    first_code = next(text for text in sources(path)[1:] if 'import' in text)
    assert first_code == setup


def test_the_container_makes_the_environment_that_it_opens_pages_with():
    container = json.loads((ROOT / '.devcontainer/devcontainer.json').read_text())
    command, target = container['postCreateCommand'].split()
    assert command == 'make' and target == '.venv/.ready'
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / 'pyproject.toml').read_text())[1]
    assert container['image'].endswith(f'python:{oldest}')
    editor = container['customizations']['vscode']
    assert 'ms-toolsai.jupyter' in editor['extensions']
    assert editor['settings']['python.defaultInterpreterPath'].endswith('/.venv/bin/python')
