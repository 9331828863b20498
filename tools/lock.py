"""Write requirements.lock and requirements-cuda.lock, with the hashes of all platforms' files.

What pyproject.toml asks for is resolved anew. Versions that are locked stay; `--upgrade` takes
the newest. Options go to `uv pip compile`.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote
from urllib.request import urlopen

from install import CPU_INDEX, CUDA_LOCK, LOCK, ROOT, read_entries

EXTRAS = ('dev', 'docs', 'irds', 'mteb', 'pyterrier', 'crate')
OLDEST_PYTHON = '3.11'
# torch's CPU builds for Linux are on an index of their own.
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


def cpu_builds(version: str) -> list:  # [hash, file name]
    "Return torch's CPU builds for Linux, those on record or those that their index lists."
    known = TORCH_CPU.read_text().splitlines() if TORCH_CPU.exists() else []
    lines = [line.split() for line in known]
    if lines and all(f'-{version}+cpu-' in name for _, name in lines):
        return lines
    try:
        with urlopen(f'{CPU_INDEX}/torch/', timeout=60) as answer:
            page = unquote(answer.read().decode())
    except OSError as error:
        sys.exit(f'{CPU_INDEX}: {error}; the hashes of torch {version} are there, so try later')
    pattern = (
        rf'/(torch-{re.escape(version)}\+cpu-[^/]*manylinux[^/]*\.whl)#sha256=([0-9a-f]{{64}})'
    )
    builds = {(digest, name) for name, digest in re.findall(pattern, page)}
    if not builds:
        sys.exit(f'{CPU_INDEX}: no CPU build of torch {version}')
    return sorted(builds, key=lambda build: build[1])


def with_cpu_hashes(entry: str) -> str:
    "Return torch's entry with the hashes of its CPU builds; put those on record."
    builds = cpu_builds(entry.split()[0].removeprefix('torch=='))
    TORCH_CPU.write_text(''.join(f'{digest}  {name}\n' for digest, name in builds))
    pin, *files = [line.strip(' \\') for line in entry.splitlines()]
    hashes = {*files, *(f'--hash=sha256:{digest}' for digest, _ in builds)}
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
