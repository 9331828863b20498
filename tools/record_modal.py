"""Run the commands of nbs/tutorials/modal.ipynb, top to bottom, against the tests' stand-in for Modal, and keep what they print.

About ten minutes on two cores. A cell's `#| after: 100 updates` waits until runs are that far, `#| after: done` until they have ended;
`#| here` runs in this clone, the others in an empty run store."""

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
from loopback import Modal

PAGE = ROOT / 'nbs/tutorials/modal.ipynb'


def main():
    base = Path(tempfile.mkdtemp())
    cloud = Modal(base / 'modal')
    nb = nbformat.read(PAGE, as_version=4)
    runs = cloud.volume('reproduce-kit-runs')
    env = {k: v for k, v in os.environ.items() if not k.startswith('REPRODUCE')} | dict(
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", HF_HUB_OFFLINE='1'
    )
    away = env | dict(
        MODAL_SERVER_URL=cloud.url,
        MODAL_TOKEN_ID='ak-good',
        MODAL_TOKEN_SECRET='as-good',
        MODAL_CONFIG_PATH='/nowhere',
        **{f'REPRODUCE_{k}': str(base / k.lower()) for k in ('RUNS', 'PAPER', 'FIGURES')},
    )
    try:
        for c in nb.cells:
            if c.cell_type != 'code':
                continue
            said = dict(re.findall(r'^#\| (\w+):? ?(.*)$', c.source, re.M))
            command = re.search(r'^!(.*)$', c.source, re.M)[1]
            if (after := said.get('after')) == 'done':
                while any(x.output is None for x in cloud.calls.values()):
                    time.sleep(1)
            elif after:
                far = int(after.split()[0])
                while (
                    len(
                        [
                            h
                            for h in runs.rglob('history.jsonl')
                            if json.loads(h.read_text().splitlines()[-1])['step'] >= far
                        ]
                    )
                    < 2
                ):
                    time.sleep(1)
            elif cloud.calls and '--yes' in command:
                time.sleep(3)
            p = subprocess.run(
                command,
                shell=True,
                cwd=ROOT,
                env=env if 'here' in said else away,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            print(f'$ {command}\n{p.stdout}', flush=True)
            c.outputs = [
                nbformat.v4.new_output(
                    'stream', name='stdout', text=p.stdout.replace(str(base), '.')
                )
            ]
        nbformat.write(nb, PAGE)
    finally:
        cloud.close()


if __name__ == '__main__':
    main()
