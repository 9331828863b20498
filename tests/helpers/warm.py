"""Processes that start with everything imported: half the time of a command or a page.

They are forks of a server that has done nothing but import."""

import functools
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from conftest import ROOT

LIBRARIES = [
    'torch',
    'transformers',
    'sentence_transformers',
    'datasets',
    'pandas',
    'scipy.stats',
    'matplotlib.pyplot',
    'papermill',
    'nbdev.test',
    'fastcore.test',
    'reproduce_kit.cli.app',
    'reproduce_kit.publish.page_shell',
    'reproduce_kit.results.figures',
]


@functools.cache
def fresh_processes():
    """The context whose processes are forks of the server; it starts with the first of them."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(LIBRARIES)
    return context


def begin(*files):
    """Let this process write its output, and its errors if there is a second file, to files."""
    gc.freeze()  # what was imported is no garbage, and its memory stays that of the server
    for descriptor, file in enumerate([files[0], files[-1]], start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


def be_the_command(words, environment, cwd, *files):
    """Do what the console script does; execute notebooks without a kernel's process."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    begin(*files)
    sys.path[:0] = filter(None, environment.get('PYTHONPATH', '').split(os.pathsep))
    sys.argv = ['reproduce', *words]

    from papermill.engines import papermill_engines  # noqa: PLC0415

    from reproduce_kit.cli.app import main  # noqa: PLC0415
    from reproduce_kit.publish.page_shell import PageEngine  # noqa: PLC0415

    papermill_engines.register(None, PageEngine)
    main()


def reproduce_warm(*words, env=None, cwd=ROOT, timeout=600):
    """Call the command in a process of its own that starts warm, and without kernels."""
    words = [str(word) for word in words]
    environment = os.environ | {key: str(value) for key, value in (env or {}).items()}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ('stdout', 'stderr')]
        process = fresh_processes().Process(
            target=be_the_command, args=(words, environment, str(cwd), *map(str, files))
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        output, errors = (file.read_text() for file in files)
    return subprocess.CompletedProcess(words, process.exitcode, output, errors)
