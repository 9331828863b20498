"""`reproduce check` on fake runs: every state, its tolerance and the exit code.

Rows that are means over seeds."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from kit import reproduce_here

import reproduce_kit.verdicts.cells as cells_module
from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.config.files import make_config, read_configs
from reproduce_kit.data.published import read_paper
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.publish.trace import trace
from reproduce_kit.results.latex import write_table
from reproduce_kit.results.run_groups import seed_groups
from reproduce_kit.results.run_tables import table1
from reproduce_kit.results.significance_tables import gap_table, seed_gaps, variance_table
from reproduce_kit.store.events import EventKind
from reproduce_kit.store.run import finished_runs
from reproduce_kit.testing.fake_runs import fake_run
from reproduce_kit.verdicts.cells import check_cells, exit_code, printed_cells

STUDY = 'lion-vs-adamw'
PAPER = read_paper(STUDY)
CONFIGS = {(c.recipe, c.name): c for c in read_configs([ROOT / 'params' / STUDY])}
EPOCHS = (1, 2, 3)


def topic_tables(cfg, means, topics=43, spread=0.2, seed=1):
    """Per-topic values whose means are `means[epoch][measure]` exactly."""
    noise = np.random.default_rng(seed).uniform(-spread, spread, topics)
    noise -= noise.mean()
    qids = pd.Index([f'{i:03}' for i in range(topics)], name='qid')
    set_measures = dict(qa=['mrr10_qa_v11'], dev=['mrr10_passage_dev'])
    tables = {}
    for epoch in range(1, cfg.epochs + 1):
        tables[epoch] = {}
        for test_set in cfg.all_test_sets:
            measures = set_measures.get(test_set, MEASURES)
            values = {measure: means[epoch].get(measure, 0.5) + noise for measure in measures}
            tables[epoch][test_set] = pd.DataFrame(values, index=qids)
    return tables


def printed_row(cfg, against='draft'):
    """{epoch: {measure: printed value}} of a config's row."""
    pair = (BACKBONES[cfg.backbone].repo, cfg.optimizer_title)
    row = {epoch: {} for epoch in EPOCHS}
    for (backbone, optimizer, epoch, measure), printed in printed_cells(PAPER, against).items():
        if (backbone, optimizer) == pair:
            row[int(epoch)][measure] = float(printed)
    return row


def run_as_printed(cfg, against='draft'):
    return fake_run(cfg, topic_tables(cfg, printed_row(cfg, against)))


def select(cells, **values):
    """The cells (objects, or dicts of JSON) with these values."""

    def has(cell, key, value):
        return (cell[key] if isinstance(cell, dict) else getattr(cell, key)) == value

    return [cell for cell in cells if all(has(cell, *pair) for pair in values.items())]


def states(cells):
    return [cell.state for cell in cells]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    return tmp_path


# One seed


@pytest.fixture
def modernbert_cells(runs):
    """The cells of a recipe with one finished run, whose values are the printed ones."""
    run_as_printed(CONFIGS['as-run', 'modernbert-lion'])
    return check_cells(STUDY, 'as-run')


def test_one_run_with_the_printed_values_is_compatible(modernbert_cells):
    """One seed does not tell how far the next one would be."""
    row = select(modernbert_cells, model='ModernBERT', optimizer='Lion')
    assert states(row) == ['compatible'] * 18
    assert {cell.tolerance.origin for cell in row} == {'topics'}
    assert all(min(cell.tolerance.low, cell.tolerance.high) > 0.01 for cell in row)
    assert all(cell.runs for cell in row)
    assert row[0].ours == pytest.approx(0.7142, abs=1e-9)
    assert exit_code(row) == 0


def test_a_wide_tolerance_tells_how_many_other_rows_would_pass(modernbert_cells):
    row = select(modernbert_cells, model='ModernBERT', optimizer='Lion')
    assert 'of the 17 other printed rows' in row[0].why


def test_bm25_must_agree_with_the_printed_digits(modernbert_cells):
    (bm25,) = select(modernbert_cells, model='BM25')
    assert bm25.tolerance.origin == 'rounding'
    assert bm25.state == 'differs'  # the fake first stage is not BM25


def test_rows_without_a_run_are_not_run(modernbert_cells):
    rest = [
        cell
        for cell in modernbert_cells
        if (cell.model, cell.optimizer) not in (('ModernBERT', 'Lion'), ('BM25', ''))
    ]
    assert set(states(rest)) == {'not-run'}
    assert exit_code(rest + select(modernbert_cells, state='compatible')) == 3


def test_a_recipe_without_runs_has_108_cells_to_run(runs):
    cells = check_cells(STUDY, 'as-stated')
    assert states(cells) == ['not-run'] * 108
    assert exit_code(cells) == 3


def test_a_study_without_published_numbers_has_no_cells():
    assert check_cells('embedded') == []


def seeds_as_printed(base, against, monkeypatch, shifts=(-0.0004, 0, 0.0004)):
    """Three runs of a config about what a reference prints; they are all that is in the store."""
    configs, seeds = [], []
    for seed, shift in zip((12, 13, 14), shifts):
        cfg = make_config(base.model_dump() | dict(seed=seed, name=f'{base.name}-s{seed}'))
        row = printed_row(base, against)
        moved = {n: {m: value + shift for m, value in values.items()} for n, values in row.items()}
        configs.append(cfg)
        seeds.append(fake_run(cfg, topic_tables(cfg, moved)))
    monkeypatch.setattr(cells_module, 'read_configs', lambda *_: configs)
    monkeypatch.setattr(cells_module, 'finished_runs', lambda *_: seeds)


def test_it_depends_on_the_source_where_table_1_and_the_raw_outputs_disagree(runs, monkeypatch):
    """GTE + Lion, epoch 3: MAP 0.4912 in the draft, 0.4521 raw."""
    seeds_as_printed(CONFIGS['as-run', 'gte-lion'], 'raw', monkeypatch)
    row = select(check_cells(STUDY, 'as-run'), model='GTE', optimizer='Lion')
    assert states(select(row, measure='mrr10_qa_v11')) == ['reproduced'] * 3
    (cell,) = select(row, measure='AP(rel=1)', epoch=3)
    assert cell.state == 'depends on the source'
    assert cell.why.startswith('this reference reads 0.4912 (differs), raw reads 0.4521 (repro')


# The command


def check(runs, *args):
    return reproduce_here('check', *args, env=dict(REPRODUCE_RUNS=runs))


def test_higher_is_not_a_pass_and_the_command_says_so(runs):
    cfg = CONFIGS['as-stated', 'modernbert-adamw']
    row = printed_row(cfg)
    row[2]['nDCG@10'] += 0.2
    fake_run(cfg, topic_tables(cfg, row))
    answer = check(runs, STUDY, '--json')
    assert answer.returncode == 1
    differing = select(json.loads(answer.stdout)['cells'], state='differs')
    (cell,) = [cell for cell in differing if cell['model'] != 'BM25']
    assert (cell['recipe'], cell['epoch'], cell['measure']) == ('as-stated', 2, 'nDCG@10')
    assert cell['why'].endswith('above what is printed')
    answer = check(runs, STUDY, '--against', 'thesis')
    assert answer.returncode == 3
    line = 'ModernBERT + AdamW  1      nDCG@10  0.7105   0.7105'
    assert line in answer.stdout, answer.stdout
    file = 'params/lion-vs-adamw/as-stated/modernbert-adamw.yaml'
    answer = check(runs, file, '--against', 'thesis')
    assert answer.returncode == 0, answer.stdout
    assert check(runs, STUDY, '--against', 'nobody').returncode == 1


# Other protocols


def checked_rows(recipe):
    """The cells of a recipe that have a run, without BM25."""
    return [cell for cell in check_cells(STUDY, recipe) if cell.runs and cell.model != 'BM25']


def test_a_run_that_is_not_what_its_config_asks_for_is_not_compared(runs):
    cfg = CONFIGS['as-stated', 'gte-lion']
    run = run_as_printed(cfg)
    assert 'not-comparable' not in states(check_cells(STUDY, 'as-stated'))
    run.record(EventKind.CHECKPOINT, step=cfg.updates - 1, seconds=1.0)
    cells = checked_rows('as-stated')
    assert set(states(cells)) == {'not-comparable'}
    assert 'not what its config asks for: updates' in cells[0].why


def test_another_recipe_is_not_compared(runs):
    run_as_printed(CONFIGS['controlled', 'modernbert-lion-s12'])
    cells = checked_rows('controlled')
    assert set(states(cells)) == {'not-comparable'}
    assert "recipe 'controlled' is another protocol" in cells[0].why


def test_a_row_with_two_rates_is_not_compared(runs, monkeypatch):
    cfg = CONFIGS['as-run', 'modernbert-lion']
    other = make_config(cfg.model_dump() | dict(learning_rate=3e-6, name='modernbert-lion-other'))
    two = [run_as_printed(cfg), run_as_printed(other)]
    monkeypatch.setattr(cells_module, 'finished_runs', lambda *_: two)
    cells = checked_rows('as-run')
    assert {cell.why for cell in cells} == {'2 rates; the printed row has one'}


# Several seeds


def test_three_seeds_give_the_prediction_interval_of_a_next_run(runs, monkeypatch):
    base = CONFIGS['as-run', 'modernbert-lion']
    seeds_as_printed(base, 'draft', monkeypatch, (-0.004, 0, 0.004))
    cells = [cell for cell in check_cells(STUDY, 'as-run') if cell.model != 'BM25']
    assert {cell.tolerance.origin for cell in cells} == {'seeds'}
    assert set(states(cells)) == {'compatible'}  # 0.02, wider than the margin of 0.01
    half = cells[0].tolerance.low
    assert half == pytest.approx(4.302653 * 0.004 * (4 / 3) ** 0.5, abs=1e-6)
    for cell in select(cells, measure='nDCG@10', epoch=2):  # narrower than the table is wide
        assert '17 of the 17 other' not in cell.why


# Tables of rows that are means over seeds


@pytest.fixture
def three_seeds(runs):
    """Three seeds of ModernBERT with AdamW and with Lion, 0.06 apart in nDCG@10."""
    noise = np.random.default_rng(5).normal(0, 0.1, 43)
    noise -= noise.mean()
    for optimizer, level in (('adamw', 0.70), ('lion', 0.64)):
        for seed in (12, 13, 14):
            cfg = CONFIGS['controlled', f'modernbert-{optimizer}-s{seed}']
            means = {epoch: {'nDCG@10': level + 0.01 * (seed - 13)} for epoch in EPOCHS}
            tables = topic_tables(cfg, means, spread=0.05, seed=seed + (optimizer == 'lion'))
            for epoch in tables:
                tables[epoch]['dl19']['nDCG@10'] += noise
            fake_run(cfg, tables)
    return finished_runs(STUDY, 'controlled')


MEAN_AND_SPREAD = '0.7000 ±0.010'
GAP_AND_INTERVAL = '−0.060 [−0.0'


def test_a_row_is_the_mean_over_its_seeds(three_seeds):
    assert [len(group) for group in seed_groups(three_seeds)] == [3, 3]
    table = table1(three_seeds)
    row, column = ('ModernBERT', 'AdamW', '3'), ('grades', 'nDCG@10')
    (cell,) = select(table.cells, row=row, column=column)
    assert cell.printed == '0.7000 ±0.010'
    assert cell.is_best
    assert len(cell.source['seeds']) == 3
    assert 'Several seeds' in table.caption


def test_a_mean_over_seeds_is_traced_to_every_run(three_seeds, tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path / 'paper'))
    path = write_table(table1(three_seeds), three_seeds, 'here')

    def checks():
        return {cell['check'] for cell in trace(path, 'AdamW 3 nDCG')['cells']}

    assert checks() <= {'matches', 'source matches'}
    file = three_seeds[0].epoch(3) / 'perquery.csv'
    file.write_text(file.read_text().replace('0.', '0.1', 1))
    assert 'run file changed' in checks()


def test_the_gap_is_compared_with_the_spread_over_seeds(three_seeds):
    (gap,) = seed_gaps(three_seeds, ('dl19',), 'nDCG@10').values()
    assert gap.differences.shape == (43, 3)
    assert np.allclose(gap.differences.mean(), -0.06)
    assert len(gap.runs) == 6
    frame = variance_table(three_seeds).frame
    assert frame.iloc[0, 0] == '3'
    assert '−0.060 [−0.0' in frame.iloc[3, 0]
    assert gap_table(three_seeds).frame.iloc[0]['AdamW'] == '0.7000'


def test_replicates_are_found_in_the_store(three_seeds):
    """A table that is asked for one seed reports all of them."""
    one = [run for run in three_seeds if run.cfg.seed == 12]
    assert variance_table(one).frame.iloc[0, 0] == '3'
