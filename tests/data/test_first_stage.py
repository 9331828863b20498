"""Candidates and hard negatives that a run file names, and a teacher who drops some."""

import pytest
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import RunConfig
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import Collection, write_collection
from reproduce_kit.data.pairs import load_pairs
from reproduce_kit.data.trec import write_run
from reproduce_kit.evaluation.test_sets import load_test_sets

CORPUS = {f'd{i}': f'passage {i}' for i in range(60)}
TOPICS = {f'q{i}': f'topic {i}' for i in range(40)}
TESTED = ('q38', 'q39')


@pytest.fixture
def folder(tmp_path):
    """Topics with one answer each; a dense ranking; a teacher that trusts every second passage."""
    splits = dict(train={}, dev={}, test={})
    for i, (topic, text) in enumerate(TOPICS.items()):
        splits['test' if topic in TESTED else 'dev' if i >= 30 else 'train'][topic] = text
    qrels = {topic: {f'd{i}': 1} for i, topic in enumerate(TOPICS)}
    candidates = dict(test={topic: {'d1': 2.0, 'd2': 1.0} for topic in TESTED})
    write_collection(
        Collection('mini', CORPUS, splits, dict.fromkeys(splits, qrels), candidates),
        tmp_path / 'texts',
    )
    dense = {q: {f'd{(i + j) % 60}': 1 - j / 10 for j in range(5)} for i, q in enumerate(TOPICS)}
    teacher = {
        topic: {docid: 5.0 - 4 * (j % 2) for j, docid in enumerate(docs)}
        for topic, docs in dense.items()
    }
    write_run(tmp_path / 'dense.run.gz', dense)
    write_run(tmp_path / 'teacher.run.gz', teacher)
    return tmp_path


def config_of(folder, **changes):
    settings = dict(
        collection=str(folder / 'texts'),
        passage_words=None,
        test_topics=None,
        hard_share=1.0,
        train_pairs=40,
        dev_pairs=8,
        global_batch=8,
        device_batch=8,
        epochs=1,
        depth=3,
    )
    return make_config(SMOKE | settings | changes)


def distances(folder, **changes) -> set:
    """How far down the dense ranking the negatives are."""
    config = config_of(folder, negatives_from=str(folder / 'dense.run.gz'), **changes)
    rows = load_pairs(config)['train']
    numbers = [(int(r['query'].split()[1]), int(r['passage'].split()[1])) for r in rows]
    return {passage - topic for topic, passage in numbers} - {0}


def test_a_run_file_is_the_first_stage(folder):
    found = load_test_sets(config_of(folder, first_stage=str(folder / 'dense.run.gz')))['test']
    assert list(found.candidates['q38']) == ['d38', 'd39', 'd40']
    assert found.first_stage == 'dense'


def test_a_run_file_for_each_test_set(folder):
    write_run(folder / 'dense-test.run', {topic: {'d5': 1.0} for topic in TESTED})
    found = load_test_sets(config_of(folder, first_stage=str(folder / 'dense-{split}.run')))['test']
    assert found.candidates == {topic: {'d5': 1.0} for topic in TESTED}


def test_bm25_may_take_the_place_of_given_candidates(folder):
    found = load_test_sets(config_of(folder, first_stage='bm25'))['test']
    assert 'd38' in found.candidates['q38']
    assert found.first_stage == 'BM25'


def test_negatives_are_those_of_the_run_file(folder):
    assert distances(folder) == {1, 2, 3, 4}


def test_a_teacher_drops_negatives_near_the_answer(folder):
    changes = dict(negatives_teacher=str(folder / 'teacher.run.gz'), negatives_margin=1.0)
    assert distances(folder, **changes) == {1, 3}  # the others have the answer's score


def test_a_margin_of_zero_keeps_equal_scores(folder):
    changes = dict(negatives_teacher=str(folder / 'teacher.run.gz'), negatives_margin=0.0)
    assert distances(folder, **changes) == {1, 2, 3, 4}


@pytest.mark.parametrize('key', ['first_stage', 'negatives_from'])
@pytest.mark.parametrize(
    'lines, problem',
    [
        ('q1 Q0 d1 1 1.0 x\n', '{key}: .*given.run ranks'),
        (''.join(f'q{i} Q0 e1 1 1.0 x\n' for i in range(40)), "{key}: .*passage 'e1' for topic q"),
        ('q1 d1\n', 'given.run, line 1'),
    ],
)
def test_a_run_file_that_does_not_fit_is_told(folder, key, lines, problem):
    (folder / 'given.run').write_text(lines)
    config = config_of(folder, **{key: str(folder / 'given.run')})
    load = load_test_sets if key == 'first_stage' else load_pairs
    with pytest.raises(KitError, match=problem.format(key=key)):
        load(config)


def test_a_teacher_without_the_answers_is_told(folder):
    write_run(folder / 'teacher.run.gz', {'q0': {'d3': 1.0}})
    changes = dict(negatives_teacher=str(folder / 'teacher.run.gz'), negatives_margin=1.0)
    with pytest.raises(KitError, match='scores no answer of 30 of 30 train topics'):
        distances(folder, **changes)


@pytest.mark.parametrize(
    'changes, problem',
    [
        (dict(negatives_margin=1.0), 'negatives_margin: goes with negatives_teacher'),
        (dict(negatives_from='x.run', hard_share=0.0), 'no hard negative is drawn'),
        (dict(negatives_from='x.run', targets='t.run'), 'negatives are drawn from what targets'),
        (
            dict(
                collection='msmarco',
                first_stage='x.run',
                hard_share=None,
                train_triplets=100,
                test_sets=['dl19'],
            ),
            'first_stage: write null for msmarco',
        ),
    ],
)
def test_keys_that_would_not_be_used_are_told(folder, changes, problem):
    with pytest.raises(KitError, match=problem):
        config_of(folder, **changes)


def test_sources_of_their_default_are_no_part_of_an_identity():
    keys = ('first_stage', 'train_from', 'negatives_from', 'negatives_teacher', 'negatives_margin')
    named = RunConfig(**SMOKE, **dict.fromkeys(keys))
    assert named.identity == RunConfig(**SMOKE).identity
    assert RunConfig(**SMOKE, first_stage='bm25').identity != named.identity
