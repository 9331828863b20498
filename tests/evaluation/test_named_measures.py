"""Measures by ir-measures' names: equal to the fast path where both compute them."""

import numpy as np
import pytest
from kit import need

from reproduce_kit.config.study import parsed_measure
from reproduce_kit.data.collection import read_collection
from reproduce_kit.evaluation.metrics import KNOWN_ITEM, MEASURES, evaluate
from reproduce_kit.evaluation.named_measures import evaluate_named

OTHERS = (
    'nDCG@20',
    'R(rel=2)@100',
    'RBP(p=0.8)',
    'Judged@10',
    'RR@100',
    'Success@5',
    'Compat(p=0.9)',
)


def invented(rng, topics=12, documents=40):
    """A run with ties, and judgments from 0 to 3 of half of its documents and of others."""
    run, qrels = {}, {}
    for topic in (f't{i}' for i in range(topics)):
        scores = rng.integers(0, 20, documents) / 7
        run[topic] = {f'd{i}': float(score) for i, score in enumerate(scores)}
        judged = rng.choice(documents + 10, documents // 2, replace=False)
        qrels[topic] = {f'd{i}': int(rng.integers(0, 4)) for i in judged}
    qrels['unranked'] = {'d1': 3}
    return run, qrels


FAST = [name for name in MEASURES if not name.startswith(('RR', 'judged'))]


@pytest.mark.parametrize('name', FAST)
def test_the_fast_path_equals_ir_measures(name):
    run, qrels = invented(np.random.default_rng(12))
    expected = evaluate_named(run, qrels, name)
    assert evaluate(run, qrels)[name].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-12)


def test_the_known_item_measure_equals_ir_measures_where_nothing_ties():
    rng = np.random.default_rng(3)
    run, qrels = invented(rng)
    run = {q: {d: float(s) for d, s in zip(docs, rng.permutation(40))} for q, docs in run.items()}
    expected = evaluate_named(run, qrels, 'RR(rel=3)@10')
    assert evaluate(run, qrels)[KNOWN_ITEM].to_numpy() == pytest.approx(expected.to_numpy())


def test_a_study_s_list_mixes_both_paths():
    run, qrels = invented(np.random.default_rng(12))
    names = ('nDCG@10', *OTHERS)
    frame = evaluate(run, qrels, {name: name for name in names})
    assert list(frame.columns) == list(names)
    assert (frame.loc['unranked'] == 0).all()
    assert frame.drop('unranked').mean().min() > 0


def test_real_judgments_give_what_trec_eval_prints():
    """BM25's top 1,000 of DL 2019 has R@100 at level 2 as the field's tables have it."""
    collection = read_collection(need('trec-dl'))
    run, qrels = collection.candidates['dl19'], collection.qrels['dl19']
    fast = evaluate(run, qrels)
    for name in ('nDCG@10', 'AP(rel=2)', 'P(rel=2)@10'):
        expected = evaluate_named(run, qrels, name)
        assert fast[name].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-12)


@pytest.mark.parametrize('name', ['nDGC@10', 'alpha_nDCG@20', 'ERR@20', 'nDCG@', '10', ''])
def test_a_wrong_name_is_refused(name):
    with pytest.raises(ValueError, match='measure|computed by no package'):
        parsed_measure(name)
