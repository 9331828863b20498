"""Write requirements.lock and requirements-cuda.lock from pyproject.toml, with the hashes of all platforms' files.

Versions that are locked stay; `--upgrade` takes the newest. Options go to `uv pip compile`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from install import CUDA_LOCK, LOCK, ROOT, read_entries

EXTRAS = ('dev', 'docs', 'irds', 'mteb', 'pyterrier', 'crate')
OLDEST_PYTHON = '3.11'
# torch's CPU builds for Linux are on an index of their own (download.pytorch.org/whl/cpu).
TORCH_CPU = ROOT / 'tools/torch_cpu.sha256'
HEAD = """\
# Written by `make lock` from pyproject.toml: every version the kit was tried with, and the
# hashes of its files for all platforms. `make` installs it (tools/install.py).
"""
CUDA_HEAD = """\
# Written by `make lock`: what torch's CUDA build for Linux needs on top of requirements.lock.
"""


def resolve(options: list) -> dict:  # {package: its lines}
    "Ask uv for versions that go together on every platform; those of the locks are preferred."
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / 'requirements.lock'
        answer.write_text(''.join(path.read_text() for path in (LOCK, CUDA_LOCK) if path.exists()))
        command = ['uv', 'pip', 'compile', '-q', '--no-config', 'pyproject.toml', '-o', answer]
        command += ['--universal', '--python-version', OLDEST_PYTHON, '--generate-hashes']
        command += ['--no-annotate', '--no-header', '--no-emit-index-url', *options]
        command += [word for extra in EXTRAS for word in ('--extra', extra)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return read_entries(answer)


def needs_cuda(package: str) -> bool:
    "Whether only torch's CUDA build needs a package."
    is_cuda = package.startswith(('nvidia-', 'cuda-')) and package != 'nvidia-ml-py'
    return is_cuda or package == 'triton'


def with_cpu_hashes(entry: str) -> str:
    "Return torch's entry with the hashes of its CPU builds."
    version = entry.split()[0].removeprefix('torch==')
    lines = [line.split() for line in TORCH_CPU.read_text().splitlines()]
    if any(f'-{version}+cpu-' not in name for _, name in lines):
        sys.exit(
            f'{TORCH_CPU.name} is not of torch {version}; take its lines for Linux '
            'from https://download.pytorch.org/whl/cpu/torch/'
        )
    pin, *files = [line.strip(' \\') for line in entry.splitlines()]
    hashes = {*files, *(f'--hash=sha256:{digest}' for digest, _ in lines)}
    return ' \\\n    '.join([pin, *sorted(hashes)]) + '\n'


def main():
    entries = resolve(sys.argv[1:])
    cuda = {name: entry for name, entry in entries.items() if needs_cuda(name)}
    main = {name: entry for name, entry in entries.items() if name not in cuda}
    main['torch'] = with_cpu_hashes(main['torch'])
    LOCK.write_text(HEAD + ''.join(main.values()))
    CUDA_LOCK.write_text(CUDA_HEAD + ''.join(cuda.values()))
    print(f'{len(main)} packages, and {len(cuda)} for CUDA')


if __name__ == '__main__':
    main()
