"""Every notebook runs top to bottom from a clean kernel, and the repository agrees with its notebooks."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

NOTEBOOKS = sorted(
    p
    for p in (ROOT / 'nbs').rglob('*.ipynb')
    if '.ipynb_checkpoints' not in p.parts and 'Untitled' not in p.name
)
BIN = Path(sys.executable).parent


def cells(path):
    return json.loads(path.read_text())['cells']


@pytest.fixture(scope='module')
def forks():
    """Fresh processes that have the large libraries imported already, which is half the time of a short notebook."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(
        [
            'torch',
            'transformers',
            'sentence_transformers',
            'datasets',
            'pandas',
            'scipy.stats',
            'matplotlib.pyplot',
            'nbdev.test',
        ]
    )
    return context


def nbdev_test(path, log):
    """What the command of that name does with one notebook, in this process."""
    os.chdir(ROOT)
    out = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    from nbdev.config import get_config
    from nbdev.test import test_nb

    ok, _ = test_nb(
        path, skip_flags=get_config().tst_flags.split(), basepath=get_config().config_path
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if ok else 1)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, forks, tmp_path):
    p = forks.Process(target=nbdev_test, args=(path, str(tmp_path / 'log')))
    p.start()
    p.join()
    assert p.exitcode == 0, (tmp_path / 'log').read_text()[-6000:]


@pytest.mark.parametrize(
    'path',
    [p for p in NOTEBOOKS if p.parent.name in ('experiments', 'analysis')],
    ids=lambda p: p.stem,
)
def test_parameters_cell(path):
    """nbdev_clean strips cell tags by default, and papermill then runs the defaults and exits 0."""
    tagged = [c for c in cells(path) if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1
    assert not any('default_exp' in ''.join(c['source']) for c in cells(path))


def test_nbdev_clean_keeps_the_tag(tmp_path):
    copy = tmp_path / 'train.ipynb'
    copy.write_text((ROOT / 'nbs/experiments/train.ipynb').read_text())
    subprocess.run(
        [BIN / 'nbdev_clean', '--fname', copy], cwd=ROOT, check=True, capture_output=True
    )
    assert any('parameters' in c['metadata'].get('tags', []) for c in cells(copy))


def test_library_is_what_the_notebooks_export(tmp_path):
    """`nbdev_export` on a copy gives the committed library, byte for byte."""
    import shutil

    for name in ('nbs', 'reproduce_kit', 'settings.ini', 'pyproject.toml', 'README.md'):
        src = ROOT / name
        shutil.copytree(
            src, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__')
        ) if src.is_dir() else shutil.copy(src, tmp_path / name)
    subprocess.run([BIN / 'nbdev_export'], cwd=tmp_path, check=True, capture_output=True)
    for made in (tmp_path / 'reproduce_kit').rglob('*.py'):
        assert made.read_text() == (ROOT / made.relative_to(tmp_path)).read_text(), (
            f'{made.name}: run nbdev_export and commit'
        )


def test_readme_is_rendered():
    p = subprocess.run(
        [sys.executable, 'tools/readme.py', '--check'], cwd=ROOT, capture_output=True, text=True
    )
    assert p.returncode == 0, p.stderr


def test_kernel_is_this_environment(tmp_path):
    """papermill and JupyterLab both start `python3`: it must be the interpreter that has the kit."""
    import nbformat
    import papermill

    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell('import sys, reproduce_kit; sys.prefix')]
    )
    nbformat.write(nb, tmp_path / 'a.ipynb')
    out = papermill.execute_notebook(
        str(tmp_path / 'a.ipynb'),
        str(tmp_path / 'b.ipynb'),
        kernel_name='python3',
        progress_bar=False,
    )
    assert sys.prefix in out.cells[0].outputs[0]['data']['text/plain']


def test_jupyterlab_serves_the_notebooks(tmp_path):
    """`make lab`'s server, for real: it lists the pages and offers this environment's kernel."""
    import os
    import time
    import urllib.request

    env = os.environ | dict(
        JUPYTER_CONFIG_DIR=str(tmp_path / 'c'),
        JUPYTER_RUNTIME_DIR=str(tmp_path / 'r'),
        JUPYTER_DATA_DIR=str(tmp_path / 'd'),
    )
    log = open(tmp_path / 'log', 'w+')
    p = subprocess.Popen(
        [
            BIN / 'jupyter',
            'lab',
            '--no-browser',
            '--allow-root',
            '--ip=127.0.0.1',
            '--port=0',
            '--IdentityProvider.token=t',
            'nbs',
        ],
        cwd=ROOT,
        env=env,
        stdout=log,
        stderr=log,
    )
    try:
        deadline, url = time.time() + 90, None
        while time.time() < deadline and not url:
            time.sleep(0.5)
            url = re.search(r'(http://127\.0\.0\.1:\d+)/lab', (tmp_path / 'log').read_text())
        assert url, (tmp_path / 'log').read_text()[-2000:]
        get = lambda path: json.load(
            urllib.request.urlopen(
                urllib.request.Request(url[1] + path, headers={'Authorization': 'token t'}),
                timeout=30,
            )
        )
        assert {'index.ipynb', 'training', 'experiments'} <= {
            f['name'] for f in get('/api/contents')['content']
        }
        assert 'python3' in get('/api/kernelspecs')['kernelspecs']
    finally:
        p.terminate()
        p.wait(30)
