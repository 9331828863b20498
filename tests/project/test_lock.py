"""The lock is whole, its files are known by their hashes, and pip installs nothing else."""

import functools
import http.server
import re
import subprocess
import sys
import threading
import tomllib
import zipfile
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, requires, version

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reproduce_kit.store.lock import locked_packages

sys.path.insert(0, str(ROOT / 'tools'))
import install
import lock

PYTHONS = ('3.11', '3.12', '3.13')
MACHINES = {
    'linux-x86_64': dict(sys_platform='linux', platform_system='Linux', platform_machine='x86_64'),
    'linux-aarch64': dict(
        sys_platform='linux', platform_system='Linux', platform_machine='aarch64'
    ),
    'macos-arm64': dict(sys_platform='darwin', platform_system='Darwin', platform_machine='arm64'),
    'windows': dict(sys_platform='win32', platform_system='Windows', platform_machine='AMD64'),
}
SUPPORTED = [(python, machine) for python in PYTHONS for machine in MACHINES]
THIS_PYTHON = f'{sys.version_info.major}.{sys.version_info.minor}'
HASH = re.compile(r'--hash=sha256:[0-9a-f]{64}')


def environment_of(python: str, machine: str) -> dict:
    """What markers ask for."""
    posix = 'nt' if machine == 'windows' else 'posix'
    versions = dict(python_version=python, python_full_version=f'{python}.1')
    return MACHINES[machine] | versions | dict(os_name=posix, implementation_name='cpython')


def direct_requirements() -> list:
    """Those of pyproject.toml, and of its extras that are locked."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = [project['optional-dependencies'][extra] for extra in lock.EXTRAS]
    return [Requirement(line) for line in sum(extras, project['dependencies'])]


@functools.cache
def asked_by(package: str) -> list:
    return [Requirement(line) for line in requires(package) or []]


def needs_of(package: str, extras: set, environment: dict) -> list:
    """What an installed package asks for on some machine."""
    environments = [environment | dict(extra=extra) for extra in ('', *extras)]
    return [
        need
        for need in asked_by(package)
        if not need.marker or any(need.marker.evaluate(each) for each in environments)
    ]


def pins_of(environment: dict) -> dict:
    """{package: version} of the lock, and of CUDA's where the installed torch asks for it."""
    pins = locked_packages(environment)
    if environment['sys_platform'] == 'linux' and not version('torch').endswith('+cpu'):
        cuda = install.read_entries(install.CUDA_LOCK)
        pins |= {name: re.split('==|[ ;]', entry)[1] for name, entry in cuda.items()}
    return {canonicalize_name(name): pin for name, pin in pins.items()}


# Whole


@pytest.mark.parametrize(('python', 'machine'), SUPPORTED)
def test_the_lock_has_all_that_its_packages_ask_for(python, machine):
    """pip resolves nothing: what is not in the lock would be missing at the first import."""
    environment = environment_of(python, machine)
    pins = pins_of(environment)
    seen, waiting = set(), direct_requirements()
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if (name, *sorted(need.extras)) in seen:
            continue
        seen.add((name, *sorted(need.extras)))
        assert name in pins, f'{need} is not locked'
        assert need.specifier.contains(pins[name], prereleases=True), f'{need}: {pins[name]}'
        try:
            waiting += needs_of(name, need.extras, environment)
        except PackageNotFoundError:  # of another system; uv has resolved what it needs
            assert machine in ('macos-arm64', 'windows') or python != THIS_PYTHON, name
    assert len(seen) > 250


def test_a_package_is_pinned_once():
    """Who reads a lock by packages would see one of two versions."""
    for file in (install.LOCK, install.CUDA_LOCK):
        pinned = re.findall(r'^([\w.-]+)==', file.read_text(), flags=re.MULTILINE)
        assert len(pinned) == len(set(pinned)) == len(install.read_entries(file))


def test_this_environment_is_the_locked_one():
    for package, pinned in locked_packages().items():
        assert version(package).split('+')[0] == pinned, package


# Known by hash


@pytest.mark.parametrize('path', [install.LOCK, install.CUDA_LOCK], ids=lambda path: path.name)
def test_a_lock_has_pins_and_hashes_and_no_place(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith('#')]
    assert not [line for line in lines if '://' in line or line.startswith('-') or ' @ ' in line]
    entries = install.read_entries(path)
    assert sum(entry.count('\n') for entry in entries.values()) == len(lines)
    for name, entry in entries.items():
        pin, *hashes = entry.splitlines()
        assert re.match(r'[\w.-]+==\S+ ', pin), pin
        assert hashes and all(HASH.fullmatch(line.strip(' \\')) for line in hashes), name


def test_the_locks_do_not_overlap_and_cuda_is_for_linux():
    cuda = install.read_entries(install.CUDA_LOCK)
    assert not cuda.keys() & install.read_entries(install.LOCK).keys()
    assert all("sys_platform == 'linux'" in entry for entry in cuda.values())
    assert 'triton' in cuda and any(name.startswith('nvidia-cudnn') for name in cuda)


def test_torch_for_cpu_is_known_for_each_python_on_linux():
    entry = install.read_entries(install.LOCK)['torch']
    number = locked_packages()['torch']
    files = dict(line.split()[::-1] for line in lock.TORCH_CPU.read_text().splitlines())
    for python in PYTHONS:
        tag = 'cp' + python.replace('.', '')
        for machine in ('x86_64', 'aarch64'):
            name = f'torch-{number}+cpu-{tag}-{tag}-manylinux_2_28_{machine}.whl'
            assert f'--hash=sha256:{files[name]}' in entry, name


class Index(http.server.BaseHTTPRequestHandler):
    """An index with torch 9.9 for two systems."""

    def do_GET(self):
        names = ['torch-9.9%2Bcpu-cp312-cp312-manylinux_2_28_x86_64.whl']
        names += ['torch-9.9%2Bcpu-cp312-cp312-win_amd64.whl', 'torch-9.8%2Bcpu-cp312.whl']
        lines = [f'<a href="/whl/{name}#sha256={n:064x}">x</a>' for n, name in enumerate(names)]
        self.send_response(200 if self.path == '/cpu/torch/' else 404)
        self.end_headers()
        self.wfile.write('\n'.join(lines).encode())

    def log_message(self, *args):
        pass


def test_hashes_of_another_version_of_torch_are_read_from_its_index(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, 'TORCH_CPU', tmp_path / 'torch_cpu.sha256')
    with http.server.HTTPServer(('127.0.0.1', 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(lock, 'CPU_INDEX', f'http://127.0.0.1:{server.server_port}/cpu')
        entry = lock.with_cpu_hashes('torch==9.9 \\\n    --hash=sha256:ab\n')
        with pytest.raises(SystemExit, match=r'no CPU build of torch 9\.7'):
            lock.with_cpu_hashes('torch==9.7 \\\n    --hash=sha256:ab\n')
        server.shutdown()
    hashes = ['0' * 64, 'ab']
    assert entry == ' \\\n    '.join(['torch==9.9', *(f'--hash=sha256:{h}' for h in hashes)]) + '\n'
    assert lock.TORCH_CPU.read_text().endswith(
        'torch-9.9+cpu-cp312-cp312-manylinux_2_28_x86_64.whl\n'
    )


# Installed by hash


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder with one wheel, the only place that pip knows."""
    wheel = tmp_path / 'invented_package-1.2-py3-none-any.whl'
    about = 'invented_package-1.2.dist-info'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('invented_package.py', 'number = 12\n')
        archive.writestr(f'{about}/METADATA', 'Name: invented-package\nVersion: 1.2\n')
        archive.writestr(f'{about}/WHEEL', 'Wheel-Version: 1.0\nTag: py3-none-any\n')
        archive.writestr(f'{about}/RECORD', '')
    monkeypatch.setenv('PIP_CONFIG_FILE', '/dev/null')
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(tmp_path))
    return wheel


def entry_of(digest: str) -> str:
    return f'invented-package==1.2 \\\n    --hash=sha256:{digest}\n'


def test_a_file_is_installed_if_its_hash_is_locked(shelf, tmp_path):
    entry = entry_of(sha256(shelf.read_bytes()).hexdigest())
    assert install.install_entries([entry], '--target', tmp_path / 'site')
    assert (tmp_path / 'site/invented_package.py').exists()


def test_a_file_with_another_hash_is_not_installed(shelf, tmp_path, capfd):
    entry = entry_of(sha256(b'what was published').hexdigest())
    assert not install.install_entries([entry], '--target', tmp_path / 'site')
    assert 'DO NOT MATCH THE HASHES' in capfd.readouterr().err
    assert not (tmp_path / 'site/invented_package.py').exists()


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems have one build of torch')
def test_without_the_cpu_build_cuda_is_installed_and_that_is_said(shelf, monkeypatch, capsys):
    monkeypatch.setenv('TORCH', 'cpu')
    entry = 'torch==9.9 \\\n    --hash=sha256:' + 64 * '0' + '\n'
    assert install.choose_locks(entry) == [install.LOCK, install.CUDA_LOCK]
    assert 'not to be had from here' in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems have one build of torch')
def test_cuda_is_installed_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv('TORCH', 'cuda')
    entry = install.read_entries(install.LOCK)['torch']
    assert install.choose_locks(entry) == [install.LOCK, install.CUDA_LOCK]


def test_an_unknown_build_is_named(monkeypatch):
    monkeypatch.setenv('TORCH', 'rocm')
    with pytest.raises(SystemExit, match='TORCH=rocm: unknown build of torch; say cpu or cuda'):
        install.choose_locks('torch==1 \\\n')


# The workflows


def workflow_of(name: str) -> dict:
    return yaml.safe_load((ROOT / f'.github/workflows/{name}.yml').read_text())


def commands_of(workflow: dict) -> list:
    steps = [step for job in workflow['jobs'].values() for step in job['steps']]
    return [step['run'] for step in steps if 'run' in step]


def test_each_python_is_tried_by_the_workflow():
    matrix = workflow_of('test')['jobs']['test']['strategy']['matrix']
    assert matrix['python'] == list(PYTHONS)


def test_workflows_name_targets_of_make_and_locked_packages():
    targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), flags=re.MULTILINE)
    entries = install.read_entries(install.LOCK)
    workflows = [workflow_of(path.stem) for path in (ROOT / '.github/workflows').glob('*.yml')]
    words = [line.split() for workflow in workflows for line in commands_of(workflow)]
    made = [line[1] for line in words if line[0] == 'make']
    installed = [line[2:] for line in words if line[:2] == ['python', 'tools/install.py']]
    assert {'lock', 'soak', 'docs'} <= set(made) <= set(targets)
    assert installed and set(sum(installed, [])) <= entries.keys()


# Resolved anew, with the index


# What is a source distribution where, so that it is built.
BUILT = {'linux-aarch64': ['pyserini', 'pytrec-eval-terrier']}
UV_NAMES = {
    'linux-x86_64': 'x86_64-manylinux_2_28',
    'linux-aarch64': 'aarch64-manylinux_2_28',
    'macos-arm64': 'aarch64-apple-darwin',
    'windows': 'x86_64-pc-windows-msvc',
}


@pytest.mark.soak
@pytest.mark.parametrize(('python', 'machine'), SUPPORTED)
def test_every_pin_can_be_had_for_each_python_and_system(python, machine, tmp_path, monkeypatch):
    """As wheels, but for what is named above; of macOS, from 14 on."""
    monkeypatch.setenv('MACOSX_DEPLOYMENT_TARGET', '14.0')
    command = ['uv', 'pip', 'compile', '-q', '--no-config', '--no-deps']
    reached = subprocess.run([*command, '-'], input='six', capture_output=True, text=True)
    if reached.returncode:
        pytest.skip('no package index can be reached')
    command += ['--python-version', python, '--python-platform', UV_NAMES[machine]]
    command += ['--only-binary', ':all:', install.LOCK, '-o', tmp_path / 'answer.txt']
    for package in BUILT.get(machine, ['pyserini']):
        command += ['--no-binary', package]
    p = subprocess.run(command, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    names = set(install.read_entries(tmp_path / 'answer.txt'))
    assert names == set(locked_packages(environment_of(python, machine)))
