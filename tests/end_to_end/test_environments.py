"""A study from its file to its report on machines that lack something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from kit import REPRODUCE, SMOKE, reproduce, run_dir, write_yaml

from reproduce_kit.testing.page_clone import LINKED

MEMORY_BYTES = 8 * 2**30
SECONDS = 600
WITHOUT_RIGHTS = ('setpriv', '--bounding-set=-all', '--inh-caps=-all')  # root as anybody else
needs_setpriv = pytest.mark.skipif(
    not shutil.which('setpriv') or os.geteuid() != 0, reason='no setpriv, or not root already'
)


def write_small(folder: Path) -> Path:
    """Write the parameter file of a run on real text with real weights."""
    return write_yaml(folder, 'small', backbone=SMOKE['backbone'])


class Machine:
    """A copy of the clone, and the environment in which its commands are typed."""

    def __init__(self, folder: Path, cache: Path):
        self.clone = folder / 'clone'
        self.outputs = self.clone
        self.prefix, self.environment = (), dict(os.environ)
        for name in (*LINKED, 'params'):
            source, target = ROOT / name, self.clone / name
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            target.parent.mkdir(parents=True, exist_ok=True)
            copy(source, target)
        shutil.copytree(cache, self.clone / 'cache')
        self.file = write_small(self.clone / 'params/smoke')

    def reproduce(self, *words) -> str:
        """Type a command; return what it printed."""
        kinds = ('runs', 'cache', 'paper', 'figures')
        folders = {f'REPRODUCE_{kind.upper()}': str(self.outputs / kind) for kind in kinds}
        folders |= dict(REPRODUCE_ROOT=str(self.clone), PYTHONPATH=str(self.clone))
        process = subprocess.run(
            [*self.prefix, sys.executable, str(REPRODUCE), *map(str, words)],
            cwd=self.clone,
            env=self.environment | folders,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        answer = process.stdout + process.stderr
        assert 'Traceback' not in answer, answer
        assert process.returncode == 0 or words[0] == 'doctor', answer
        return answer

    def shows_its_study(self):
        """Run the study, and make its tables and its report."""
        self.reproduce('run', self.file)
        assert (run_dir(self.outputs / 'runs', 'small') / 'done.json').exists()
        self.reproduce('tables', '--study', 'smoke')
        assert (self.outputs / 'paper/tables/table1.tex').exists()
        self.reproduce('report', 'smoke')
        assert '<html' in (self.outputs / 'runs/smoke/report.html').read_text()


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    """The collection and its first stage, made once."""
    folder = tmp_path_factory.mktemp('cache')
    file = write_small(tmp_path_factory.mktemp('params'))
    process = reproduce('prepare', file, env=dict(REPRODUCE_CACHE=folder))
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture
def machine(tmp_path, cache):
    return Machine(tmp_path, cache)


@pytest.mark.soak
def test_a_path_with_spaces_and_umlauts(tmp_path, cache):
    machine = Machine(tmp_path / 'Größe und Maß (neu)', cache)
    machine.shows_its_study()


@pytest.mark.soak
def test_without_a_home(machine):
    for name in ('HOME', 'USER', 'LOGNAME', 'XDG_CACHE_HOME'):
        machine.environment.pop(name, None)
    machine.shows_its_study()


@pytest.mark.soak
def test_without_latex_compiler_browser_git_and_java_on_the_path(machine, tmp_path):
    nothing = tmp_path / 'bin'
    nothing.mkdir()
    machine.environment['PATH'] = str(nothing)
    machine.environment.pop('JAVA_HOME', None)
    answer = machine.reproduce('doctor')
    assert 'LaTeX' in answer or 'latexmk' in answer
    machine.shows_its_study()


@pytest.mark.soak
@needs_setpriv
def test_a_clone_that_cannot_be_written_and_no_rights(machine, tmp_path):
    machine.outputs = tmp_path / 'own'
    shutil.copytree(machine.clone / 'cache', machine.outputs / 'cache')
    for path in [machine.clone, *machine.clone.rglob('*')]:
        path.chmod(path.stat().st_mode & ~0o222)
    machine.prefix = WITHOUT_RIGHTS
    machine.shows_its_study()


@pytest.mark.soak
def test_one_core_and_eight_gib(machine):
    limit = f'ulimit -d {MEMORY_BYTES // 1024}; exec "$@"'
    machine.prefix = ('taskset', '-c', '0', 'bash', '-c', limit, 'bash')
    machine.shows_its_study()


@pytest.mark.soak
def test_behind_a_proxy_that_does_not_answer(machine):
    proxy = 'http://127.0.0.1:9'
    machine.environment |= dict.fromkeys(('HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'), proxy)
    machine.environment |= dict(http_proxy=proxy, https_proxy=proxy)
    machine.shows_its_study()
