"""Install what requirements.lock names into this Python; pip checks each file's hash.

python tools/install.py                     all of it; on Linux with torch's build for this machine
TORCH=cpu (or cuda) python tools/install.py         with that build of torch
python tools/install.py PACKAGE...          some packages of the locks, without what they need
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / 'requirements.lock'
CUDA_LOCK = ROOT / 'requirements-cuda.lock'
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
ONE_SHORT_TRY = ('--retries', '0', '--timeout', '15')


def read_entries(lock: Path) -> dict:  # {package: its lines}
    "Read a lock: a pin and its hashes for each package."
    entries = re.findall(r'^(\S+?)==(.*\n(?: +.*\n)*)', lock.read_text(), flags=re.MULTILINE)
    return {name: f'{name}=={rest}' for name, rest in entries}


def pip_install(*arguments, quiet: bool = False) -> bool:
    "Install what is listed and nothing else, by its hash; return whether that succeeded."
    command = [sys.executable, '-m', 'pip', 'install', '-q', '--require-hashes', '--no-deps']
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=quiet).returncode == 0


def install_entries(entries: list, *options, quiet: bool = False) -> bool:
    "Install entries of a lock; return whether that succeeded."
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'requirements.txt'
        file.write_text(''.join(entries))
        return pip_install(*options, '-r', file, quiet=quiet)


def sees_gpu() -> bool:
    "Whether this machine has an NVIDIA GPU and its driver."
    return Path('/proc/driver/nvidia/version').exists() or bool(shutil.which('nvidia-smi'))


def install_torch_for_cpu(entry: str) -> bool:
    "Install torch's CPU build, from any index that has it; return whether one has."
    exact = re.sub(r'==(\S+)', r'==\1+cpu', entry, count=1)
    from_its_index = ('--index-url', CPU_INDEX, *ONE_SHORT_TRY)
    return any(install_entries([exact], *index, quiet=True) for index in ((), from_its_index))


def choose_locks(torch: str) -> list:
    "Install torch's CPU build where it is wanted; return the locks to install."
    build = os.environ.get('TORCH') or ('cuda' if sees_gpu() else 'cpu')
    if build not in ('cpu', 'cuda'):
        sys.exit(f'TORCH={build}: unknown build of torch; say cpu or cuda')
    if sys.platform != 'linux':
        return [LOCK]  # PyPI's build is the one for this system
    if build == 'cpu' and install_torch_for_cpu(torch):
        return [LOCK]
    if build == 'cpu':
        print(f"torch's CPU build is not to be had from here ({CPU_INDEX}); with CUDA (3 GB)")
    return [LOCK, CUDA_LOCK]


def install_all():
    "Install the locks. Packages without wheels are built with the lock's setuptools."
    entries = read_entries(LOCK)
    locks = choose_locks(entries['torch'])
    files = [word for lock in locks for word in ('-r', lock)]
    return install_entries([entries['setuptools']]) and pip_install('--no-build-isolation', *files)


def main(packages: list):
    if not packages:
        sys.exit(not install_all())
    entries = read_entries(LOCK) | read_entries(CUDA_LOCK)
    sys.exit(not install_entries([entries[package] for package in packages]))


if __name__ == '__main__':
    main(sys.argv[1:])
