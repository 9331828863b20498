"""The wheel, installed outside the clone: a folder to work in, a run there, its report."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from kit import SMOKE, tiny_backbone

LARGEST_WHEEL_MIB = 3
# Every file that a process of the installed kit opens is noted; pages' kernels are processes too.
WATCH = """
import os, sys

def note(event, arguments):
    if event in ('open', 'os.listdir', 'os.scandir') and isinstance(arguments[0], str):
        path = os.path.realpath(arguments[0])
        if path.startswith({clone!r}) and not (path + '/').startswith({libraries!r}):
            os.write(opened, (path + os.linesep).encode())

opened = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sys.addaudithook(note)
"""

pytestmark = pytest.mark.soak


def outside() -> dict:
    """The environment of a process that is told of no clone."""
    told = ('REPRODUCE_', 'PYTHONPATH')
    return {name: value for name, value in os.environ.items() if not name.startswith(told)}


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The wheel and the source distribution; the wheel is made from the latter."""
    clone, folder = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('dist')
    p = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in p.stdout.splitlines():
        if (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name, follow_symlinks=False)
    command = [sys.executable, '-m', 'build', '--no-isolation', '-o', folder, clone]
    p = subprocess.run(command, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-2000:]
    (wheel,), (source,) = folder.glob('*.whl'), folder.glob('*.tar.gz')
    return wheel, source


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
    """A fresh environment with the wheel and this environment's libraries; its programs."""
    folder = tmp_path_factory.mktemp('env')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    pip = [sys.executable, '-m', 'pip', '--python', folder / 'bin/python', 'install', '-q']
    command = [*pip, '--no-deps', '--no-index', built[0]]
    subprocess.run(command, env=outside(), check=True)
    (site,) = folder.glob('lib/python*/site-packages')
    libraries = Path(yaml.__file__).parents[1]
    (site / 'libraries.pth').write_text(f'{libraries}\n')
    watch = WATCH.format(clone=f'{ROOT}/', libraries=f'{libraries}/', log=str(folder / 'opened'))
    (site / 'sitecustomize.py').write_text(watch)
    return folder


@pytest.fixture(scope='module')
def command(installed, tmp_path_factory):
    """`reproduce` of that environment, in an empty folder."""
    folder = tmp_path_factory.mktemp('work')

    def run(*words):
        return subprocess.run(
            [installed / 'bin/reproduce', *words],
            cwd=folder,
            env=outside() | dict(PATH=f'{installed}/bin:{os.environ["PATH"]}'),
            capture_output=True,
            text=True,
        )

    run.folder = folder
    return run


def test_the_wheel_is_small_and_has_no_file_of_tests_or_tools_but_the_installer(built):
    wheel, _ = built
    assert wheel.stat().st_size <= LARGEST_WHEEL_MIB * 2**20
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split('/')[0] for name in names} <= {
        'reproduce_kit',
        wheel.name[:19] + '.dist-info',
    }
    copies = {n.split('/', 2)[2] for n in names if n.startswith('reproduce_kit/working_folder/')}
    assert {name for name in copies if name.startswith('tools/')} == {'tools/install.py'}
    assert not [name for name in names if 'tests/' in name or '/runs/' in name]


def test_the_source_distribution_has_what_builds_the_wheel_and_no_more_of_the_machine(built):
    with tarfile.open(built[1]) as archive:
        names = archive.getnames()
    inside = {name.split('/', 1)[1] for name in names if '/' in name}
    assert {'tools/working_folder.py', 'settings.ini', 'requirements.lock'} <= inside
    assert not [name for name in inside if name.startswith(('.git', 'runs', 'cache', '.venv'))]


def test_an_empty_folder_is_no_working_folder_and_the_message_says_how_to_make_one(command):
    p = command('list')
    assert p.returncode == 1 and '`reproduce init my-folder`' in p.stderr


def test_a_study_is_run_and_reported_without_the_clone(command, installed):
    assert command('init').returncode == 0
    study = command.folder / 'params/smoke'
    settings = SMOKE | dict(name='released', epochs=1) | tiny_backbone()
    (study / 'released.yaml').write_text(yaml.safe_dump(settings, sort_keys=False))
    p = command('run', 'params/smoke/released.yaml')
    assert p.returncode == 0, p.stdout + p.stderr
    p = command('report', 'smoke')
    assert p.returncode == 0, p.stdout + p.stderr
    report = (command.folder / 'runs/smoke/report.html').read_text()
    assert 'released' in report and str(ROOT) not in report
    p = command('tables', '--study', 'smoke')
    assert p.returncode == 0, p.stdout + p.stderr
    p = command('why', 'paper/tables/table1.tex')
    assert p.returncode == 0, p.stdout + p.stderr
    opened = (installed / 'opened').read_text().splitlines()
    assert opened == [], sorted(set(opened))[:20]


def test_a_run_names_the_version_of_the_kit_and_no_commit(command):
    (manifest,) = command.folder.glob('runs/smoke/*/*/manifest.json')
    written = yaml.safe_load(manifest.read_text())
    assert written['git'] == dict(commit=None, dirty=None)
    assert written['packages']['reproduce-kit']


def test_the_watch_sees_a_file_of_the_clone(installed):
    """The proof above would not hold if it saw nothing."""
    code = f'open({str(ROOT / "settings.ini")!r})'
    subprocess.run([installed / 'bin/python', '-c', code], check=True, cwd='/', env=outside())
    assert (installed / 'opened').read_text().splitlines()[-1] == str(ROOT / 'settings.ini')
