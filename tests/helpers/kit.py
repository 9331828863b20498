"""What several tests need: the smoke config, a command line, real data or a reason to skip."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import DATA, ROOT

from reproduce_kit.config.settings import example_settings

SMOKE = example_settings()
REPRODUCE = Path(sys.executable).parent / 'reproduce'


def write_yaml(folder: Path, name: str, **changes) -> Path:
    """Write the smoke config with changes as a parameter file."""
    path = folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump(SMOKE | dict(name=name) | changes, sort_keys=False))
    return path


def reproduce(*args, env=None, cwd=ROOT, timeout=900):
    """Call the console script, as a user types it."""
    return subprocess.run(
        [str(REPRODUCE), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env=os.environ | {key: str(value) for key, value in (env or {}).items()},
    )


def run_dir(runs: Path, name: str) -> Path:
    """The folder of a run of the smoke study."""
    (folder,) = runs.glob(f'smoke/smoke/{name}-*')
    return folder


def metrics(folder: Path) -> dict:
    """{epoch: {test set: {measure: mean}}} of a finished run."""
    epochs = json.loads((folder / 'done.json').read_text())['epochs']
    return {number: epoch['means'] for number, epoch in epochs.items()}


def need(*parts) -> Path:
    """A file or folder of public data, or a skip that says which one is missing."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(
            f'public data absent: {"/".join(parts)} is not in {DATA}; '
            'set KIT_DATA, or see `reproduce data list`'
        )
    return path


def papers_folder() -> Path:
    """The folder of the papers' texts: `papers` in the public data, or next to it."""
    for folder in (DATA / 'papers', DATA.parent / 'papers'):
        if folder.is_dir():
            return folder
    pytest.skip(f'the texts of the papers are not in {DATA}; set KIT_DATA')
