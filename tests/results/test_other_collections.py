"""Tables of collections that are not the usual ones: binary judgments, another first stage."""

import pandas as pd
import pytest
from kit import SMOKE, tiny_backbone

from reproduce_kit.config.files import make_config
from reproduce_kit.core import read_json, write_json
from reproduce_kit.evaluation.metrics import usual_measures
from reproduce_kit.results.measure_columns import all_columns, table_columns
from reproduce_kit.results.run_tables import measures_table, table1
from reproduce_kit.results.significance_tables import letters_table
from reproduce_kit.testing.fake_runs import fake_run

BINARY = {f't{i}': {'d0': 1, 'd1': 0} for i in range(8)}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two finished runs whose judgments are binary."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    return [made_run('one', 0.0), made_run('two', 0.1)]


def made_run(name, gain, test_set='test', **changes):
    """A finished run with the usual measures of binary judgments."""
    changes |= dict(name=name, epochs=1, test_sets=[test_set])
    frame = pd.DataFrame(
        {m: [0.3 + gain + i / 50 for i in range(8)] for m in usual_measures(BINARY)},
        index=pd.Index(BINARY, name='qid'),
    )
    return fake_run(make_config(SMOKE | tiny_backbone() | changes), {1: {test_set: frame}})


def test_a_test_set_of_a_folder_may_have_the_name_of_another_collections(tmp_path, monkeypatch):
    """MS MARCO's set `dev` has a measure of its own."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    folder = dict(collection=str(tmp_path / 'texts'), passage_words=None, test_topics=None)
    run = made_run('one', 0.0, 'dev', **folder)
    columns = {measure for _, _, measure in table_columns([run])}
    assert columns == {'nDCG@10', 'AP(rel=1)', 'RR(rel=1)@10', 'judged@10'}


def test_binary_judgments_have_the_level_they_reach(runs):
    assert {label[0] for label, _, _ in all_columns(runs)} == {'grades', 'rel≥1', 'any grade'}
    shown = [measure for _, _, measure in table_columns(runs)]
    assert shown == ['nDCG@10', 'AP(rel=1)', 'RR(rel=1)@10', 'judged@10']
    assert '0.0000' not in measures_table(runs).caption + str(measures_table(runs).frame)


def test_another_first_stage_has_its_own_name(runs):
    assert "Reranking BM25's top" in table1(runs).caption
    for run in runs:
        path = run.folder / 'first-stage/metrics.json'
        write_json(path, read_json(path) | dict(ranked_by=dict(test='dense')))
    table = table1(runs)
    assert "Reranking dense's top" in table.caption
    assert 'BM25' not in table.caption
    labels = {cell.row[0] for cell in table.cells}
    assert 'dense' in labels
    assert 'BM25' not in labels
    assert 'with dense' in letters_table(runs).caption
