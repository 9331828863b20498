"""What several tests need: a config of seconds, a command line, real data or a reason to skip."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from conftest import DATA, ROOT

from reproduce_kit.config.settings import example_settings
from reproduce_kit.testing.page_clone import LINKED

SMOKE = example_settings()
REPRODUCE = Path(sys.executable).parent / 'reproduce'


@functools.cache
def tiny_backbone() -> dict:
    """The keys of a backbone whose checkpoints take no time; it is put into this process's hub."""
    from reproduce_kit.testing.fake_hub import fake_model  # noqa: PLC0415  it imports torch

    fake_model('tiny-bert')
    return dict(backbone='tiny-bert', layers=2)


def write_yaml(folder: Path, name: str, **changes) -> Path:
    """Write the smoke config, with a tiny backbone and with changes, as a parameter file."""
    settings = SMOKE | dict(name=name) | changes
    if 'backbone' not in changes:
        settings |= tiny_backbone()
    path = folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
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


def reproduce_here(*args, env=None):
    """Call the command line in this process, which has the large imports done."""
    from reproduce_kit.cli.app import main  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (env or {}).items():
            patch.setenv(name, str(value))
        result = CliRunner().invoke(main, [str(arg) for arg in args])
    return subprocess.CompletedProcess(args, result.exit_code, result.stdout, result.stderr)


def link_clone(root: Path) -> Path:
    """Make a folder a clone to the kit: its notebooks and code, and no studies."""
    (root / 'params').mkdir(parents=True)
    for name in LINKED:
        (root / name).symlink_to(ROOT / name)
    return root


def clone_env(root: Path) -> dict:
    """The environment variables that let a command work in such a clone."""
    kinds = ('RUNS', 'PAPER', 'FIGURES')
    return dict(REPRODUCE_ROOT=root) | {f'REPRODUCE_{kind}': root / kind.lower() for kind in kinds}


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
