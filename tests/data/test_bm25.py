"""Lucene through Pyserini: CACM equals Anserini's own numbers, and an index may be there already."""

import json
import re
import tarfile
from pathlib import Path

import pytest
import pytrec_eval
from anserini import index_with_anserini
from kit import need

from reproduce_kit.cli.doctor import check_java
from reproduce_kit.core import KitError
from reproduce_kit.data.bm25 import lucene_search
from reproduce_kit.data.trec import read_qrels, read_run
from reproduce_kit.evaluation.metrics import evaluate
from reproduce_kit.testing.fake_hub import fake_words

TOPIC = re.compile(r'<DOCNO>\s*(\d+)\s*</DOCNO>(.*?)</DOC>', re.DOTALL)


def extract(archive: Path, folder: Path):
    """Python 3.11.4 and newer have filters."""
    has_filters = hasattr(tarfile, 'data_filter')
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **(dict(filter='data') if has_filters else {}))


def mean(evaluations: dict, measure: str) -> float:
    return sum(row[measure] for row in evaluations.values()) / len(evaluations)


@pytest.fixture(scope='module')
def cacm(tmp_path_factory):
    """(CACM's folder, the best 1000 documents of each of its topics)."""
    folder, documents = need('cacm'), tmp_path_factory.mktemp('cacm')
    extract(folder / 'cacm.tar.gz', documents)
    text = (folder / 'topics.cacm.txt').read_text(errors='replace')
    topics = {match[1]: ' '.join(match[2].split()) for match in TOPIC.finditer(text)}
    return folder, lucene_search(documents, topics, 1000, 0.9, 0.4, format='HtmlCollection')


def test_cacm_is_indexed_as_by_anserini(cacm):
    _, result = cacm
    assert result.stats['documents'] == 3204
    assert result.stats['unique_terms'] == 14363


def test_cacm_is_ranked_as_by_anserini(cacm):
    folder, result = cacm
    qrels = read_qrels(folder / 'qrels.cacm.txt')
    answered = {topic: scores for topic, scores in result.run.items() if scores}
    evaluations = pytrec_eval.RelevanceEvaluator(qrels, {'P.30'}).evaluate(answered)
    assert round(mean(evaluations, 'P_30'), 4) == 0.1942
    assert round(evaluate(result.run, qrels)['AP(rel=1)'].mean(), 4) == 0.3123


def test_cacm_has_every_document_of_anserinis_run(cacm):
    folder, result = cacm
    theirs = read_run(folder / 'cacm-bm25.txt')
    assert all(set(theirs[topic]) <= set(result.run[topic]) for topic in theirs)


def test_searching_an_index_that_is_there_equals_indexing_and_searching(tmp_path):
    """As the prebuilt index is searched, in more than one batch of topics."""
    words, documents = fake_words(), tmp_path / 'docs'
    documents.mkdir()
    passages = [
        json.dumps({'id': f'd{i}', 'contents': ' '.join(words[i * 3 : i * 3 + 9])})
        for i in range(190)
    ]
    (documents / 'corpus.jsonl').write_text('\n'.join(passages) + '\n')
    index_with_anserini(documents, tmp_path / 'index')
    topics = {f't{i}': ' '.join(words[i * 3 + 2 : i * 3 + 4]) for i in range(150)}
    searched = lucene_search(None, topics, 10, index=tmp_path / 'index')
    fresh = lucene_search(documents, topics, 10)
    assert searched == fresh
    assert len(searched.run) == 150
    assert searched.stats['documents'] == 190


def test_without_pyserini_the_search_and_the_doctor_say_what_to_do(tmp_path, monkeypatch):
    """It has no wheels, so it may be missing where all the rest is there."""
    (tmp_path / 'pyserini').mkdir()
    (tmp_path / 'pyserini/__init__.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    for ask in (check_java, lambda: lucene_search(tmp_path, {'q1': 'a topic'})):
        with pytest.raises(
            KitError, match='no first stage without Pyserini: `pip install'
        ) as error:
            ask()
        assert 'run files' in str(error.value)
