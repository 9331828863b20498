"""End to end through the console script: run, skip, kill, resume, by hand, tables, why."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from kit import metrics, need, reproduce, run_dir, write_yaml


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """Two smoke runs and what was made of them."""
    base = tmp_path_factory.mktemp('study')
    env = dict(
        REPRODUCE_RUNS=base / 'runs',
        REPRODUCE_PAPER=base / 'paper',
        REPRODUCE_FIGURES=base / 'figures',
    )
    params = base / 'params'
    params.mkdir()
    write_yaml(params, 'smoke-lion')
    write_yaml(params, 'smoke-adamw', optimizer='adamw', learning_rate=1.0e-4, beta2=0.999)
    p = reproduce('run', params, env=env)
    assert p.returncode == 0, p.stdout + p.stderr
    return dict(base=base, env=env, params=params, said=p.stdout + p.stderr)


def test_run_says_how_long_and_what_next(study):
    assert '2 to train, about' in study['said'] and 'next: reproduce paper' in study['said']
    folder = run_dir(study['base'] / 'runs', 'smoke-lion')
    have = {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file()}
    assert {
        'manifest.json',
        'history.jsonl',
        'done.json',
        'train.ipynb',
        'first-stage/perquery.csv',
        'epoch-2/test.run.gz',
        'epoch-2/perquery.csv',
        'epoch-2/model/model.safetensors',
    } <= have
    m = json.loads((folder / 'manifest.json').read_text())
    assert (
        m['batch']['global'] == 16
        and m['updates'] == dict(planned=8, done=8)
        and m['data'].keys() == {'test', 'pairs', 'weights'}
        and m['packages']['torch']
    )
    assert (folder / 'epoch-2/perquery.csv').read_text().splitlines()[0] == 'name,qid,measure,value'
    assert not list(folder.glob('checkpoint-*')), 'checkpoints are only for resuming'


def test_second_run_skips(study):
    p = reproduce('run', study['params'], '--json', env=study['env'])
    assert (
        p.returncode == 0
        and json.loads(p.stdout)['skipped'] == ['smoke-adamw', 'smoke-lion']
        and json.loads(p.stdout)['done'] == []
    )


def test_list(study):
    p = reproduce('list', study['params'], '--json', env=study['env'])
    rows = json.loads(p.stdout)
    assert [(r['name'], r['state']) for r in rows] == [
        ('smoke-adamw', 'done'),
        ('smoke-lion', 'done'),
    ]


def test_papermill_by_hand_equals_the_runner(study, tmp_path):
    env = (
        os.environ
        | {k: str(v) for k, v in study['env'].items()}
        | dict(REPRODUCE_RUNS=str(tmp_path / 'runs'))
    )
    subprocess.run(
        [
            Path(sys.executable).parent / 'papermill',
            ROOT / 'nbs/experiments/train.ipynb',
            tmp_path / 'out.ipynb',
            '-f',
            study['params'] / 'smoke-lion.yaml',
        ],
        cwd=ROOT,
        env=env,
        check=True,
        capture_output=True,
    )
    one, two = (
        run_dir(tmp_path / 'runs', 'smoke-lion'),
        run_dir(study['base'] / 'runs', 'smoke-lion'),
    )
    assert metrics(one) == metrics(two)
    for f in ('history.jsonl', 'epoch-2/test.run.gz'):
        a, b = (p / f for p in (one, two))
        assert a.read_bytes().split(b'smoke-lion')[0] == b.read_bytes().split(b'smoke-lion')[0]


@pytest.mark.parametrize('after, how', [(3, 'kill'), (6, 'kill'), (3, 'Ctrl-C')])
def test_stopped_and_resumed_equals_uninterrupted(study, tmp_path, after, how):
    """Stop the command and its kernel once `after` lines are in the history: SIGKILL, or SIGINT to the group as a terminal sends it."""
    env = (
        os.environ
        | {k: str(v) for k, v in study['env'].items()}
        | dict(REPRODUCE_RUNS=str(tmp_path / 'runs'))
    )
    yaml = study['params'] / 'smoke-lion.yaml'
    p = subprocess.Popen(
        [Path(sys.executable).parent / 'reproduce', 'run', yaml],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a terminal's default; a background job would have it ignored
    kernels = lambda: [
        int(d.name)
        for d in Path('/proc').iterdir()
        if d.name.isdigit() and _environ(d).get('REPRODUCE_RUNS') == str(tmp_path / 'runs')
    ]
    deadline = time.time() + 240
    while time.time() < deadline:
        found = list(tmp_path.glob('runs/smoke/smoke/smoke-lion-*/history.jsonl'))
        if found and len(found[0].read_text().splitlines()) >= after:
            break
        time.sleep(0.02)
    if how == 'kill':
        for pid in kernels():
            os.kill(pid, signal.SIGKILL)
    else:
        os.killpg(p.pid, signal.SIGINT)
    said = p.communicate(timeout=60)[0]
    if how == 'Ctrl-C':
        assert (
            p.returncode == 130
            and 'Traceback' not in said
            and 'the same command goes on from the last checkpoint' in said
        ), said
    folder = run_dir(tmp_path / 'runs', 'smoke-lion')
    assert not (folder / 'done.json').exists()
    listed = reproduce(
        'list', yaml, '--json', env=study['env'] | dict(REPRODUCE_RUNS=tmp_path / 'runs')
    )
    assert json.loads(listed.stdout)[0]['state'] == 'unfinished'
    again = reproduce('run', yaml, env=study['env'] | dict(REPRODUCE_RUNS=tmp_path / 'runs'))
    assert again.returncode == 0, again.stdout + again.stderr
    whole = run_dir(study['base'] / 'runs', 'smoke-lion')
    assert metrics(folder) == metrics(whole)
    assert (folder / 'history.jsonl').read_text() == (whole / 'history.jsonl').read_text()
    assert (folder / 'epoch-2/model/model.safetensors').read_bytes() == (
        whole / 'epoch-2/model/model.safetensors'
    ).read_bytes()


def _environ(proc):
    try:
        return dict(x.split('=', 1) for x in (proc / 'environ').read_text().split('\0') if '=' in x)
    except OSError:
        return {}


def test_tables_figures_and_why(study):
    p = reproduce('tables', '--study', 'smoke', env=study['env'])
    assert p.returncode == 0, p.stdout + p.stderr
    assert reproduce('figures', '--study', 'smoke', env=study['env']).returncode == 0
    paper = study['base'] / 'paper'
    tex = (paper / 'tables/table1.tex').read_text()
    assert (
        tex.startswith('% Generated by nbs/analysis/table1.ipynb')
        and 'rel$\\geq$1' in tex
        and 'rel$\\geq$2' in tex
        and '\\textbf{' in tex
    )
    got = json.loads(
        reproduce('why', paper / 'tables/table1.tex', '--json', env=study['env']).stdout
    )
    rows = {tuple(c['row']) for c in got['cells']}
    assert len(rows) == 2 + 2 * 2 and len(got['cells']) == len(rows) * 12
    assert {c['check'] for c in got['cells']} == {'matches', 'source matches'}
    assert all(c['check'] == 'matches' for c in got['cells'] if 'vs BM25' not in c['column'])
    assert all({'run', 'run_file', 'sha256', 'measure'} <= c['source'].keys() for c in got['cells'])
    one = reproduce('why', paper / 'tables/table1.tex', 'lion', '2', 'ndcg', env=study['env'])
    assert (
        one.returncode == 0
        and len(re.findall(r'^MiniLM-L1 Lion 2 ', one.stdout, re.M)) == 1
        and len(one.stdout.splitlines()) == 4
    ), one.stdout
    run = next(c for c in got['cells'] if c['row'][1] == 'Lion')['source']
    file = study['base'] / 'runs' / run['run_file']
    kept = file.read_bytes()
    file.write_bytes(kept + b'x')
    try:
        assert (
            reproduce('why', paper / 'tables/table1.tex', 'lion', env=study['env']).returncode == 1
        )
    finally:
        file.write_bytes(kept)


def test_only_what_would_change_is_made_again(study, monkeypatch):
    """A page is executed again only where something that it reads, or wrote, is another."""
    from reproduce_kit.publish.pages import make_outputs

    for k, v in study['env'].items():
        monkeypatch.setenv(k, str(v))

    def made():
        said = []
        make_outputs(('settings', 'memory'), 'smoke', say=said.append)
        return [s.split()[0] for s in said]

    made()
    assert made() == ['kept', 'kept']
    table = study['base'] / 'paper/tables/settings.tex'
    was = table.read_text()
    table.write_text(was + '%')
    assert made() == ['wrote', 'kept'] and table.read_text() == was
    os.utime(run_dir(study['base'] / 'runs', 'smoke-adamw') / 'history.jsonl')
    assert made() == ['wrote', 'wrote'] and made() == ['kept', 'kept']


def test_what_a_page_can_read_is_in_its_key(tmp_path, monkeypatch):
    """One change of each kind, and the page is made again."""
    import reproduce_kit.publish.pages as paper

    for d in ('reproduce_kit', 'params', 'runs/s/r/x', 'paper/performance', 'data'):
        (tmp_path / d).mkdir(parents=True)
    files = [
        tmp_path / f
        for f in (
            'reproduce_kit/a.py',
            'params/a.yaml',
            'runs/s/r/x/done.json',
            'paper/performance/lion-cpu.csv',
            'data/c.jsonl',
        )
    ]
    for f in files:
        f.write_text('1')
    page = tmp_path / 'page.ipynb'
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("data = 'data'", metadata=dict(tags=['parameters']))],
        metadata=dict(kernelspec=dict(name='python3', language='python', display_name='')),
    )
    for k, d in (('ROOT', '.'), ('RUNS', 'runs'), ('PAPER', 'paper'), ('FIGURES', 'figures')):
        monkeypatch.setenv(f'REPRODUCE_{k}', str(tmp_path / d))
    monkeypatch.setattr(paper, 'git_state', lambda: dict(commit='a', dirty=False))

    def key(study='s', recipe=''):
        nbformat.write(nb, page)
        return paper._keys({'page': (page, None)}, study, recipe)['page']

    seen = [key()]
    assert key() == seen[0]

    def other(k):
        assert k not in seen
        seen.append(k)

    for f in files:
        f.write_text('another')
        other(key())
    (tmp_path / 'runs/s/r/x/model').mkdir()
    (tmp_path / 'runs/s/r/x/model/weights').write_text('1')
    assert key() == seen[-1]  # no page reads weights
    nb.cells.append(nbformat.v4.new_code_cell('1'))
    other(key())
    other(key(recipe='r'))
    other(key('t'))
    monkeypatch.setattr(paper, 'git_state', lambda: dict(commit='b', dirty=False))
    other(key())
    monkeypatch.setattr(paper, 'version', lambda p: '0')
    other(key())
    monkeypatch.setenv('REPRODUCE_FIGURES', str(tmp_path / 'elsewhere'))
    other(key())


def test_ctrl_c_ends_the_pages(study):
    """At once, with their kernels."""
    import psutil

    os.utime(run_dir(study['base'] / 'runs', 'smoke-adamw') / 'history.jsonl')
    p = subprocess.Popen(
        [str(Path(sys.executable).parent / 'reproduce'), 'tables', '--study', 'smoke'],
        env=os.environ | {k: str(v) for k, v in study['env'].items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # as above

    def kernels():
        try:
            return [
                c
                for c in psutil.Process(p.pid).children(recursive=True)
                if 'ipykernel_launcher' in ' '.join(c.cmdline())
            ]
        except psutil.Error:
            return []  # one that ended while it was looked at

    while not (there := kernels()):
        assert p.poll() is None
        time.sleep(0.2)
    time.sleep(1)
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=30)
    assert (
        p.returncode == 130
        and 'stopped; what was finished is kept' in err
        and 'Traceback' not in err
    ), err
    assert not psutil.wait_procs(there, timeout=20)[1]


def test_edited_evidence_is_not_printed(study):
    folder = run_dir(study['base'] / 'runs', 'smoke-adamw')
    file = folder / 'epoch-1/perquery.csv'
    kept = file.read_text()
    file.write_text(kept.replace(',0\n', ',1\n', 1))
    try:
        p = reproduce('tables', '--study', 'smoke', env=study['env'])
        assert p.returncode == 1 and 'is not the file that the run measured' in p.stderr
    finally:
        file.write_text(kept)


def test_rerank_real_passages(study, tmp_path):
    """A model of the study on DL19's real passages; the first stage must score what the field reports."""
    folder = need('trec-dl')
    model = run_dir(study['base'] / 'runs', 'smoke-lion') / 'epoch-2/model'
    p = reproduce(
        'rerank',
        '--checkpoint',
        model,
        '--collection',
        folder,
        '--depth',
        5,
        '--max-length',
        32,
        '--out',
        tmp_path / 'dl19.run.gz',
        '--json',
        env=study['env'],
    )
    assert p.returncode == 0, p.stderr
    got = json.loads(p.stdout)
    assert (
        got['topics'] == 43
        and got['split'] == 'dl19'
        and set(got['measures']) == {'first stage', 'reranked', 'ceiling'}
    )
    from reproduce_kit.data.trec import read_run

    assert {len(s) for s in read_run(tmp_path / 'dl19.run.gz').values()} == {5}
