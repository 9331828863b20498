"""What several tests need: the smoke config, a command line, real data or a reason to skip."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import DATA, ROOT

from reproduce_kit.config.files import example_settings

SMOKE = example_settings()


def write_yaml(folder: Path, name: str, **changes) -> Path:
    path = folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump(SMOKE | dict(name=name) | changes, sort_keys=False))
    return path


def reproduce(*args, env=None, cwd=ROOT, timeout=900):
    """The console script, as a user types it."""
    return subprocess.run(
        [str(Path(sys.executable).parent / 'reproduce'), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env=os.environ | {k: str(v) for k, v in (env or {}).items()},
    )


def run_dir(runs: Path, name: str) -> Path:
    (found,) = runs.glob(f'smoke/smoke/{name}-*')
    return found


def metrics(folder: Path) -> dict:
    return {
        n: e['means'] for n, e in json.loads((folder / 'done.json').read_text())['epochs'].items()
    }


def need(*parts) -> Path:
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f'public data absent: {"/".join(parts)} is not in {DATA}; set KIT_DATA')
    return path


def papers_folder() -> Path:
    """The folder of the papers' texts: `papers` in the public data, or beside it."""
    for folder in (DATA / 'papers', DATA.parent / 'papers'):
        if folder.is_dir():
            return folder
    pytest.skip(f'the papers are not in {DATA}; set KIT_DATA')
