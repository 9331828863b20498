"""The documentation collection: that its splits are alike, and that nothing leaks between them."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from reproduce_kit.data.docstrings import (
    TRAINED_PACKAGES,
    UNSEEN_PACKAGES,
    build_docstring_collection,
    passages_and_topics,
    split_topics,
)

HELD_OUT = ('dev', 'test', 'unseen')
GRADES = (1, 2, 3)


@pytest.fixture(scope='module')
def docs():
    return build_docstring_collection()


def answers(docs, split):
    return {
        docid
        for topic in docs.topics[split]
        for docid, grade in docs.qrels[split][topic].items()
        if grade == 3
    }


def packages(docids):
    return {docid.split('.')[0] for docid in docids}


def words(text):
    return set(''.join(c if c.isalnum() else ' ' for c in text.lower()).split())


def grade_counts(docs, split, grade):
    "How many documents of a grade each topic of a split has."
    qrels = docs.qrels[split]
    return np.array([Counter(qrels[topic].values())[grade] for topic in docs.topics[split]])


def test_the_splits_have_the_sizes_that_they_are_asked_for(docs):
    assert {split: len(docs.topics[split]) for split in HELD_OUT} == dict(
        dev=100, test=300, unseen=100
    )
    assert len(docs.topics['train']) > 3000


@pytest.mark.parametrize('grade', GRADES)
def test_dev_and_test_topics_have_equal_grade_profiles(docs, grade):
    dev, test = (grade_counts(docs, split, grade) for split in ('dev', 'test'))
    error = np.sqrt(dev.var(ddof=1) / len(dev) + test.var(ddof=1) / len(test))
    assert abs(dev.mean() - test.mean()) < 2.5 * error


def test_dev_and_test_topics_come_from_the_same_packages(docs):
    counts = [
        [sum(t.startswith(package) for t in docs.topics[split]) for package in TRAINED_PACKAGES]
        for split in ('dev', 'test')
    ]
    assert chi2_contingency(counts).pvalue > 0.01


@pytest.mark.parametrize('split', HELD_OUT)
def test_every_held_out_topic_has_related_documents(docs, split):
    related = grade_counts(docs, split, 1) + grade_counts(docs, split, 2)
    assert related.min() > 0


def test_no_answer_is_shared_between_splits(docs):
    for a, b in combinations(('train', *HELD_OUT), 2):
        assert not answers(docs, a) & answers(docs, b), (a, b)


def test_no_training_topic_is_worded_like_a_held_out_topic(docs):
    held_out = [words(text) for split in HELD_OUT for text in docs.topics[split].values()]
    for text in docs.topics['train'].values():
        own = words(text)
        nearest = max(len(own & other) / len(own | other) for other in held_out)
        assert nearest < 0.6, text


def test_no_two_held_out_topics_of_one_kind_are_worded_alike(docs):
    topics = [
        (text, words(text)) for split in ('dev', 'test') for text in docs.topics[split].values()
    ]
    for (text, own), (other, others) in combinations(topics, 2):
        assert len(own & others) < 0.6 * len(own | others), (text, other)


def test_unseen_packages_are_never_trained_on(docs):
    assert packages(answers(docs, 'unseen')) == set(UNSEEN_PACKAGES)
    for split in ('train', 'dev', 'test'):
        assert packages(answers(docs, split)) <= set(TRAINED_PACKAGES)


def test_few_objects_of_one_name_are_related(docs):
    bearers = {}
    for docid in docs.corpus:
        bearers.setdefault(docid.rsplit('.', 1)[-1], set()).add(docid)
    checked = 0
    for split, qrels in docs.qrels.items():
        for docid in answers(docs, split):
            others = bearers[docid.rsplit('.', 1)[-1]] - {docid}
            if 1 <= len(others) <= 2:  # aliases bear the name too, so the limit is not reached
                topic = next(t for t, grades in qrels.items() if grades.get(docid) == 3)
                assert others <= set(qrels[topic]), docid
                checked += 1
    assert checked > 200


def test_the_deal_does_not_depend_on_the_order_of_topics():
    passages, topics, qrels, rich = passages_and_topics(32, ('networkx',))
    splits = split_topics(passages, topics, qrels, rich, 40, 10)
    backwards = dict(reversed(topics.items()))
    assert split_topics(passages, backwards, qrels, rich, 40, 10) == splits
