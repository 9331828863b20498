"""Processes that start with everything imported: half the time of a command or a page.

They are forks of a server that has done nothing but import."""

import functools
import multiprocessing
import os
import subprocess
import tempfile
from pathlib import Path

from conftest import ROOT
from warm_process import be_the_command

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
    'reproduce_kit.evaluation.rerank',
    'reproduce_kit.models.tite',
    'reproduce_kit.publish.page_shell',
    'reproduce_kit.results.significance_tables',
    'reproduce_kit.testing.fake_runs',
]
# What IPython imports when a page begins
LIBRARIES += ['sqlite3', 'IPython.core.magics.execution', 'IPython.core.oinspect']


@functools.cache
def fresh_processes():
    """The context whose processes are forks of the server; it starts with the first of them."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(LIBRARIES)
    return context


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
