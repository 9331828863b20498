"""`make gpu-bars`, rehearsed on the processor: its parts, its limits, and what it needs."""

import importlib.util
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from importlib.metadata import requires

import pytest
import torch
from conftest import DATA, ROOT
from tokenizers import Tokenizer

sys.path.insert(0, str(ROOT / 'tools'))

import gpu_bars
from gpu_parts import FULL, MEASURES, TINY, Part, parts_of, shape_of

from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.core import KitError
from reproduce_kit.models.backbone import weights_folder
from reproduce_kit.speed.gpu_bars import Bar, BarMachine, read_bars
from reproduce_kit.speed.random_models import dl19_lengths

# Packages of an image with torch, transformers and sentence-transformers
BARE = {
    'accelerate',
    'filelock',
    'fsspec',
    'httpx',
    'huggingface-hub',
    'numpy',
    'packaging',
    'pandas',
    'psutil',
    'pyarrow',
    'pyyaml',
    'requests',
    'safetensors',
    'scikit-learn',
    'scipy',
    'sentence-transformers',
    'tokenizers',
    'torch',
    'tqdm',
    'transformers',
    'triton',
    'typing-extensions',
    'xxhash',
}
# The parts of the rehearsal see nothing else: an import by the kit of what is not named fails.
ONLY_BARE_IMPORTS = '''
import builtins, sys

KIT = ('reproduce_kit', 'gpu_parts', 'gpu_bars', '__main__')
ALLOWED = {names} | set(sys.stdlib_module_names) | set(KIT)
real_import = builtins.__import__

def only_bare(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {{}}).get('__name__', '').split('.')[0]
    if not level and importer in KIT and name.split('.')[0] not in ALLOWED:
        raise ModuleNotFoundError(f'{{importer}} imports {{name}}, which a bare machine lacks')
    return real_import(name, globals, locals, fromlist, level)

builtins.__import__ = only_bare
'''
MACHINE = BarMachine('NVIDIA H200', '2026-05-07', '', '3.12.3', '2.11.0', '13.0', '3.6.0', '', '')
HAS_TRITON = importlib.util.find_spec('triton') is not None


FORK = multiprocessing.get_context('fork')


def session(csv, seconds=100.0):
    return gpu_bars.Session(FORK, csv, MACHINE, TINY, time.time() + seconds)


def seconds_of_children() -> float:
    """Processor seconds: other tests run at the same time."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_tool(*options, **changes):
    command = [sys.executable, ROOT / 'tools/gpu_bars.py', *map(str, options)]
    env = os.environ | changes
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)


# The rehearsal


@pytest.fixture(scope='module')
def rehearsal(tmp_path_factory):
    """The lines of a rehearsal on a bare machine by part, and the seconds of its processes."""
    folder = tmp_path_factory.mktemp('bars')
    csv = folder / 'bars.csv'
    names = {name.replace('-', '_') for name in BARE | set(carried())} | {'yaml'}
    (folder / 'sitecustomize.py').write_text(ONLY_BARE_IMPORTS.format(names=names))
    before = seconds_of_children()
    paths = os.pathsep.join([str(folder), os.environ.get('PYTHONPATH', '')])
    process = run_tool('--rehearse', '--csv', csv, PYTHONPATH=paths)
    assert process.returncode == 0, process.stdout + process.stderr
    parts = defaultdict(list)
    for line in read_bars(csv):
        parts[line.bar.part].append(line)
    return parts, seconds_of_children() - before


def bars(rehearsal, part):
    return [line.bar for line in rehearsal[0][part]]


def test_every_part_has_lines_and_none_has_a_problem(rehearsal):
    assert list(rehearsal[0]) == list(MEASURES)
    assert not [
        bar.problem for part in rehearsal[0] for bar in bars(rehearsal, part) if bar.problem
    ]


def test_a_line_says_when_and_with_what_it_was_measured(rehearsal):
    machine = rehearsal[0]['training'][0].machine
    assert re.fullmatch(r'20\d\d-\d\d-\d\d', machine.date)
    assert machine.torch == torch.__version__
    assert machine.transformers and machine.sentence_transformers and machine.python
    assert machine.gpu == ''


def test_both_trainers_are_timed_for_both_backbones(rehearsal):
    timed = {(bar.backbone, bar.side) for bar in bars(rehearsal, 'training')}
    sides = ('stock', 'ours', 'matrix product')
    assert timed == {(backbone, side) for backbone in TINY.batches for side in sides}
    assert all(0 < bar.of_limit <= 1 for bar in bars(rehearsal, 'training'))


def test_three_precisions_are_timed_and_compared(rehearsal):
    errors = {bar.precision: bar.error for bar in bars(rehearsal, 'scoring') if bar.side == 'ours'}
    assert set(errors) == {'fp32', 'tf32', 'bf16'}
    assert errors['fp32'] == 0 and 0 < errors['bf16'] < 1


def test_optimizers_are_compared_with_the_bandwidth(rehearsal):
    of_limit = {bar.side: bar.of_limit for bar in bars(rehearsal, 'steps')}
    assert set(of_limit) == {'lion-pytorch', 'ours', 'AdamW, fused', 'copy', 'scale in place'}
    assert all(of_limit.values())


def test_the_state_of_lion_is_half_of_adamws(rehearsal):
    state = {(bar.backbone, bar.side): bar.state_mib for bar in bars(rehearsal, 'memory')}
    for backbone in TINY.memory:
        ratio = state[backbone, 'AdamW, fused'] / state[backbone, 'ours']
        assert ratio == pytest.approx(2, abs=1e-3)


@pytest.mark.skipif(not HAS_TRITON, reason='Triton is not installed (make triton)')
def test_the_kernels_of_pooling_agree_with_torch(rehearsal):
    measured = bars(rehearsal, 'pooling')
    assert {bar.side for bar in measured} == {'torch', 'Triton'}
    assert {bar.case.split(',')[0] for bar in measured} == {'forward', 'backward'}
    assert max(bar.error for bar in measured) < 1e-6


def test_encoders_are_compared_with_pooling_off(rehearsal):
    measured = bars(rehearsal, 'encoding')
    assert {bar.side for bar in measured} == {'pooling off', 'TITE 1', 'TITE 2'}
    assert all(bar.of_limit for bar in measured if bar.side != 'pooling off')


def test_the_rehearsal_takes_less_than_a_minute(rehearsal):
    assert rehearsal[1] < 45


# Limits


def test_the_limits_of_all_parts_fit_into_nine_minutes():
    seconds = sum(part.seconds for part in parts_of(FULL))
    assert seconds + 30 < gpu_bars.TOTAL_SECONDS < 9 * 60  # imports for a look at the machine


def test_a_part_that_runs_over_is_ended_with_all_that_it_started(tmp_path):
    """Also what a data loader or a compiler started."""
    late = tmp_path / 'late'

    def work():
        subprocess.Popen(['sh', '-c', f'sleep 2; touch {late}'])
        time.sleep(60)

    start = time.time()
    _, problem = gpu_bars.run_limited(FORK, 1.0, work)
    assert problem == 'over its limit of 1 s'
    time.sleep(max(0, start + 3 - time.time()))
    assert not late.exists()


def test_a_part_that_dies_says_why():
    def work():
        print('measuring', flush=True)
        raise RuntimeError('CUDA error: no kernel image')

    text, problem = gpu_bars.run_limited(FORK, 20.0, work)
    assert 'measuring' in text
    assert problem == 'exit 1: RuntimeError: CUDA error: no kernel image'


@pytest.mark.soak
def test_a_process_that_starts_afresh_measures_the_same(tmp_path):
    """As on a GPU, where a forked process could not use it."""
    spawn = multiprocessing.get_context('spawn')
    csv = tmp_path / 'bars.csv'
    work = (Part('steps', 40), csv, time.time() + 40, TINY)
    assert gpu_bars.run_limited(spawn, 120, gpu_bars.measure_part, *work)[1] == ''
    assert {line.bar.backbone for line in read_bars(csv)} == set(TINY.batches)


def test_data_loaders_of_a_fresh_process_fork():
    """A child of `spawn` would spawn its own children too, each of which imports everything."""
    spawn = multiprocessing.get_context('spawn')
    code = 'import multiprocessing; print(multiprocessing.get_start_method())'
    assert gpu_bars.run_limited(spawn, 60, exec, code) == ('fork\n', '')


def test_a_part_that_dies_loses_neither_its_own_lines_nor_those_of_others(tmp_path, monkeypatch):
    csv = tmp_path / 'bars.csv'

    def works(backbone, sizes, left):
        yield Bar('training', 'ours', backbone, seconds=1.0)

    def dies(backbone, sizes, left):
        yield Bar('scoring', 'ours', backbone, seconds=1.0)
        raise RuntimeError('out of luck')

    monkeypatch.setattr(gpu_bars, 'MEASURES', dict(training=works, scoring=dies))
    parts = [Part('training', 60, 'a'), Part('scoring', 60, 'a'), Part('training', 60, 'b')]
    assert gpu_bars.measure_all(parts, session(csv)) == 1
    found = [(line.bar.part, line.bar.backbone, line.bar.problem) for line in read_bars(csv)]
    assert found == [
        ('training', 'a', ''),
        ('scoring', 'a', ''),
        ('scoring', 'a', 'exit 1: RuntimeError: out of luck'),
        ('training', 'b', ''),
    ]


def test_parts_for_which_no_time_is_left_say_so(tmp_path):
    csv = tmp_path / 'bars.csv'
    assert gpu_bars.measure_all([Part('steps', 40)], session(csv, seconds=3)) == 1
    assert read_bars(csv)[0].bar.problem == 'no time left'


# What a machine needs


def carried() -> dict:  # {package: version}
    lines = (ROOT / 'tools/gpu_wheels.txt').read_text().splitlines()
    return dict(line.split('==') for line in lines if '==' in line)


def test_the_wheels_are_those_of_the_lock():
    locked = (ROOT / 'requirements.lock').read_text().splitlines()
    for name, number in carried().items():
        assert any(line.startswith(f'{name}=={number}') for line in locked), name


def test_what_the_wheels_need_is_on_the_machine_or_among_them():
    for name in carried():
        needs = [need for need in requires(name) or [] if 'extra ==' not in need]
        names = {re.match('[A-Za-z0-9_.-]+', need)[0].lower() for need in needs}
        assert names <= BARE | set(carried()), name


def make_wheel(folder, name, number):
    with zipfile.ZipFile(folder / f'{name}-{number}-py3-none-any.whl', 'w') as archive:
        archive.writestr(f'{name}/__init__.py', f'number = {number!r}')


def test_wheels_are_unpacked_where_they_can_be_imported(tmp_path, monkeypatch):
    make_wheel(tmp_path, 'some_package', '1.2')
    site = tmp_path / 'site'
    gpu_bars.unpack_wheels([('some-package', '1.2')], tmp_path, site)
    monkeypatch.syspath_prepend(site)
    assert importlib.import_module('some_package').number == '1.2'


def test_a_missing_wheel_is_named_before_anything_starts(tmp_path):
    with pytest.raises(KitError, match='some-package 1.2 is not installed.*make gpu-wheels'):
        gpu_bars.unpack_wheels([('some-package', '1.2')], tmp_path, tmp_path / 'site')
    assert not (tmp_path / 'site').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_nothing_is_measured(tmp_path):
    process = run_tool('--csv', tmp_path / 'bars.csv')
    assert process.returncode == 1
    assert process.stderr.startswith('gpu-bars: torch sees no GPU here; measure on a machine')
    assert process.stderr.count('\n') == 1
    assert not (tmp_path / 'bars.csv').exists()


def test_another_file_is_not_touched(tmp_path):
    other = tmp_path / 'other.csv'
    other.write_text('a,b\n1,2\n')
    process = run_tool('--rehearse', '--csv', other)
    assert 'not the columns of GPU bars' in process.stderr
    assert other.read_text() == 'a,b\n1,2\n'


# What is measured


@pytest.mark.parametrize('sizes', [FULL, TINY], ids=['full', 'tiny'])
def test_shapes_are_those_of_the_backbones(sizes):
    for backbone in {*sizes.batches, *sizes.memory}:
        assert shape_of(backbone) == BACKBONES[backbone].expect


def test_lengths_are_those_of_dl_2019():
    path = DATA / 'trec-dl/bm25-top100-text.dl19.json'
    if not path.exists():
        pytest.skip(f'{path} is missing')
    tokenizer = Tokenizer.from_file(str(weights_folder('minilm-l6-h384') / 'tokenizer.json'))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def tokens(texts):
        return sorted(len(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False))

    topics = json.loads(path.read_text())
    assert tokens([topic['query'] for topic in topics]) == dl19_lengths().topics.tolist()
    passages = [hit['content'] for topic in topics for hit in topic['hits']]
    assert tokens(passages) == dl19_lengths().passages.tolist()
