"""JupyterLab as `make lab` starts it, with settings of its own."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT

STARTS_WITHIN_SECONDS = 120
ENDS_WITHIN_SECONDS = 30
TOKEN = 'test'
OPTIONS = (
    *('--no-browser', '--allow-root', '--ip=127.0.0.1', '--port=0'),
    *('--LabApp.news_url=', '--ServerApp.use_redirect_file=False'),
    f'--IdentityProvider.token={TOKEN}',
)


def wait_for_address(log: Path, process) -> str:
    """Return the server's address once it has one; fail with the log if it ends before."""
    end = time.time() + STARTS_WITHIN_SECONDS
    while time.time() < end:
        address = re.search(r'(http://127\.0\.0\.1:\d+)/lab', log.read_text())
        if address:
            return address[1]
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.5)
    raise AssertionError(f'JupyterLab does not answer: {log.read_text()[-2000:]}')


def end(process):
    """End the server; one that is stuck in its own end is killed."""
    process.terminate()
    try:
        process.wait(ENDS_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def jupyterlab(shown: Path, folder: Path, **env):
    """Serve a folder; yield the server's address. What it writes down is below `folder`."""
    log, names = folder / 'lab.log', ('CONFIG', 'RUNTIME', 'DATA')
    own = {f'JUPYTER_{name}_DIR': folder / name.lower() for name in names}
    own |= {f'JUPYTERLAB_{name}_DIR': folder / name.lower() for name in ('SETTINGS', 'WORKSPACES')}
    own = {name: str(value) for name, value in dict(REPRODUCE_ROOT=ROOT, **own, **env).items()}
    folders = [
        f'--ServerApp.root_dir={shown}',
        f'--FileCheckpoints.checkpoint_dir={folder / "checkpoints"}',
    ]
    with log.open('w') as output:
        process = subprocess.Popen(
            [sys.executable, '-m', 'jupyterlab', *OPTIONS, *folders],
            cwd=folder,
            env=os.environ | own,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield wait_for_address(log, process)
        finally:
            end(process)


def ask(address: str, path: str, method: str = 'GET'):
    """Return what the server's interface answers."""
    headers = {'Authorization': f'token {TOKEN}'}
    request = urllib.request.Request(address + path, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or 'null')


def stop_kernels(address: str):
    """End the kernel of each page that was opened."""
    for session in ask(address, '/api/sessions'):
        ask(address, f'/api/sessions/{session["id"]}', 'DELETE')


def open_page(page, address: str, path: str):
    """Open a notebook in the browser, and wait until its first cell is drawn."""
    page.goto(f'{address}/lab/tree/{path}?token={TOKEN}&reset')
    page.locator('.jp-Notebook .jp-Cell').first.wait_for()
