"""MS MARCO in miniature, through the real loading code."""

import json

import pytest
from anserini import index_with_anserini

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.data.msmarco import (
    first_triplets,
    labelled_pairs,
    msmarco_pairs,
    passages,
    questions,
    tuning_topics,
)
from reproduce_kit.data.msmarco_qa import qa_v11
from reproduce_kit.data.msmarco_sets import eval_set, held_out_judgments
from reproduce_kit.evaluation.metrics import evaluate
from reproduce_kit.testing.fake_hub import fake_msmarco, fake_qa

RUN = dict(
    collection='msmarco',
    passage_words=None,
    test_topics=None,
    hard_share=None,
    train_triplets=400,
    train_pairs=700,
    dev_pairs=40,
    test_sets=['qa'],
)


@pytest.fixture(scope='module', autouse=True)
def small_hub():
    fake_msmarco()
    fake_qa()


def test_a_repository_that_is_installed_again_has_no_older_files():
    """A hub of one test was once read by another one, which found each passage twice."""
    fake_msmarco(passages=450)
    fake_msmarco()
    assert len(list(passages())) == 300


def test_pairs_are_the_triplets_positives_and_negatives():
    triplets = first_triplets(400)
    tables = labelled_pairs(triplets, 760, 40, 'pairs', 12)
    pairs = [row for table in tables for row in table.to_pylist()]
    found = {(row['query_id'], row['passage_id'], row['label']) for row in pairs}
    expected = set()
    for row in triplets.to_pylist():
        expected.add((row['query_id'], row['positive_id'], 1.0))
        expected.add((row['query_id'], row['negative_id'], 0.0))
    assert found == expected
    assert len(pairs) == 800


def test_a_row_has_the_texts_of_its_ids():
    train = msmarco_pairs(make_config(example_settings(**RUN)))['train']
    ids, row = train.with_format(None)[5], train[5]
    assert row['passage'] == passages()[ids['passage_id']]
    assert row['query'] == questions()[ids['query_id']]


def test_an_unanswered_question_counts_zero():
    qa = qa_v11()
    rows = evaluate(qa.candidates, qa.qrels, qa.shown)
    unanswered = [topic for topic, grades in qa.qrels.items() if not any(grades.values())]
    assert unanswered and len(rows) == len(qa.topics)
    assert (rows.loc[unanswered, 'mrr10_qa_v11'] == 0).all()


def test_the_rank_of_the_selected_passage_decides():
    qa = qa_v11()
    rows = evaluate(qa.candidates, qa.qrels, qa.shown)
    topic = next(topic for topic, grades in qa.qrels.items() if any(grades.values()))
    rank = 1 + list(qa.qrels[topic].values()).index(1)
    assert rows.loc[topic, 'mrr10_qa_v11'] == pytest.approx(1 / rank)


@pytest.mark.parametrize('seed', [1, 12])
def test_no_run_reads_the_topics_that_rates_are_chosen_on(seed):
    triplets = first_triplets(400)
    chosen = set(tuning_topics(triplets.column('query_id')))
    assert len(chosen) == 5
    parts = labelled_pairs(triplets, 600, 40, 'topics', seed)
    train, dev = (set(part['query_id'].to_pylist()) for part in parts)
    assert not chosen & (train | dev)
    assert not train & dev
    as_the_authors = labelled_pairs(triplets, 760, 40, 'pairs', seed)
    assert chosen <= set(as_the_authors[0]['query_id'].to_pylist())


def test_held_out_topics_get_candidates_from_the_index(tmp_path):
    corpus = passages()
    (tmp_path / 'docs').mkdir()
    with open(tmp_path / 'docs/corpus.jsonl', 'w') as file:
        for docid in corpus:
            file.write(json.dumps({'id': docid, 'contents': corpus[docid]}) + '\n')
    index_with_anserini(tmp_path / 'docs', tmp_path / 'index')
    sweep = RUN | dict(train_pairs=600, test_sets=['held-out'], depth=7)
    config = make_config(example_settings(**sweep))
    judged = eval_set('held-out', config, corpus, index=str(tmp_path / 'index'))
    assert judged.qrels == held_out_judgments(first_triplets(400))
    assert set(judged.candidates) == set(tuning_topics(first_triplets(400).column('query_id')))
    assert {len(docs) for docs in judged.candidates.values()} == {7}
    assert set(evaluate(judged.candidates, judged.qrels, judged.shown)) == {
        'nDCG@10',
        'mrr10_held_out',
    }
    again = eval_set('held-out', config, corpus, index='no such index')
    assert again.fingerprint == judged.fingerprint
