"""The Ettin recipe's committed files, in miniature.

ModernBERT learns a teacher's scores of MS MARCO's pairs."""

import json
import os

import pytest
from conftest import ROOT
from miniature import go
from tiny import TINY_BATCH, keep_mini

from reproduce_kit.config.files import make_config, read_runs
from reproduce_kit.core import KitError
from reproduce_kit.data.msmarco import first_triplets
from reproduce_kit.data.pairs import load_pairs
from reproduce_kit.data.trec import write_run
from reproduce_kit.engines.compliance import check_run
from reproduce_kit.models.backbone import weights_folder
from reproduce_kit.testing.fake_hub import fake_model, fake_msmarco

FILES = sorted((ROOT / 'params/ettin/as-published').glob('*.yaml'))
PUBLISHED = {  # size: (rate, global batch), the table of the blog
    '17m': (2.4e-4, 1024),
    '32m': (1.2e-4, 512),
    '68m': (3e-5, 256),
    '150m': (1.5e-5, 192),
    '400m': (7e-6, 256),
    '1b': (3e-6, 512),
}
BATCHES = TINY_BATCH | {1024: 16}


def config_of(file, **changes):
    """A committed file at toy size: what makes the recipe stays."""
    config = read_runs(file)[0]
    batch = BATCHES[config.global_batch]
    small = dict(
        study='tiny',
        backbone='tiny-modernbert',
        layers=2,
        max_length=64,
        train_triplets=200,
        train_pairs=4 * batch,
        dev_pairs=20,
        test_sets=['mini'],
        global_batch=batch,
        device_batch=batch,
        precision='auto',
        log_steps=1,
        save_steps=2,
        gpu=None,
        gpu_fallbacks=[],
        workers=0,
    )
    return make_config(json.loads(config.model_dump_json()) | small | changes)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """A hub with MS MARCO and tiny ModernBERT, and a teacher's scores of nine pairs in ten."""
    base = tmp_path_factory.mktemp('ettin')
    kept = {key: os.environ.get(key) for key in ('REPRODUCE_CACHE', 'REPRODUCE_RUNS')}
    os.environ |= dict(REPRODUCE_CACHE=str(base / 'cache'), REPRODUCE_RUNS=str(base / 'runs'))
    fake_msmarco()
    fake_model('tiny-modernbert')
    scores = {}
    for number, row in enumerate(first_triplets(400).to_pylist()):
        if number % 10:
            by_passage = scores.setdefault(str(row['query_id']), {})
            by_passage[str(row['positive_id'])] = 8.0 + number / 100
            by_passage[str(row['negative_id'])] = -6.0 - number / 100
    write_run(base / 'teacher.run.gz', scores, tag='teacher')
    config = config_of(FILES[0], targets=str(base / 'teacher.run.gz'))
    keep_mini(config)
    yield str(base / 'teacher.run.gz'), scores
    for key, value in kept.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})


def test_rates_and_batches_are_those_that_were_published():
    runs = {file.stem: read_runs(file)[0] for file in FILES}
    assert {n: (run.learning_rate, run.global_batch) for n, run in runs.items()} == PUBLISHED


def test_only_rate_batch_and_size_differ():
    runs = [read_runs(file)[0].model_dump() for file in FILES]
    differ = {key for key in runs[0] if len({str(run[key]) for run in runs}) > 1}
    sizes = {'name', 'backbone', 'layers', 'device_batch', 'gpu'}
    assert differ == sizes | {'learning_rate', 'global_batch'}


def test_an_encoder_without_a_commit_is_one_sentence():
    with pytest.raises(KitError, match='without its commit; `reproduce data pin ettin`'):
        weights_folder('ettin-17m')


def test_the_labels_of_msmarco_pairs_are_the_teacher_s_scores(teacher):
    path, scores = teacher
    config = config_of(FILES[0], targets=path)
    rows = load_pairs(config)['train']
    known = {round(score, 4) for docs in scores.values() for score in docs.values()}
    labels = {round(label, 4) for label in rows['label']}
    assert len(rows) == config.train_pairs and labels <= known
    assert min(labels) < -6 and max(labels) > 8


def test_too_few_scored_pairs_are_told(teacher, tmp_path):
    _, scores = teacher
    topic = next(iter(scores))
    write_run(tmp_path / 'few.run.gz', {topic: scores[topic]}, tag='teacher')
    with pytest.raises(KitError, match='train_pairs: 24 and 20 dev_pairs are asked for'):
        load_pairs(config_of(FILES[0], targets=str(tmp_path / 'few.run.gz')))


@pytest.mark.parametrize(
    'file',
    [pytest.param(f, marks=pytest.mark.soak if n else []) for n, f in enumerate(FILES)],
    ids=lambda file: file.stem,
)
def test_a_committed_file_runs_to_its_measured_end(teacher, file):
    run = go(config_of(file, targets=teacher[0]))
    assert run.done and check_run(run) == []
    assert (run.epoch(1) / 'mini.run.gz').exists()
