"""Stores of earlier versions are read as they are: nothing has to be migrated."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from kit import clone_env, link_clone, reproduce, reproduce_here

from reproduce_kit.config.files import make_config
from reproduce_kit.engines.cost import cost
from reproduce_kit.results.latex import write_table
from reproduce_kit.results.run_tables import table1
from reproduce_kit.store.history import read_history
from reproduce_kit.store.run import Run, require_runs

OLD = Path(__file__).with_name('old')
COMMITS = sorted(folder.name for folder in OLD.iterdir() if folder.is_dir())


def contents(folder: Path) -> dict:
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module', params=COMMITS)
def clone(request, tmp_path_factory):
    """A clone of today with the run store of an earlier commit."""
    root = link_clone(tmp_path_factory.mktemp(request.param))
    (root / 'params/smoke').symlink_to(Path(__file__).parents[2] / 'params/smoke')
    shutil.copytree(OLD / request.param, root / 'runs')
    (manifest,) = root.glob('runs/old/old/*/manifest.json')
    (root / 'params/old').mkdir()
    config = make_config(json.loads(manifest.read_text())['config'])
    settings = json.loads(config.model_dump_json())
    (root / 'params/old/lion.yaml').write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in clone_env(root).items():
            patch.setenv(name, str(value))
        yield root


@pytest.fixture
def run(clone) -> Run:
    (run,) = require_runs('old')
    return run


def answer(*words) -> dict | list:
    p = reproduce_here(*words, '--json')
    assert p.returncode == 0, p.stdout + p.stderr
    return json.loads(p.stdout)


def test_every_format_has_its_store():
    assert len(COMMITS) >= 3


def test_its_settings_have_the_identity_that_they_had(run):
    assert run.cfg.identity == run.folder.name.rpartition('-')[2] == run.manifest['identity']


def test_it_is_listed_as_done_with_its_scores(clone, run):
    (row,) = answer('list', clone / 'params/old')
    assert (row['state'], row['updates']) == ('done', 4)
    epochs = json.loads((run.folder / 'done.json').read_text())['epochs']
    means = {number: epoch['means']['test']['nDCG@10'] for number, epoch in epochs.items()}
    assert row['epochs'] == means


def test_it_is_what_its_config_asks_for(clone):
    checked = answer('check', 'old')
    assert [row['state'] for row in checked['runs']] == ['as configured'], checked


def test_its_history_seconds_and_bill_are_read(run):
    progress = run.progress
    assert len(read_history(run.folder)) == 6
    assert progress.updates_done == 4 and progress.train_seconds > 0
    assert [attempt.ended for attempt in progress.attempts] == ['done']
    assert cost(run)['seconds'] == progress.last.seconds > 0


def test_its_table_is_made_and_every_number_is_traced(clone, run):
    path = write_table(table1([run]), [run], 'nbs/analysis/table1.ipynb')
    cells = answer('why', path)['cells']
    assert {cell['check'] for cell in cells} <= {'matches', 'source matches'}
    assert {cell["row"][2] for cell in cells} >= {"1", "2"}


def test_reading_it_changes_nothing(clone, run):
    before = contents(clone / 'runs')
    answer('list', clone / 'params/old')
    answer('check', 'old')
    table1([run])
    assert contents(clone / 'runs') == before


@pytest.mark.soak
def test_its_report_is_made(clone):
    p = reproduce('report', 'old', env=clone_env(clone), cwd=clone)
    assert p.returncode == 0, p.stdout + p.stderr
