"""Lucene through Pyserini on CACM equals Anserini's own numbers."""
import re
import tarfile

import pytrec_eval

from kit import need
from reproduce_kit.metrics import evaluate
from reproduce_kit.retrieval import lucene
from reproduce_kit.trec import read_qrels, read_run


def test_cacm(tmp_path):
    folder = need('cacm')
    with tarfile.open(folder / 'cacm.tar.gz') as t: t.extractall(tmp_path, filter='data')
    text = (folder / 'topics.cacm.txt').read_text(errors='replace')
    topics = {m[1]: ' '.join(m[2].split()) for m in re.finditer(r'<DOCNO>\s*(\d+)\s*</DOCNO>(.*?)</DOC>', text, re.S)}
    made = lucene(tmp_path, topics, 1000, 0.9, 0.4, format='HtmlCollection'); run, stats = made['run'], made['stats']
    assert stats['documents'] == 3204 and stats['unique_terms'] == 14363
    qrels = read_qrels(folder / 'qrels.cacm.txt')
    rows = pytrec_eval.RelevanceEvaluator(qrels, {'P.30'}).evaluate({q: s for q, s in run.items() if s})
    assert round(sum(r['P_30'] for r in rows.values()) / len(rows), 4) == 0.1942
    assert round(evaluate(run, qrels)['AP(rel=1)'].mean(), 4) == 0.3123
    theirs = read_run(folder / 'cacm-bm25.txt')
    assert all(set(theirs[q]) <= set(run[q]) for q in theirs)
