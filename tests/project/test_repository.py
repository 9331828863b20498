"""The repository agrees with its notebooks, and its tools work on them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
from conftest import ROOT
from jupyterlab import ask, jupyterlab

BIN = Path(sys.executable).parent


def test_nbdev_clean_keeps_the_tag_of_parameters(tmp_path):
    copy = tmp_path / 'train.ipynb'
    shutil.copy(ROOT / 'nbs/experiments/train.ipynb', copy)
    command = [BIN / 'nbdev_clean', '--fname', copy]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    cells = json.loads(copy.read_text())['cells']
    assert any('parameters' in cell['metadata'].get('tags', []) for cell in cells)


def test_the_library_is_what_the_notebooks_export(tmp_path):
    """`nbdev_export` on a copy gives the committed library, byte for byte."""
    for name in ('nbs', 'reproduce_kit'):
        ignored = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ('settings.ini', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([BIN / 'nbdev_export'], cwd=tmp_path, check=True, capture_output=True)
    for exported in (tmp_path / 'reproduce_kit').rglob('*.py'):
        committed = ROOT / exported.relative_to(tmp_path)
        message = f'{committed.name}: run nbdev_export and commit'
        assert committed.exists() and exported.read_text() == committed.read_text(), message


def test_the_readme_is_rendered_from_its_page():
    command = [sys.executable, 'tools/readme.py', '--check']
    p = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text().split()) <= 900


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r'\]\(([^)#]+)\)', (ROOT / 'README.md').read_text())
    local = [link for link in links if not link.startswith('http')]
    missing = [link for link in local if not (ROOT / link).exists()]
    assert local and not missing


def test_no_folder_of_one_machine_is_named():
    """Neither this clone's own folder, nor one beside it, nor a home."""
    patterns = [r'\.\./shared', re.escape(str(ROOT)), r'/root/\.', r'/home/[a-z]']
    command = ['git', 'grep', '-lE', '|'.join(patterns), '--', 'nbs', 'tests', 'tools']
    p = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert [name for name in p.stdout.split() if not name.endswith('test_repository.py')] == []


def test_the_kernel_is_this_environment(tmp_path):
    """papermill and JupyterLab both start `python3`: it must be the interpreter with the kit."""
    cell = nbformat.v4.new_code_cell('import sys, reproduce_kit; sys.prefix')
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / 'a.ipynb')
    paths = [str(tmp_path / name) for name in ('a.ipynb', 'b.ipynb')]
    executed = papermill.execute_notebook(*paths, kernel_name='python3', progress_bar=False)
    assert sys.prefix in executed.cells[0].outputs[0]['data']['text/plain']


def test_make_lab_opens_a_page_that_is_there():
    p = subprocess.run(['make', '-n', 'lab'], cwd=ROOT, capture_output=True, text=True)
    page = re.search(r'default_url=/lab/tree/(\S+\.ipynb) nbs', p.stdout)
    assert page and (ROOT / 'nbs' / page[1]).exists(), p.stdout


def test_jupyterlab_serves_the_notebooks_with_this_kernel(tmp_path):
    with jupyterlab(ROOT / 'nbs', tmp_path) as address:
        names = {entry['name'] for entry in ask(address, '/api/contents')['content']}
        assert {'index.ipynb', 'training', 'experiments'} <= names
        assert 'python3' in ask(address, '/api/kernelspecs')['kernelspecs']
