"""A teacher's scores as labels: only what it scored is drawn, and its scores are what is learnt."""

import pytest
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import Collection, write_collection
from reproduce_kit.data.pairs import load_pairs
from reproduce_kit.data.trec import write_run


@pytest.fixture
def folder(tmp_path):
    """Twenty topics with one answer each, and a teacher that scored five passages of each."""
    corpus = {f'd{i}': f'passage {i}' for i in range(20)}
    topics = {f'q{i}': f'topic {i}' for i in range(20)}
    qrels = {topic: {f'd{i}': 1} for i, topic in enumerate(topics)}
    splits = dict(train=dict(list(topics.items())[:12]), dev=dict(list(topics.items())[12:]))
    splits['test'] = {'q19': topics['q19']}
    splits['dev'].pop('q19')
    write_collection(
        Collection('mini', corpus, splits, dict.fromkeys(splits, qrels)), tmp_path / 'texts'
    )
    scores = {q: {f'd{(i + j) % 20}': 5.0 - j / 7 for j in range(5)} for i, q in enumerate(topics)}
    write_run(tmp_path / 'teacher.run.gz', scores, tag='teacher')
    return tmp_path, scores


def config_of(folder, **changes):
    settings = dict(
        collection=str(folder / 'texts'),
        passage_words=None,
        test_topics=None,
        targets=str(folder / 'teacher.run.gz'),
        train_pairs=24,
        dev_pairs=8,
        global_batch=8,
        device_batch=8,
        epochs=1,
    )
    return make_config(SMOKE | settings | changes)


def number(text):
    return text.split()[1]


def test_pairs_have_the_teacher_s_scores(folder):
    path, scores = folder
    rows = load_pairs(config_of(path, loss='MSELoss'))['train']
    assert len(rows) == 24
    for row in rows:
        expected = scores[f'q{number(row["query"])}'][f'd{number(row["passage"])}']
        assert row['label'] == pytest.approx(expected, abs=1e-5)


def test_lists_and_margins_have_them_too(folder):
    path, scores = folder
    rows = load_pairs(config_of(path, loss='ListNetLoss', negatives=3))['train']
    assert len(rows) == 6
    for row in rows:
        own = scores[f'q{number(row["query"])}']
        expected = [own[f'd{number(text)}'] for text in row['docs']]
        assert row['labels'] == pytest.approx(expected, abs=1e-5)
    rows = load_pairs(config_of(path, loss='MarginMSELoss', negatives=3))['train']
    for row in rows:
        own = scores[f'q{number(row["query"])}']
        texts = [row['positive'], row['negative_1'], row['negative_2'], row['negative_3']]
        first, *others = (own[f'd{number(text)}'] for text in texts)
        assert row['label'] == pytest.approx([first - other for other in others], abs=1e-5)


def test_other_scores_are_other_data(folder):
    path, scores = folder
    before = load_pairs(config_of(path, loss='MSELoss'))['fingerprint']
    scores['q0']['d0'] = 9.0
    write_run(path / 'teacher.run.gz', scores, tag='teacher')
    assert load_pairs(config_of(path, loss='MSELoss'))['fingerprint'] != before


def test_a_teacher_that_scored_too_little_is_told(folder):
    path, scores = folder
    write_run(path / 'teacher.run.gz', {'q0': scores['q0'], 'q1': scores['q1']}, tag='teacher')
    with pytest.raises(KitError, match='has 2 train topics with an answer; 24 pairs need 12'):
        load_pairs(config_of(path, loss='MSELoss'))


def test_targets_of_a_loss_without_labels_are_told(folder):
    with pytest.raises(KitError, match='targets: write null, since Multiple'):
        config_of(folder[0], loss='MultipleNegativesRankingLoss')
