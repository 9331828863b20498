"""Lists, checks and tables of a store in which other processes write."""

import json
from multiprocessing import get_context

import pandas as pd
import pytest

from reproduce_kit.cli.run import run_row
from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import artifact_dir
from reproduce_kit.engines.compliance import check_run
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.results.latex import write_table
from reproduce_kit.results.run_tables import table1
from reproduce_kit.store.run import find_runs, finished_runs
from reproduce_kit.testing.fake_runs import fake_run

FORK = get_context('fork')
CONFIGS = [make_config(example_settings(name=f'run-{number}')) for number in range(5)]
TOPICS = pd.Index([f'q{number}' for number in range(40)], name='qid')


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    for kind in ('runs', 'paper'):
        monkeypatch.setenv(f'REPRODUCE_{kind.upper()}', str(tmp_path / kind))


def write_runs():
    """Write finished runs, one after the other, with the writers that a training has."""
    for cfg in CONFIGS:
        values = pd.DataFrame(0.5, index=TOPICS, columns=MEASURES)
        sets = dict.fromkeys(cfg.test_sets, values)
        fake_run(cfg, dict.fromkeys(cfg.measured_epochs, sets))


def write_table_often():
    finished = finished_runs('smoke')
    for _ in range(10):
        write_table(table1(finished), finished, 'nbs/analysis/table1.ipynb')


def test_readers_see_whole_runs_and_no_others():
    writer = FORK.Process(target=write_runs)
    writer.start()
    counts = []
    while writer.is_alive() or not counts or counts[-1] < len(CONFIGS):
        finished = finished_runs('smoke')
        counts.append(len(finished))
        for run in find_runs('smoke'):
            assert run_row(run.cfg).state in ('not run', 'unfinished', 'done')
        for run in finished:
            assert check_run(run) == []
        if finished:
            epochs = {label[-1] for label in table1(finished).frame.index} - {''}
            assert epochs == {'1', '2'}
        assert writer.exitcode in (None, 0)
    assert counts == sorted(counts)
    assert len(set(counts)) > 2, 'nothing was read while runs were written'


def test_a_table_that_two_processes_write_is_whole_whenever_it_is_read():
    write_runs()
    path = write_table(table1(finished_runs('smoke')), [], 'nbs/analysis/table1.ipynb')
    writers = [FORK.Process(target=write_table_often) for _ in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert path.read_text().rstrip().endswith('\\end{tabular}')
        assert json.loads(path.with_suffix('.json').read_text())['cells']
        reads += 1
    assert reads > 10 and [writer.exitcode for writer in writers] == [0, 0]
    assert not list(artifact_dir('paper').rglob('.*'))
