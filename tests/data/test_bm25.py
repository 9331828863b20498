"""Lucene through Pyserini on CACM equals Anserini's own numbers."""

import re
import tarfile

import pytrec_eval
from kit import need

from reproduce_kit.data.bm25 import lucene_search
from reproduce_kit.data.trec import read_qrels, read_run
from reproduce_kit.evaluation.metrics import evaluate


def test_cacm(tmp_path):
    folder = need('cacm')
    with tarfile.open(folder / 'cacm.tar.gz') as t:
        t.extractall(
            tmp_path, **(dict(filter='data') if hasattr(tarfile, 'data_filter') else {})
        )  # Python 3.11.4 and newer have filters
    text = (folder / 'topics.cacm.txt').read_text(errors='replace')
    topics = {
        m[1]: ' '.join(m[2].split())
        for m in re.finditer(r'<DOCNO>\s*(\d+)\s*</DOCNO>(.*?)</DOC>', text, re.S)
    }
    made = lucene_search(tmp_path, topics, 1000, 0.9, 0.4, format='HtmlCollection')
    run, stats = made.run, made.stats
    assert stats['documents'] == 3204 and stats['unique_terms'] == 14363
    qrels = read_qrels(folder / 'qrels.cacm.txt')
    rows = pytrec_eval.RelevanceEvaluator(qrels, {'P.30'}).evaluate(
        {q: s for q, s in run.items() if s}
    )
    assert round(sum(r['P_30'] for r in rows.values()) / len(rows), 4) == 0.1942
    assert round(evaluate(run, qrels)['AP(rel=1)'].mean(), 4) == 0.3123
    theirs = read_run(folder / 'cacm-bm25.txt')
    assert all(set(theirs[q]) <= set(run[q]) for q in theirs)


def test_an_index_that_is_there(tmp_path):
    """Searching a finished index, as the prebuilt one is searched, in more than one batch of
    topics, equals indexing and searching in one go."""
    import json
    import subprocess
    from importlib.util import find_spec
    from pathlib import Path

    from reproduce_kit.data.bm25 import java_home
    from reproduce_kit.testing.fake_hub import fake_words

    words = fake_words()
    docs = tmp_path / 'docs'
    docs.mkdir()
    (docs / 'corpus.jsonl').write_text(
        ''.join(
            json.dumps({'id': f'd{i}', 'contents': ' '.join(words[i * 3 : i * 3 + 9])}) + '\n'
            for i in range(190)
        )
    )
    jar = sorted(
        (Path(find_spec('pyserini').origin).parent / 'resources/jars').glob('anserini-*-fatjar.jar')
    )[-1]
    subprocess.run(
        [
            java_home() / 'bin/java',
            '-cp',
            jar,
            'io.anserini.index.IndexCollection',
            '-collection',
            'JsonCollection',
            '-input',
            docs,
            '-index',
            tmp_path / 'index',
            '-generator',
            'DefaultLuceneDocumentGenerator',
            '-threads',
            '1',
            '-storePositions',
            '-storeDocvectors',
            '-storeRaw',
        ],
        check=True,
        capture_output=True,
    )
    topics = {f't{i}': ' '.join(words[i * 3 + 2 : i * 3 + 4]) for i in range(150)}
    there, fresh = (
        lucene_search(None, topics, 10, index=tmp_path / 'index'),
        lucene_search(docs, topics, 10),
    )
    assert (
        there.run == fresh.run
        and there.stats == fresh.stats
        and len(there.run) == 150
        and there.stats['documents'] == 190
    )
