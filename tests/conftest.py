"""Tests write nowhere but to one temporary folder, which is removed when all is well; the caches of collections and candidates are shared."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get('KIT_DATA') or ROOT / 'data').resolve()

WORKER = 'PYTEST_XDIST_WORKER' in os.environ
BASE = os.environ['TMPDIR'] if WORKER else tempfile.mkdtemp(prefix='kit-')
os.environ['TMPDIR'] = tempfile.tempdir = BASE  # for workers, notebooks and commands too
os.environ.setdefault('REPRODUCE_ROOT', str(ROOT))
os.environ.setdefault('REPRODUCE_RUNS', tempfile.mkdtemp(prefix='kit-runs-'))
os.environ.setdefault('REPRODUCE_PAPER', tempfile.mkdtemp(prefix='kit-paper-'))
os.environ.setdefault('REPRODUCE_FIGURES', tempfile.mkdtemp(prefix='kit-figures-'))
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'agg')
if not shutil.which('nvidia-smi'):
    os.environ.setdefault('TRITON_INTERPRET', '1')  # before anything imports triton, and torch may
os.environ['HF_HUB_CACHE'] = tempfile.mkdtemp(
    prefix='kit-hub-'
)  # a small hub, made by the tests that need one
os.environ['HF_DATASETS_CACHE'] = tempfile.mkdtemp(prefix='kit-datasets-')
os.environ['MODAL_CONFIG_PATH'] = '/nowhere'  # nobody's account
for k in ('MODAL_TOKEN_ID', 'MODAL_TOKEN_SECRET', 'MODAL_PROFILE'):
    os.environ.pop(k, None)


@pytest.hookimpl(trylast=True)  # once the workers are gone
def pytest_sessionfinish(exitstatus):
    if WORKER or exitstatus:
        return  # after a failure there is something to look at
    for p in Path(BASE).iterdir():
        if not p.name.startswith('pymp-'):
            shutil.rmtree(
                p, ignore_errors=True
            ) if p.is_dir() else p.unlink()  # those are multiprocessing's, which removes them itself
    if not os.listdir(BASE):
        os.rmdir(BASE)


def pytest_collection_modifyitems(items):
    """Pages run on whichever worker is free; the tests of any other file share their fixtures and stay together."""
    for item in items:
        if item.path.name != 'test_notebooks.py':
            item.add_marker(pytest.mark.xdist_group(item.path.name))
