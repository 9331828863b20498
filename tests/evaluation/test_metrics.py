"""Our measures against NIST's own expected outputs and published scores of real run files."""

import pytest
from kit import need

from reproduce_kit.data.collection import read_collection
from reproduce_kit.data.trec import read_qrels, read_run
from reproduce_kit.evaluation.metrics import evaluate, means, measure_name

OURS = {
    'map': 'AP',
    'Rprec': 'Rprec',
    'P_10': 'P@10',
    'recall_10': 'R@10',
    'ndcg_cut_10': 'nDCG@10',
}


def expected(path):
    """{(measure, topic): value} of a trec_eval output."""
    return {
        (m, q): v
        for m, q, v in (l.split() for l in path.read_text().splitlines() if len(l.split()) == 3)
    }


@pytest.mark.parametrize(
    'file, level', [('out.test.aq', 1), ('out.test.aqc', 1), ('out.test.aql', 2)]
)
def test_nist(file, level):
    """NIST's own run and expected values, topic by topic and on average.

    .aqc comes from a truncated copy of the run: topic 302 missing, 303 cut after 84 lines. .aql comes from graded
    judgments that NIST keeps in another file; of its topics only 302 (77 relevant documents at both levels) follows
    from the binary qrels.test, with its grades raised to 2.
    """
    folder = need('trec_eval')
    qrels, run, want = (
        read_qrels(folder / 'qrels.test'),
        read_run(folder / 'results.test'),
        expected(folder / file),
    )
    topics = ['301', '302', '303', 'all']
    if file.endswith('aqc'):
        lines = [l.split() for l in (folder / 'results.test').read_text().splitlines()]
        run = {
            '301': run['301'],
            '303': {w[2]: float(w[4]) for w in [w for w in lines if w[0] == '303'][:84]},
        }
    if file.endswith('aql'):
        topics, qrels = ['302'], qrels | {'302': {d: 2 * g for d, g in qrels['302'].items()}}
    got = evaluate(run, qrels)
    for theirs, ours in OURS.items():
        for q in topics:
            if (theirs, q) not in want:
                continue  # nDCG@10 is not in every output
            frame = got[measure_name(ours, level)]
            assert f'{frame[q] if q != "all" else frame.mean():.4f}' == want[theirs, q], (theirs, q)
    assert len([k for k in want if k[0] in OURS and k[1] in topics]) >= 3 * len(topics)


@pytest.mark.parametrize(
    'file, ndcg',
    [('bm25-bert-crossencoder.dl19.res.gz', 0.6855), ('bm25-monot5-top100.dl19.txt', 0.6982)],
)
def test_real_runs_are_read_by_score(file, ndcg):
    run = read_run(need('runs', file))
    got = means(evaluate(run, read_qrels(need('trec-dl', 'qrels.dl19-passage.txt'))))
    assert round(got['nDCG@10'], 4) == ndcg


def test_dl19_first_stage():
    c = read_collection(need('trec-dl'))
    assert list(c.topics) == ['dl19'] and len(c.topics['dl19']) == 43
    assert round(means(evaluate(c.candidates['dl19'], c.qrels['dl19']))['nDCG@10'], 4) == 0.5058
