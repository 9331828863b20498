"""Our measures against NIST's own expected outputs and published scores of real run files."""

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Judged
from kit import need

from reproduce_kit.core import KitError
from reproduce_kit.data.collection import read_collection
from reproduce_kit.data.trec import read_qrels, read_run
from reproduce_kit.evaluation.metrics import (
    CHUNK_CANDIDATES,
    JUDGED,
    KNOWN_ITEM,
    evaluate,
    means,
    measure_name,
    read_perquery,
    write_perquery,
)

OUR_NAMES = {
    'map': 'AP',
    'Rprec': 'Rprec',
    'P_10': 'P@10',
    'recall_10': 'R@10',
    'ndcg_cut_10': 'nDCG@10',
}


def read_expected(path):
    """{(measure, topic): value} of a trec_eval output."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return {(row[0], row[1]): row[2] for row in rows if len(row) == 3}


def assert_expected(perquery, expected, level, topics):
    """Each value that trec_eval printed is ours, digit by digit."""
    checked = 0
    for (measure, topic), value in expected.items():
        if measure not in OUR_NAMES or topic not in topics:
            continue
        column = perquery[measure_name(OUR_NAMES[measure], level)]
        ours = column.mean() if topic == 'all' else column[topic]
        assert f'{ours:.4f}' == value, (measure, topic)
        checked += 1
    assert checked >= 3 * len(topics)


@pytest.fixture
def nist():
    """The folder, judgments and run of trec_eval's own tests."""
    folder = need('trec_eval')
    return folder, read_qrels(folder / 'qrels.test'), read_run(folder / 'results.test')


def test_every_topic_is_trec_evals(nist):
    folder, qrels, run = nist
    expected = read_expected(folder / 'out.test.aq')
    assert_expected(evaluate(run, qrels), expected, 1, ['301', '302', '303', 'all'])


def test_missing_topics_count_zero_as_under_trec_eval_c(nist):
    """NIST's values come from a shorter run: topic 302 is missing, 303 is cut after 84 lines."""
    folder, qrels, run = nist
    rows = [line.split() for line in (folder / 'results.test').read_text().splitlines()]
    first_lines = [row for row in rows if row[0] == '303'][:84]
    shorter = {'301': run['301'], '303': {row[2]: float(row[4]) for row in first_lines}}
    expected = read_expected(folder / 'out.test.aqc')
    assert_expected(evaluate(shorter, qrels), expected, 1, ['301', '302', '303', 'all'])


def test_level_two_is_trec_evals(nist):
    """NIST keeps the graded judgments elsewhere.

    Topic 302 follows from the binary ones, doubled."""
    folder, qrels, run = nist
    doubled = qrels | {'302': {docid: 2 * grade for docid, grade in qrels['302'].items()}}
    expected = read_expected(folder / 'out.test.aql')
    assert_expected(evaluate(run, doubled), expected, 2, ['302'])


@pytest.mark.parametrize(
    'file, ndcg',
    [('bm25-bert-crossencoder.dl19.res.gz', 0.6855), ('bm25-monot5-top100.dl19.txt', 0.6982)],
)
def test_real_runs_are_read_by_score(file, ndcg):
    run = read_run(need('runs', file))
    qrels = read_qrels(need('trec-dl', 'qrels.dl19-passage.txt'))
    assert round(means(evaluate(run, qrels))['nDCG@10'], 4) == ndcg


def test_dl19_first_stage_scores_what_is_published():
    collection = read_collection(need('trec-dl'))
    assert list(collection.topics) == ['dl19'] and len(collection.topics['dl19']) == 43
    perquery = evaluate(collection.candidates['dl19'], collection.qrels['dl19'])
    assert round(means(perquery)['nDCG@10'], 4) == 0.5058


def test_topics_of_several_chunks_are_measured_once_each():
    """The last topic is missing from the run; all others have their answer in second place."""
    count = CHUNK_CANDIDATES // 1000 + 40
    qrels = {f'q{i}': {'a': 1, 'b': 2} for i in range(count)}
    others = {f'd{i}': -float(i) for i in range(1000)}
    run = {f'q{i}': {'a': 2.0, 'b': 1.0} | others for i in range(count - 1)}
    values = evaluate(run, qrels)['RR(rel=2)@10']
    assert values.pop(f'q{count - 1}') == 0
    assert values.tolist() == [0.5] * (count - 1)


@pytest.fixture
def perquery():
    """Per-topic values of a small run."""
    qrels = {'t1': {'a': 3, 'b': 1, 'c': 0}, 't2': {'a': 2}}
    return evaluate({'t1': {'c': 0.9, 'b': 0.8, 'a': 0.1}}, qrels)


def test_perquery_keeps_all_digits_and_its_columns(tmp_path, perquery):
    frames = {'minilm': perquery / 3, 'bm25': perquery[['nDCG@10', 'P(rel=1)@10']]}
    write_perquery(tmp_path / 'perquery.csv', frames)
    again = read_perquery(tmp_path / 'perquery.csv')
    assert list(again) == ['bm25', 'minilm']
    for name, frame in frames.items():
        assert list(again[name]) == list(frame)
        assert np.array_equal(again[name].values, frame.values)


def test_a_changed_file_is_read_again(tmp_path, perquery):
    write_perquery(tmp_path / 'perquery.csv', {'bm25': perquery})
    read_perquery(tmp_path / 'perquery.csv')
    write_perquery(tmp_path / 'perquery.csv', {'minilm': perquery})
    assert list(read_perquery(tmp_path / 'perquery.csv')) == ['minilm']


def test_a_repeated_row_is_an_error(tmp_path, perquery):
    path = tmp_path / 'perquery.csv'
    write_perquery(path, {'bm25': perquery})
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([*lines, lines[1]]) + '\n')
    with pytest.raises(
        KitError, match=rf'perquery\.csv: 1 of {len(lines)} rows repeat another row'
    ):
        read_perquery(path)


def test_known_item_rank_and_judged_share_agree_with_ir_measures():
    rng = np.random.default_rng(12)
    docids = [f'd{i}' for i in range(40)]
    qrels = {
        f'q{i}': {d: int(rng.integers(0, 4)) for d in rng.choice(docids, 12, replace=False)}
        for i in range(30)
    }
    run = {
        topic: {d: float(rng.random()) for d in rng.choice(docids, 25, replace=False)}
        for topic in qrels
    }
    ours = evaluate(run, qrels)
    for oracle, column in ((Judged @ 10, JUDGED), (RR(rel=3) @ 10, KNOWN_ITEM)):
        theirs = {row.query_id: row.value for row in ir_measures.iter_calc([oracle], qrels, run)}
        assert ours[column].to_dict() == pytest.approx(theirs)
