"""Tests write to one temporary folder, which is removed when all is well.

The caches of collections and candidates are shared with the clone."""

import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get('KIT_DATA') or ROOT / 'data').resolve()
IS_WORKER = 'PYTEST_XDIST_WORKER' in os.environ
# They take minutes. Started first, so that no worker is left alone with one of them.
LONGEST = (
    'test_local.py',
    'test_own_study.py',
    'test_modal.py',
    'test_released_study.py',
)
PAGES = 'test_notebooks.py'
BASE = os.environ['TMPDIR'] if IS_WORKER else tempfile.mkdtemp(prefix='kit-')


def set_environment():
    """For workers, notebooks and commands too; before anything imports torch or triton."""
    os.environ['TMPDIR'] = tempfile.tempdir = BASE
    os.environ['KIT_DATA'] = str(DATA)
    os.environ.setdefault('REPRODUCE_ROOT', str(ROOT))
    for kind in ('runs', 'paper', 'figures'):
        folder = tempfile.mkdtemp(prefix=f'kit-{kind}-')
        os.environ.setdefault(f'REPRODUCE_{kind.upper()}', folder)
    os.environ.setdefault('HF_HUB_OFFLINE', '1')
    os.environ.setdefault('MPLBACKEND', 'agg')
    if not shutil.which('nvidia-smi'):
        os.environ.setdefault('TRITON_INTERPRET', '1')
    # Java runs for about a second: no optimizing compiler, no parallel garbage collection.
    os.environ.setdefault('JAVA_TOOL_OPTIONS', '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC')
    # A small hub, made by the tests that need one.
    os.environ['HF_HUB_CACHE'] = tempfile.mkdtemp(prefix='kit-hub-')
    os.environ['HF_DATASETS_CACHE'] = tempfile.mkdtemp(prefix='kit-datasets-')
    # No account of a real service.
    os.environ['MODAL_CONFIG_PATH'] = '/nowhere'
    for name in ('MODAL_TOKEN_ID', 'MODAL_TOKEN_SECRET', 'MODAL_PROFILE'):
        os.environ.pop(name, None)


set_environment()
sys.modules.setdefault('rfc3987_syntax', None)  # see `import_papermill`


class FilesAndPages(LoadScopeScheduling):
    """Tests of a file run on one worker and share its fixtures; pages on whichever is free."""

    def _split_scope(self, nodeid):
        file = nodeid.split('::')[0]
        return nodeid if file.endswith(PAGES) else file


def pytest_configure():
    """No test cuts the power, so this process need not wait for the disk; commands do."""
    os.fsync = lambda file: None


def pytest_collection_modifyitems(items):
    """The longest files first; last the pages, which are short, so that workers end together."""

    def place(item):
        if PAGES in item.nodeid:
            return len(LONGEST) + 1
        return next((i for i, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST))

    items.sort(key=place)


def pytest_collection_finish():
    """What was imported is no garbage: looking through it takes longer than most tests."""
    gc.freeze()


def pytest_xdist_make_scheduler(config, log):
    return FilesAndPages(config, log)


@pytest.hookimpl(trylast=True)  # once the workers are gone
def pytest_sessionfinish(exitstatus):
    if IS_WORKER or exitstatus:
        return  # after a failure there is something to look at
    for path in Path(BASE).iterdir():
        if path.name.startswith('pymp-'):
            continue  # multiprocessing's own, which it removes itself
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    if not os.listdir(BASE):
        os.rmdir(BASE)


def pytest_terminal_summary(terminalreporter):
    """What the fuzz tests counted, by reader."""
    reports = terminalreporter.stats.get('passed', []) + terminalreporter.stats.get('failed', [])
    counted = [
        value for report in reports for name, value in report.user_properties if name == 'fuzz'
    ]
    for reader, outcomes in counted:
        total = sum(outcomes.values())
        cells = ', '.join(f'{name} {count:,}' for name, count in sorted(outcomes.items()))
        terminalreporter.write_line(f'fuzz: {reader:<18} {total:>6,} files: {cells}')
