"""Every notebook runs top to bottom from a clean kernel.

Long pages, and cells that begin with `#| slow`, run in `make soak`."""

import json

import pytest
from conftest import ROOT
from warm import fresh_processes
from warm_process import execute_page

NOTEBOOKS = sorted(
    path
    for path in (ROOT / 'nbs').rglob('*.ipynb')
    if '.ipynb_checkpoints' not in path.parts and 'Untitled' not in path.name
)
LONG_PAGES = {
    'experiments/bench_growth',
    'experiments/bench_kit',
    'experiments/bench_metrics',
    'experiments/bench_rerank',
    'experiments/bench_train',
    'experiments/distil',
    'experiments/pretrain',
    'experiments/throughput',
    'experiments/train',
    'speed/30_cross_encoders',
    'tutorials/evaluating_a_reranker',
    'tutorials/own_optimizer',
    'tutorials/own_study',
    'tutorials/reading_an_audit',
    'tutorials/loss_jumped',
    'tutorials/same_seed',
}
SLOW = '#| slow'  # the first line of a cell that `make test` skips
PARAMETERIZED = [p for p in NOTEBOOKS if p.parent.name in ('experiments', 'analysis')]


def relative(path):
    return str(path.relative_to(ROOT / 'nbs').with_suffix(''))


def has_slow_cells(path):
    return SLOW in path.read_text()


def run_in_a_fresh_process(path, log, is_whole):
    needs_reranker = relative(path) == 'experiments/released'
    process = fresh_processes().Process(
        target=execute_page, args=(path, str(ROOT), is_whole, needs_reranker, str(log))
    )
    process.start()
    process.join()
    assert process.exitcode == 0, log.read_text()[-6000:]


def mark_long(path):
    return pytest.param(path, marks=pytest.mark.soak) if relative(path) in LONG_PAGES else path


@pytest.mark.parametrize('path', [mark_long(path) for path in NOTEBOOKS], ids=relative)
def test_a_notebook_runs(path, tmp_path):
    run_in_a_fresh_process(path, tmp_path / 'log', is_whole=False)


@pytest.mark.soak
@pytest.mark.parametrize('path', list(filter(has_slow_cells, NOTEBOOKS)), ids=relative)
def test_a_notebook_runs_with_its_slow_cells(path, tmp_path):
    run_in_a_fresh_process(path, tmp_path / 'log', is_whole=True)


def test_every_long_page_is_there():
    assert {relative(path) for path in NOTEBOOKS} >= LONG_PAGES


@pytest.mark.parametrize('path', PARAMETERIZED, ids=relative)
def test_a_page_with_parameters_has_one_cell_of_them(path):
    """nbdev_clean strips tags by default; papermill then runs the defaults and exits 0."""
    cells = json.loads(path.read_text())['cells']
    tagged = [cell for cell in cells if 'parameters' in cell['metadata'].get('tags', [])]
    assert len(tagged) == 1
    assert not any('default_exp' in ''.join(cell['source']) for cell in cells)
