"""End to end through the console script: run, skip, kill, resume, by hand, tables, why."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import ROOT
from kit import metrics, need, reproduce, reproduce_here, run_dir, write_yaml
from warm import reproduce_warm

import reproduce_kit.publish.pages as pages
from reproduce_kit.data.trec import read_run
from reproduce_kit.store.progress import read_progress

BIN = Path(sys.executable).parent


@dataclass
class Study:
    """Two smoke runs, and the folders of what was made from them."""

    base: Path
    params: Path
    output: str  # what `reproduce run` said

    @property
    def env(self) -> dict:
        return {
            f'REPRODUCE_{kind}': self.base / kind.lower() for kind in ('RUNS', 'PAPER', 'FIGURES')
        }

    @property
    def table1(self) -> Path:
        return self.base / 'paper/tables/table1.tex'

    def run(self, name: str) -> Path:
        return run_dir(self.base / 'runs', name)


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """A study of two smoke runs, trained side by side."""
    base = tmp_path_factory.mktemp('study')
    params = base / 'params'
    params.mkdir()
    write_yaml(params, 'smoke-lion')
    write_yaml(params, 'smoke-adamw', optimizer='adamw', learning_rate=1.0e-4, beta2=0.999)
    study = Study(base, params, '')
    p = reproduce('run', params, '--jobs', 2, env=study.env | dict(OMP_NUM_THREADS=1))
    study.output = p.stdout + p.stderr
    assert p.returncode == 0, study.output
    return study


@pytest.fixture(scope='module')
def paper(study):
    """The same study, with its Table I."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in study.env.items():
            patch.setenv(name, str(value))
        pages.make_outputs(('table1',), 'smoke', say=print)
    return study


def start(*args, env, **pipes):
    """A command in a process group of its own, which Ctrl-C reaches as it does in a terminal."""
    return subprocess.Popen(
        [str(arg) for arg in args],
        cwd=ROOT,
        env=os.environ | {key: str(value) for key, value in env.items()},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a background job's is off
        **pipes,
    )


def wait_for(value, seconds=240):
    """What `value()` gives, once it gives something."""
    deadline = time.time() + seconds
    while not (result := value()):
        assert time.time() < deadline, 'it did not happen'
        time.sleep(0.02)
    return result


# running


def test_a_study_says_how_long_it_takes_and_what_comes_next(study):
    assert '2 to train, about' in study.output
    assert 'next: reproduce report smoke' in study.output


def test_what_happens_to_a_run_is_told_line_by_line(study):
    for name in ('smoke-adamw', 'smoke-lion'):
        lines = [line for line in study.output.splitlines() if f'/2] {name}: ' in line]
        told = [re.sub(r'0\.\d{4}|\d+ (s|min)$', '#', line.split(': ', 1)[1]) for line in lines]
        assert told == [
            'started',
            'epoch 1 of 2: nDCG@10 # on test',
            'epoch 2 of 2: nDCG@10 # on test',
            'nDCG@10 # on test after epoch 2, #',
        ]
    assert '\x1b' not in study.output and '\r' not in study.output


def test_a_finished_run_has_all_its_files_and_no_checkpoint(study):
    folder = study.run('smoke-lion')
    files = {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()}
    assert files >= {
        'manifest.json',
        'events.jsonl',
        'history.jsonl',
        'done.json',
        'train.ipynb',
        'first-stage/perquery.csv',
        'epoch-2/test.run.gz',
        'epoch-2/perquery.csv',
        'epoch-2/model/model.safetensors',
    }
    assert not list(folder.glob('checkpoint-*')), 'checkpoints are only for resuming'
    header = (folder / 'epoch-2/perquery.csv').read_text().splitlines()[0]
    assert header == 'name,qid,measure,value'


def test_a_manifest_says_what_a_run_was_made_from(study):
    manifest = json.loads((study.run('smoke-lion') / 'manifest.json').read_text())
    assert manifest['batch']['global'] == 16
    assert manifest['updates'] == dict(planned=8)
    assert read_progress(study.run('smoke-lion')).updates_done == 8
    assert manifest['data'].keys() == {'test', 'pairs', 'weights', 'reproduce-kit/tiny-bert'}
    assert manifest['packages']['torch']


def test_finished_runs_are_skipped(study):
    p = reproduce_here('run', study.params, '--json', env=study.env)
    outcome = json.loads(p.stdout)
    assert p.returncode == 0
    assert outcome['skipped'] == ['smoke-adamw', 'smoke-lion']
    assert outcome['done'] == []


def test_finished_runs_are_listed_as_done(study):
    p = reproduce_here('list', study.params, '--json', env=study.env)
    states = [(row['name'], row['state']) for row in json.loads(p.stdout)]
    assert states == [('smoke-adamw', 'done'), ('smoke-lion', 'done')]


def test_papermill_by_hand_equals_the_runner(study, tmp_path):
    env = study.env | dict(REPRODUCE_RUNS=tmp_path / 'runs')
    notebook, values = ROOT / 'nbs/experiments/train.ipynb', study.params / 'smoke-lion.yaml'
    subprocess.run(
        [BIN / 'papermill', notebook, tmp_path / 'out.ipynb', '-f', values],
        cwd=ROOT,
        env=os.environ | {key: str(value) for key, value in env.items()},
        check=True,
        capture_output=True,
    )
    by_hand, by_runner = run_dir(tmp_path / 'runs', 'smoke-lion'), study.run('smoke-lion')
    assert metrics(by_hand) == metrics(by_runner)
    for name in ('history.jsonl', 'epoch-2/test.run.gz'):
        one, two = ((folder / name).read_bytes() for folder in (by_hand, by_runner))
        assert one.split(b'smoke-lion')[0] == two.split(b'smoke-lion')[0]


# stopping and going on


def processes_with(key: str, value) -> list:
    """The processes whose environment has `key=value`: the command, and its kernel."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(key) == str(value):
                found.append(process)
        except psutil.Error:
            continue  # another user's, or gone
    return found


@pytest.mark.parametrize(
    'after, how',
    [
        (3, 'Ctrl-C'),
        pytest.param(3, 'kill', marks=pytest.mark.soak),
        pytest.param(6, 'kill', marks=pytest.mark.soak),
    ],
)
def test_a_run_that_was_stopped_and_resumed_equals_an_uninterrupted_one(
    study, tmp_path, after, how
):
    """It is stopped once `after` lines are in its history, with its kernel."""
    runs, yaml = tmp_path / 'runs', study.params / 'smoke-lion.yaml'
    env = study.env | dict(REPRODUCE_RUNS=runs)
    command = start(BIN / 'reproduce', 'run', yaml, env=env, stderr=subprocess.STDOUT)

    def has_logged():
        histories = list(runs.glob('smoke/smoke/smoke-lion-*/history.jsonl'))
        return histories and len(histories[0].read_text().splitlines()) >= after

    wait_for(has_logged)
    if how == 'kill':
        for process in processes_with('REPRODUCE_RUNS', runs):
            process.kill()
        command.communicate(timeout=60)
    else:
        os.killpg(command.pid, signal.SIGINT)
        output = command.communicate(timeout=60)[0]
        assert command.returncode == 130, output
        assert 'Traceback' not in output, output
        assert 'the same command continues from the last checkpoint' in output, output
    stopped, whole = run_dir(runs, 'smoke-lion'), study.run('smoke-lion')
    assert not (stopped / 'done.json').exists()
    (row,) = json.loads(reproduce_here('list', yaml, '--json', env=env).stdout)
    assert row['state'] == 'unfinished'

    again = reproduce_warm('run', yaml, env=env)
    assert again.returncode == 0, again.stdout + again.stderr
    assert metrics(stopped) == metrics(whole)
    for name in ('history.jsonl', 'epoch-2/model/model.safetensors'):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


# side by side


@pytest.mark.soak
def test_runs_in_turn_equal_runs_side_by_side(study, tmp_path):
    runs = tmp_path / 'runs'
    p = reproduce('run', study.params, env=study.env | dict(REPRODUCE_RUNS=runs))
    assert p.returncode == 0, p.stdout + p.stderr
    assert '2 made, 0 done before, 0 failed' in p.stdout
    for name in ('smoke-lion', 'smoke-adamw'):
        assert metrics(run_dir(runs, name)) == metrics(study.run(name))


def has_two_unfinished_runs(runs: Path) -> bool:
    histories = list(runs.glob('smoke/smoke/*/history.jsonl'))
    return len(histories) == 2 and all(file.stat().st_size for file in histories)


def at_work_on(runs: Path, program: str) -> list:
    """The processes that make runs of a store, of those that run a program."""
    processes = processes_with('REPRODUCE_RUNS', runs)
    return [process for process in processes if program in str(process.cmdline())]


def have_begun(runs: Path) -> bool:
    """Two processes are being started, each for a run."""
    return len(at_work_on(runs, 'spawn_main')) == 2


def have_kernels(runs: Path) -> bool:
    return len(at_work_on(runs, 'ipykernel')) == 2


def long_runs(params: Path) -> Path:
    """Two runs, neither of which is finished before the other has begun."""
    params.mkdir()
    for name in ('smoke-lion', 'smoke-adamw'):
        write_yaml(params, name, epochs=40)
    return params


@pytest.mark.parametrize(
    'how, when',
    [
        (signal.SIGINT, have_begun),
        (signal.SIGINT, have_kernels),
        pytest.param(signal.SIGINT, has_two_unfinished_runs, marks=pytest.mark.soak),
        pytest.param(signal.SIGKILL, has_two_unfinished_runs, marks=pytest.mark.soak),
    ],
)
def test_runs_side_by_side_stop_with_the_command(study, tmp_path, how, when):
    """At Ctrl-C they say so; when the command is killed, they do not go on without it."""
    runs = tmp_path / 'runs'
    env = study.env | dict(REPRODUCE_RUNS=runs)
    params = long_runs(tmp_path / 'params')
    command = start(
        *(BIN / 'reproduce', 'run', params, '--jobs', 2), env=env, stderr=subprocess.STDOUT
    )

    wait_for(lambda: when(runs))
    at_work = [p for p in processes_with('REPRODUCE_RUNS', runs) if p.pid != command.pid]
    os.kill(command.pid, how)
    output = command.communicate(timeout=60)[0]
    assert command.returncode == (130 if how == signal.SIGINT else -how), output
    assert 'Traceback' not in output, output
    _, alive = psutil.wait_procs(at_work, timeout=60)
    assert not alive
    assert not list(runs.glob('smoke/smoke/*/done.json'))


@pytest.mark.soak
def test_a_run_whose_process_was_killed_has_failed_and_the_other_goes_on(study, tmp_path):
    runs = tmp_path / 'runs'
    env = study.env | dict(REPRODUCE_RUNS=runs)
    command = start(
        *(BIN / 'reproduce', 'run', study.params, '--jobs', 2), env=env, stderr=subprocess.STDOUT
    )
    wait_for(lambda: has_two_unfinished_runs(runs))
    children = psutil.Process(command.pid).children()
    victim = next(child for child in children if 'spawn_main' in ' '.join(child.cmdline()))
    victim.kill()
    output = command.communicate(timeout=120)[0]
    assert command.returncode == 1, output
    assert '1 made, 0 done before, 1 failed' in output
    assert 'its process ended with exit code -9' in output


# tables and their sources


def cells_of(table: Path, env: dict) -> list:
    return json.loads(reproduce_here('why', table, '--json', env=env).stdout)['cells']


def test_a_table_names_the_page_that_made_it_and_its_relevance_levels(paper):
    tex = paper.table1.read_text()
    assert tex.startswith('% Generated by nbs/analysis/table1.ipynb')
    assert 'rel$\\geq$2' in tex and '\\textbf{' in tex
    measures = paper.table1.with_name('measures.tex').read_text()
    assert 'rel$\\geq$1' in measures and 'rel$\\geq$2' in measures


def test_every_number_of_a_table_is_that_of_its_source(paper):
    cells = cells_of(paper.table1, paper.env)
    rows = {tuple(cell['row']) for cell in cells}
    assert len(rows) == 2 + 2 * 2  # BM25 and the ceiling; two runs of two epochs
    assert len(cells) == len(rows) * 6
    assert {cell['check'] for cell in cells} == {'matches', 'source matches'}
    assert all(cell['check'] == 'matches' for cell in cells if 'vs BM25' not in cell['column'])
    for cell in cells:
        assert {'run', 'run_file', 'sha256', 'measure'} <= cell['source'].keys()


def test_why_takes_words_of_a_row_and_a_column(paper):
    p = reproduce_here('why', paper.table1, 'lion', '2', 'ndcg', env=paper.env)
    assert p.returncode == 0
    assert len(re.findall(r'^Tiny BERT Lion 2 ', p.stdout, re.M)) == 1, p.stdout
    assert len(p.stdout.splitlines()) == 4, p.stdout


def test_why_fails_where_a_source_was_changed(paper):
    lion = next(c for c in cells_of(paper.table1, paper.env) if c['row'][1] == 'Lion')
    file = paper.base / 'runs' / lion['source']['run_file']
    original = file.read_bytes()
    file.write_bytes(original + b'x')
    try:
        assert reproduce_here('why', paper.table1, 'lion', env=paper.env).returncode == 1
    finally:
        file.write_bytes(original)


def test_numbers_that_were_edited_are_not_printed(study):
    file = study.run('smoke-adamw') / 'epoch-1/perquery.csv'
    original = file.read_text()
    file.write_text(original.replace(',0\n', ',1\n', 1))
    try:
        p = reproduce_here('tables', '--study', 'smoke', env=study.env)
        assert p.returncode == 1
        assert 'is not the file that the run measured' in p.stderr
    finally:
        file.write_text(original)


# which pages are executed again


def test_a_page_is_executed_again_only_where_what_it_reads_or_wrote_was_changed(study, monkeypatch):
    for key, value in study.env.items():
        monkeypatch.setenv(key, str(value))

    def verbs():
        lines = []
        pages.make_outputs(('settings', 'memory'), 'smoke', say=lines.append)
        return [line.split()[0] for line in lines]

    verbs()
    assert verbs() == ['kept', 'kept']
    table = study.base / 'paper/tables/settings.tex'
    original = table.read_text()
    table.write_text(original + '%')
    assert verbs() == ['wrote', 'kept'] and table.read_text() == original
    os.utime(study.run('smoke-adamw') / 'history.jsonl')
    assert verbs() == ['wrote', 'wrote']
    assert verbs() == ['kept', 'kept']


PAGE_INPUTS = (
    'reproduce_kit/a.py',
    'params/a.yaml',
    'runs/s/r/x/done.json',
    'paper/performance/lion-cpu.csv',
    'data/c.jsonl',
)


@pytest.fixture
def page_key(tmp_path, monkeypatch):
    """The key of a page in a project of five files; with another cell in the page, if asked."""
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    for kind in ('runs', 'paper', 'figures'):
        monkeypatch.setenv(f'REPRODUCE_{kind.upper()}', str(tmp_path / kind))
    monkeypatch.setenv('KIT_DATA', str(tmp_path))
    monkeypatch.setattr(pages, 'git_state', lambda: dict(commit='a', dirty=False))
    monkeypatch.setattr(pages, 'kit_folder', lambda: tmp_path / 'reproduce_kit')
    for name in PAGE_INPUTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('1')
    cell = nbformat.v4.new_code_cell("data = 'data'", metadata=dict(tags=['parameters']))
    kernel = dict(name='python3', language='python', display_name='')
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=dict(kernelspec=kernel))

    def key(study='s', recipe='', more=''):
        if more:
            notebook.cells.append(nbformat.v4.new_code_cell(more))
        nbformat.write(notebook, tmp_path / 'page.ipynb')
        return pages._keys({'page': (tmp_path / 'page.ipynb', None)}, study, recipe)['page']

    return key


@pytest.mark.parametrize('name', PAGE_INPUTS)
def test_a_page_s_key_holds_every_file_that_it_can_read(page_key, tmp_path, name):
    before = page_key()
    assert page_key() == before
    (tmp_path / name).write_text('another')
    assert page_key() != before


def test_a_page_s_key_holds_no_weights(page_key, tmp_path):
    before = page_key()
    (tmp_path / 'runs/s/r/x/model').mkdir()
    (tmp_path / 'runs/s/r/x/model/weights').write_text('1')
    assert page_key() == before


def test_a_page_s_key_holds_its_cells_its_study_and_its_recipe(page_key):
    keys = [page_key(), page_key(recipe='r'), page_key('t'), page_key(more='1')]
    assert len(set(keys)) == 4


def test_a_page_s_key_holds_commit_versions_and_folders(page_key, tmp_path, monkeypatch):
    keys = [page_key()]
    monkeypatch.setattr(pages, 'git_state', lambda: dict(commit='b', dirty=False))
    keys.append(page_key())
    monkeypatch.setattr(pages, 'package_versions', lambda more: dict(torch='0'))
    keys.append(page_key())
    monkeypatch.setenv('REPRODUCE_FIGURES', str(tmp_path / 'elsewhere'))
    keys.append(page_key())
    assert len(set(keys)) == 4


def interrupt_all(command):
    os.killpg(command.pid, signal.SIGINT)


def interrupt_command(command):
    os.kill(command.pid, signal.SIGINT)


def interrupt_pages(command):
    """The command itself once missed a signal, and waited forever for pages that had stopped."""

    def have_ended_it():
        for page in pages_under_way(command):
            with suppress(psutil.Error):  # a page that has ended meanwhile
                page.send_signal(signal.SIGINT)
        return command.poll() is not None

    wait_for(have_ended_it, 30)


def pages_under_way(command) -> list:
    """The processes of pages: copies of the command."""
    try:
        name = psutil.Process(command.pid).cmdline()
        children = psutil.Process(command.pid).children()
        return [child for child in children if child.cmdline() == name]
    except psutil.Error:
        return []  # one of them ended meanwhile


@pytest.mark.parametrize('interrupt', [interrupt_all, interrupt_command, interrupt_pages])
def test_ctrl_c_ends_the_pages_at_once(study, interrupt):
    os.utime(study.run('smoke-adamw') / 'history.jsonl')
    command = start(
        BIN / 'reproduce', 'tables', '--study', 'smoke', env=study.env, stderr=subprocess.PIPE
    )
    started = wait_for(lambda: pages_under_way(command), 60)
    time.sleep(0.2)
    interrupt(command)
    _, errors = command.communicate(timeout=30)
    assert command.returncode == 130, errors
    assert 'stopped; finished work is kept' in errors, errors
    assert 'Traceback' not in errors, errors
    assert not psutil.wait_procs(started, timeout=20)[1]


@pytest.mark.soak
def test_all_tables_and_figures_of_a_study_are_written(study):
    """Each page in its process, by the command."""
    for command in ('tables', 'figures'):
        p = reproduce(command, '--study', 'smoke', env=study.env)
        assert p.returncode == 0, p.stdout + p.stderr
    assert study.table1.exists() and list((study.base / 'figures').glob('*.png'))


# real passages


def test_a_trained_model_reranks_real_passages(study, tmp_path):
    """On DL 2019; the first stage must score what the field reports."""
    collection = need('trec-dl')
    model = study.run('smoke-lion') / 'epoch-2/model'
    output = tmp_path / 'dl19.run.gz'
    what = ['--checkpoint', model, '--collection', collection, '--out', output]
    p = reproduce_here('rerank', *what, '--depth', 5, '--max-length', 32, '--json', env=study.env)
    assert p.returncode == 0, p.stderr
    result = json.loads(p.stdout)
    assert result['topics'] == 43 and result['split'] == 'dl19'
    assert set(result['measures']) == {'first stage', 'reranked', 'ceiling'}
    assert {len(scores) for scores in read_run(output).values()} == {5}
