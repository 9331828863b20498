"""Our measures against NIST's own expected outputs and published scores of real run files."""
import pytest

from kit import need
from reproduce_kit.collection import read_collection
from reproduce_kit.metrics import evaluate, means
from reproduce_kit.trec import read_qrels, read_run

OURS = {'map': 'AP', 'Rprec': 'Rprec', 'P_10': 'P@10', 'recall_10': 'R@10', 'ndcg_cut_10': 'nDCG@10'}


def expected(path):
    """{(measure, topic): value} of a trec_eval output."""
    return {(m, q): v for m, q, v in (l.split() for l in path.read_text().splitlines() if len(l.split()) == 3)}


@pytest.mark.parametrize('file, level', [('out.test.aq', 1), ('out.test.aqc', 1), ('out.test.aql', 2)])
def test_nist(file, level):
    from reproduce_kit.metrics import named
    folder = need('trec_eval')
    qrels, run, want = read_qrels(folder / 'qrels.test'), read_run(folder / 'results.test'), expected(folder / file)
    topics = sorted({q for _, q in want} - {'all'})
    got = evaluate(run, {q: qrels[q] for q in topics})
    checked = 0
    for theirs, ours in OURS.items():
        for q in [*topics, 'all']:
            if (theirs, q) not in want: continue
            frame = got[named(ours, level)]
            assert f'{frame[q] if q != "all" else frame.mean():.4f}' == want[theirs, q], (theirs, q)
            checked += 1
    assert checked >= 3 * len(topics)


@pytest.mark.parametrize('file, ndcg', [('bm25-bert-crossencoder.dl19.res.gz', 0.6855), ('bm25-monot5-top100.dl19.txt', 0.6982)])
def test_real_runs_are_read_by_score(file, ndcg):
    run = read_run(need('runs', file))
    got = means(evaluate(run, read_qrels(need('trec-dl', 'qrels.dl19-passage.txt'))))
    assert round(got['nDCG@10'], 4) == ndcg


def test_dl19_first_stage():
    c = read_collection(need('trec-dl'))
    assert list(c.topics) == ['dl19'] and len(c.topics['dl19']) == 43
    assert round(means(evaluate(c.candidates['dl19'], c.qrels['dl19']))['nDCG@10'], 4) == 0.5058
