"""Test sets that are measured once, in tables, tests and verdicts."""

import pandas as pd
import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.results.run_tables import (
    chosen_epoch,
    final_evidence,
    last_evidence,
    measures_table,
    run_epochs,
    seed_group_epochs,
    table1,
)
from reproduce_kit.results.significance_tables import gap_table, letters_table
from reproduce_kit.results.table import MISSING
from reproduce_kit.testing.fake_runs import fake_run

COLUMN = ('unseen', 'nDCG@10')
SENTENCE = 'Measured once, for the selected epoch of each run: unseen.'


def invent(optimizer, seed=12, level=0.5):
    """A finished run of two epochs; `unseen` is measured for the last one."""
    name = f'{optimizer}-{seed}'
    changes = dict(name=name, optimizer=optimizer, seed=seed, final_test_sets=['unseen'])
    config = make_config(example_settings(**changes))
    topics = pd.Index([f'q{i}' for i in range(20)], name='qid')
    frame = pd.DataFrame(level, index=topics, columns=MEASURES)
    frame.iloc[::2] -= 0.2
    return fake_run(config, {n: dict(test=frame + n / 100, unseen=frame) for n in (1, 2)})


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))


def test_an_epoch_has_its_own_sets_and_the_selected_one_has_all():
    run = invent('lion')
    assert [list(evidence) for _, evidence in run_epochs(run)] == [['test'], ['test']]
    assert list(final_evidence(run)) == ['unseen']
    rows = dict(seed_group_epochs([run]))
    assert [list(row) for row in rows.values()] == [['test'], ['test', 'unseen']]
    assert list(last_evidence([run])) == ['test', 'unseen']
    _, source = rows[2]['unseen']
    assert source['run_file'].endswith('epoch-2/also-unseen/unseen.run.gz')
    assert source['epoch'] == 2


def test_a_table_shows_them_once_and_says_so():
    runs = [invent('adamw'), invent('lion')]
    for table in (table1(runs), measures_table(runs)):
        column = table.frame[COLUMN]
        trained = column[[label[1] != '' for label in column.index]]
        assert [text == MISSING for text in trained] == [True, False, True, False]
        assert table.caption.endswith(SENTENCE)
        assert column.iloc[0] != MISSING  # BM25's


def test_tests_compare_them_for_the_selected_epoch():
    runs = [invent('adamw', level=0.6), invent('lion')]
    gaps, letters = gap_table(runs), letters_table(runs)
    assert 'nDCG@10 (unseen)' in {cell.row[0] for cell in gaps.cells}
    assert gaps.caption.endswith(SENTENCE) and letters.caption.endswith(SENTENCE)


def test_seeds_are_averaged_each_at_its_own_selected_epoch():
    group = [invent('lion', seed=12, level=0.5), invent('lion', seed=13, level=0.6)]
    epoch, evidence = chosen_epoch(group)
    frame, source = evidence['unseen']
    assert epoch == 2
    assert frame['nDCG@10'].mean() == pytest.approx(0.45)
    assert frame.attrs['spread']['nDCG@10'] == pytest.approx(0.0707, abs=1e-3)
    assert [seed['epoch'] for seed in source['seeds']] == [2, 2]


def test_a_run_without_them_has_no_sentence():
    config = make_config(example_settings())
    topics = pd.Index(['q1', 'q2'], name='qid')
    frame = pd.DataFrame(0.5, index=topics, columns=MEASURES)
    run = fake_run(config, {n: dict(test=frame) for n in (1, 2)})
    assert final_evidence(run) == {}
    assert 'Measured once' not in table1([run]).caption


def test_a_file_that_was_changed_afterwards_is_named():
    run = invent('lion')
    path = run.epoch(2) / 'also-unseen/perquery.csv'
    path.write_text(path.read_text() + '\n')
    with pytest.raises(KitError, match='also-unseen.perquery.csv is not the file'):
        seed_group_epochs([run])
