"""Run the commands of nbs/tutorials/modal.ipynb against the tests' stand-in for Modal, and store what they print.

This takes about ten minutes on two cores. Directives in a cell say when and where its command runs:

    #| after: 100 updates    wait until two runs are that far
    #| after: done           wait until all runs have ended
    #| here                  run in this clone, not in an empty run store
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tests/helpers'))
from loopback import TOKEN, Modal

PAGE = ROOT / 'nbs/tutorials/modal.ipynb'
RUNS_IN_THE_TUTORIAL = 2


def clone_env() -> dict:
    """The variables of a user in this clone."""
    env = {key: value for key, value in os.environ.items() if not key.startswith('REPRODUCE')}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return env | dict(PATH=path, HF_HUB_OFFLINE='1')


def client_env(cloud: Modal, base: Path) -> dict:
    """The variables of a user of Modal with an empty run store."""
    folders = {
        f'REPRODUCE_{kind}': str(base / kind.lower()) for kind in ('RUNS', 'PAPER', 'FIGURES')
    }
    return clone_env() | dict(
        MODAL_SERVER_URL=cloud.url,
        MODAL_TOKEN_ID=TOKEN,
        MODAL_TOKEN_SECRET='as-good',
        MODAL_CONFIG_PATH='/nowhere',
        **folders,
    )


def last_step(history: Path) -> int:
    return json.loads(history.read_text().splitlines()[-1])['step']


def wait_for(after: str, cloud: Modal):
    """Wait as an `after` directive says."""
    if after == 'done':
        while any(call.output is None for call in cloud.calls.values()):
            time.sleep(1)
        return
    updates, runs = int(after.split()[0]), cloud.volume('reproduce-kit-runs')

    def far_enough():
        return [path for path in runs.rglob('history.jsonl') if last_step(path) >= updates]

    while len(far_enough()) < RUNS_IN_THE_TUTORIAL:
        time.sleep(1)


def run_command(command: str, env: dict) -> str:
    p = subprocess.run(
        command,
        shell=True,
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    print(f'$ {command}\n{p.stdout}', flush=True)
    return p.stdout


def record_cell(cell, cloud: Modal, base: Path):
    """Run a cell's command and store its output."""
    directives = dict(re.findall(r'^#\| (\w+):? ?(.*)$', cell.source, re.MULTILINE))
    command = re.search(r'^!(.*)$', cell.source, re.MULTILINE)[1]
    if 'after' in directives:
        wait_for(directives['after'], cloud)
    elif cloud.calls and '--yes' in command:
        time.sleep(3)  # the call that was stopped before has ended then
    env = clone_env() if 'here' in directives else client_env(cloud, base)
    text = run_command(command, env).replace(str(base), '.')
    cell.outputs = [nbformat.v4.new_output('stream', name='stdout', text=text)]


def main():
    base = Path(tempfile.mkdtemp())
    cloud = Modal(base / 'modal')
    page = nbformat.read(PAGE, as_version=4)
    try:
        for cell in page.cells:
            if cell.cell_type == 'code' and not cell.source.startswith('#| hide'):
                record_cell(cell, cloud, base)
        nbformat.write(page, PAGE)
    finally:
        cloud.close()


if __name__ == '__main__':
    main()
