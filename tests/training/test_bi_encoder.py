"""A bi-encoder in miniature.

Trained on a teacher's scores, stopped and resumed, measured on one collection and on several."""

import json
import shutil

import pytest

from reproduce_kit.core import KitError, cache_lock
from reproduce_kit.data.trec import read_run
from reproduce_kit.store.history import read_history
from reproduce_kit.testing.fake_bi_encoder import fake_bi_encoder
from reproduce_kit.training.bi_encoder import distil, measure_bi_encoder
from reproduce_kit.training.distillation import distil_rows
from reproduce_kit.training.teacher import teacher_scores, training_texts


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """The settings, the training rows and what was measured after a whole training."""
    folder = tmp_path_factory.mktemp('bi-encoder')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_ROOT', str(folder))
        patch.setenv('REPRODUCE_RUNS', str(folder / 'runs'))
        settings = fake_bi_encoder(folder)
        topics, corpus, fingerprint = training_texts(settings)
        scores = teacher_scores(settings, topics, corpus, fingerprint)
        rows = distil_rows(topics, corpus, scores, settings.passages, settings.seed)
        distil(settings, rows, progress=False)
        yield settings, rows, measure_bi_encoder(settings, progress=False)


def test_it_ranks_far_better_than_chance(study):
    _, _, done = study
    assert done['means']['test']['nDCG@10'] > 0.5


def test_the_history_has_each_logged_update_once(study):
    settings, _, _ = study
    steps = [line['step'] for line in read_history(settings.folder)]
    assert steps == [5, 10, 15, 20, 25, 30, 35, 40]


def test_a_stopped_training_ends_in_the_same_weights_and_history(study):
    settings, rows, done = study
    again = settings.model_copy(update=dict(name='stopped'))
    distil(again, rows, progress=False, stop_after=23)
    assert not (again.folder / 'model').exists()
    distil(again, rows, progress=False)
    assert measure_bi_encoder(again, progress=False)['weights'] == done['weights']
    assert read_history(again.folder) == read_history(settings.folder)


def test_other_rows_in_the_same_folder_are_an_error(study):
    settings, rows, _ = study
    reversed_rows = rows | dict(query=rows['query'][::-1])
    with pytest.raises(KitError, match='began with other training rows'):
        distil(settings, reversed_rows)


def test_two_processes_do_not_train_one_bi_encoder(study):
    settings, rows, _ = study
    with (
        cache_lock(settings.folder.name),
        pytest.raises(KitError, match='by another process'),
    ):
        distil(settings, rows)


def test_a_ranking_that_is_there_is_not_searched_again(study):
    settings, _, done = study
    written = (settings.folder / 'test.run.gz').stat().st_mtime_ns
    (settings.folder / 'done.json').unlink()
    assert measure_bi_encoder(settings, progress=False)['means'] == done['means']
    assert (settings.folder / 'test.run.gz').stat().st_mtime_ns == written


def write_beir(folder, relevant):
    """A BEIR data set of three passages, one of which is the topic itself."""
    passages = {'d1': 'bada', 'd2': 'gogo nunu', 'q1': 'bada'}
    lines = [json.dumps({'_id': d, 'text': text}) for d, text in passages.items()]
    (folder / 'qrels').mkdir(parents=True)
    (folder / 'corpus.jsonl').write_text('\n'.join(lines) + '\n')
    (folder / 'queries.jsonl').write_text('{"_id": "q1", "text": "bada"}\n')
    (folder / 'qrels/test.tsv').write_text(f'query-id\tcorpus-id\tscore\nq1\t{relevant}\t1\n')


def test_measures_are_averaged_over_the_data_sets_of_one_folder(study, tmp_path):
    """The answer is first in one data set and second in the other.

    The topic's own text is left out."""
    settings, _, _ = study
    write_beir(tmp_path / 'dup/a', relevant='d1')
    write_beir(tmp_path / 'dup/b', relevant='d2')
    both = settings.model_copy(update=dict(name='dup', test_sets=[str(tmp_path / 'dup')]))
    shutil.copytree(settings.folder, both.folder)
    (both.folder / 'done.json').unlink()
    means = measure_bi_encoder(both, progress=False)['means']
    assert list(means) == ['dup']
    assert means['dup']['RR(rel=1)@10'] == 0.75
    assert 'q1' not in read_run(both.folder / 'a.run.gz')['q1']
