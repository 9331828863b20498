"""BEIR's folders, as its authors' archives unpack."""

import json

import pytest
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import read_collection
from reproduce_kit.data.pairs import load_collection, load_pairs
from reproduce_kit.evaluation.metrics import ceiling, evaluate
from reproduce_kit.evaluation.test_sets import load_test_sets


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture
def beir(tmp_path):
    """Thirty topics to train on and five to test on, all judged 1."""
    folder = tmp_path / 'scifact'
    (folder / 'qrels').mkdir(parents=True)
    passages = [
        dict(_id=str(i), title=f'T{i}', text=f'claim{i} holds', metadata={}) for i in range(40)
    ]
    queries = [dict(_id=f'q{i}', text=f'is claim{i} right', metadata={}) for i in range(36)]
    write_lines(folder / 'corpus.jsonl', passages)
    write_lines(folder / 'queries.jsonl', queries)
    for split, numbers in dict(train=range(30), test=range(30, 35)).items():
        rows = ['query-id\tcorpus-id\tscore', *(f'q{i}\t{i}\t1' for i in numbers)]
        (folder / f'qrels/{split}.tsv').write_text('\n'.join(rows) + '\n')
    run = [f'q{i} Q0 {i - j} {j + 1} {9 - j} given' for i in range(30, 35) for j in range(3)]
    (folder / 'candidates.test.run').write_text('\n'.join(run) + '\n')
    return folder


def config_of(folder, **changes):
    settings = dict(
        collection=str(folder),
        passage_words=None,
        test_topics=None,
        train_pairs=16,
        dev_pairs=6,
        global_batch=8,
        device_batch=8,
        epochs=1,
        hard_share=0.0,  # no first stage for training
    )
    return make_config(SMOKE | settings | changes)


def test_it_trains_and_tests_as_it_is(beir):
    config = config_of(beir)
    assert len(load_collection(config).topics['dev']) == 3  # a tenth of train
    pairs = load_pairs(config)
    assert len(pairs['train']) == 16
    assert all(text.startswith('T') for text in pairs['train']['passage'])
    judged = load_test_sets(config)['test']
    assert all(topic[1:] in docs for topic, docs in judged.candidates.items())


def test_binary_judgments_have_no_measure_above_grade_1(beir):
    judged = load_test_sets(config_of(beir))['test']
    best = ceiling(judged.candidates, judged.qrels, judged.shown)
    assert 'AP(rel=1)' in best
    assert not [name for name in best if 'rel=2' in name or 'rel=3' in name]
    assert (best.mean() > 0).all()


def test_graded_judgments_keep_the_levels_they_reach():
    qrels = {'q1': {'a': 2, 'b': 1}}
    names = list(evaluate({'q1': {'a': 1.0}}, qrels))
    assert 'AP(rel=2)' in names
    assert 'RR(rel=3)@10' not in names


def test_candidates_may_lie_in_the_folder(beir):
    assert read_collection(beir).candidates['test']['q30'] == {'30': 9.0, '29': 8.0, '28': 7.0}


def test_a_folder_without_judgments_is_told(beir):
    for path in (beir / 'qrels').iterdir():
        path.unlink()
    with pytest.raises(KitError, match='no judgments; expected qrels/test.tsv'):
        read_collection(beir)


def test_a_folder_without_passages_is_told(beir):
    (beir / 'corpus.jsonl').unlink()
    with pytest.raises(KitError, match='no corpus.jsonl'):
        read_collection(beir)


def test_judgments_of_other_topics_are_told(beir):
    (beir / 'qrels/test.tsv').write_text('query-id\tcorpus-id\tscore\nother\t3\t1\n')
    with pytest.raises(KitError, match='none of its 1 topics is in queries.jsonl'):
        read_collection(beir)
