"""Folders of other people: lenient about names, strict about contents."""

import json

import pytest

from reproduce_kit.core import KitError
from reproduce_kit.data.collection import read_collection

HIT = dict(qid=7, docid=3, rank=1, score=2.5, content='A flea.')


@pytest.fixture
def folder(tmp_path):
    """One split with text, and one that is judged but has none."""
    hits = [dict(query='do fleas live', hits=[HIT])]
    (tmp_path / 'bm25-text.dl99.json').write_text(json.dumps(hits))
    (tmp_path / 'qrels.dl99-passage.txt').write_text('7 0 3 2\n8 0 3 0\n')
    (tmp_path / 'qrels.dl98.txt').write_text('1 0 1 1\n')
    return tmp_path


def test_candidates_with_text_are_a_collection(folder):
    collection = read_collection(folder)
    assert collection.topics == {'dl99': {'7': 'do fleas live'}}
    assert collection.candidates['dl99'] == {'7': {'3': 2.5}}
    assert collection.corpus == {'3': 'A flea.'}


def test_a_wrong_line_of_the_corpus_is_named(folder):
    (folder / 'corpus.jsonl').write_text('{"id": "1"}\n')
    with pytest.raises(KitError, match='corpus.jsonl, line 1'):
        read_collection(folder)


def test_a_wrong_line_of_beir_qrels_is_named(tmp_path):
    (tmp_path / 'qrels').mkdir()
    (tmp_path / 'corpus.jsonl').write_text('{"_id": "d1", "text": "order"}\n')
    (tmp_path / 'queries.jsonl').write_text('{"_id": "q1", "text": "sort"}\n')
    (tmp_path / 'qrels/test.tsv').write_text('query-id\tcorpus-id\tscore\nq1 d1 1\n')
    with pytest.raises(KitError, match='test.tsv, line 2'):
        read_collection(tmp_path)
