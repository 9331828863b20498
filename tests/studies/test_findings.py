"""Each finding of the audit follows the table that it reads."""

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from kit import need

from reproduce_kit.core import KitError
from reproduce_kit.data.collection import read_collection
from reproduce_kit.data.published import listed_systems
from reproduce_kit.studies.lion_vs_adamw.protocol_findings import (
    find_curve_points,
    find_isolated_pairs,
    find_judgment_count,
    find_longest_input,
    find_memory,
)
from reproduce_kit.studies.lion_vs_adamw.result_sets import (
    cells_by_set,
    find_crossed_gaps,
    find_direction,
    find_result_sets,
    find_unaffected,
)
from reproduce_kit.studies.lion_vs_adamw.study import (
    author_results,
    second_results,
    study_table,
    this_paper,
)
from reproduce_kit.studies.lion_vs_adamw.table2_findings import (
    find_cited_values,
    find_recomputed,
    recompute,
)
from reproduce_kit.studies.lion_vs_adamw.table_findings import (
    audit_table,
    find_bold_marks,
    find_differing_cells,
    find_global_batch,
    find_impossible_precision,
    find_relevance_level,
    impossible_values,
)
from reproduce_kit.studies.lion_vs_adamw.thesis_findings import (
    find_model_sizes,
    find_statements,
    find_thesis_rows,
)
from reproduce_kit.verdicts.sources import KEY

P10 = 'P(rel=1)@10'


PUBLISHED = study_table('table1')
SYSTEMS = listed_systems(this_paper())
RAW = author_results()
SECOND = second_results()
MEASURES = list(this_paper().measures)


@pytest.fixture
def retyped():
    """Table I typed again from the raw outputs."""
    typed = PUBLISHED.copy()
    for measure in MEASURES:
        typed[measure] = [f'{RAW.loc[tuple(row[KEY]), measure]:.4f}' for _, row in typed.iterrows()]
    return typed


# Table I


def test_a_changed_raw_value_is_one_differing_cell():
    rows = PUBLISHED.head(2)
    raw = rows.set_index(KEY)[MEASURES].astype(float)
    raw.iloc[0, 0] += 0.0002
    assert audit_table(rows, raw)['state'].value_counts().to_dict() == {'rounded': 11, 'differs': 1}
    with pytest.raises(KitError, match='the raw outputs have no'):
        audit_table(PUBLISHED, raw)


def test_a_table_typed_from_the_raw_outputs_has_no_differing_cell(retyped):
    assert find_differing_cells(PUBLISHED, RAW).count == 42
    assert find_differing_cells(retyped, RAW).count == 0
    retyped.loc[3, 'Rprec(rel=1)'] = '0.4954'
    assert 'R-Prec of MiniLM + Lion, epoch 1' in find_differing_cells(retyped, RAW).reads


def test_a_precision_between_two_steps_is_impossible(retyped):
    rows = PUBLISHED.head(2)
    assert impossible_values(rows, P10, 430) == []
    changed = impossible_values(rows.assign(**{P10: '0.8050'}), P10, 430)
    assert changed[0][1:] == ('0.8050', 346 / 430)
    assert find_impossible_precision(PUBLISHED).count == 0
    assert find_impossible_precision(retyped.assign(**{P10: '0.8050'})).count == 18


def test_without_marks_every_highest_value_is_unmarked():
    assert find_bold_marks(PUBLISHED, study_table('bold')).count == 2
    # six measures, two of them with a tie
    assert find_bold_marks(PUBLISHED, study_table('bold').iloc[:0]).count == 8


def test_the_relevance_level_follows_the_recall_of_the_raw_outputs():
    level = find_relevance_level(PUBLISHED, RAW)
    assert level.reads.startswith('grade 1 and above')
    assert level.reads.count('level 1 (') == 2
    changed = find_relevance_level(PUBLISHED, RAW.assign(recall_1000=0.7501))
    assert (changed.reads[:9], changed.count) == ('grade 2 a', 0)


def test_four_checkpoints_imply_another_batch_than_stated():
    batch = find_global_batch()
    assert batch.count == 4
    assert '512 (MiniLM + AdamW)' in batch.reads
    assert '192 (ModernBERT + Lion)' in batch.reads


# Two result sets


def test_every_differing_cell_and_no_other_is_in_the_second_table():
    cells = cells_by_set(PUBLISHED, RAW, SECOND)
    assert len(cells) == 60
    assert (~cells.in_raw).sum() == 42
    assert (cells.in_raw == ~cells.in_second).all()
    assert find_result_sets(PUBLISHED, RAW, SECOND).count == 42


def test_a_table_of_one_set_mixes_nothing(retyped):
    sets = find_result_sets(retyped, RAW, SECOND)
    assert sets.count == 0
    assert '0 of the 0 cells' in sets.reads
    assert find_crossed_gaps(retyped, RAW, SECOND).reads == 'none'


def typed(values):
    """A table of numbers, typed with four digits."""
    table = values.reset_index().assign(source='typed')
    for measure in values.columns:
        table[measure] = [f'{value:.4f}' for value in table[measure]]
    return table


def moved(table, measures, rng):
    """(a copy with ten cells moved by 0.0002, their places)."""
    changed = table.copy()
    places = rng.choice(len(table) * len(measures), 10, replace=False)
    chosen = {(int(p) // len(measures), measures[int(p) % len(measures)]) for p in places}
    for row, measure in chosen:
        value = float(table.loc[row, measure]) + rng.choice([-1, 1]) * 0.0002
        changed.loc[row, measure] = f'{value:.4f}'
    return changed, chosen


def differing(table, reference):
    cells = audit_table(table, reference)
    rows = {tuple(row[KEY]): i for i, row in table.iterrows()}
    wrong = cells[cells['state'] == 'differs']
    return {(rows[tuple(cell[KEY])], cell['measure']) for _, cell in wrong.iterrows()}


def appendix_results():
    table = study_table('appendix').set_index(KEY)
    return table[[measure for measure in MEASURES if measure in table]].astype(float)


@pytest.mark.parametrize(
    'reference',
    [
        PUBLISHED.set_index(KEY)[MEASURES].astype(float),
        RAW[MEASURES],
        SECOND,
        appendix_results(),
    ],
    ids=['draft', 'raw', 'second', 'appendix'],
)
def test_ten_moved_cells_are_found_in_each_source(reference):
    """Moved by 0.0002, in a copy of the source."""
    copy = typed(reference)
    assert differing(copy, reference) == set()
    changed, chosen = moved(copy, list(reference.columns), np.random.default_rng(12))
    assert differing(changed, reference) == chosen


def test_a_moved_cell_is_in_neither_set():
    changed = PUBLISHED.copy()
    changed.loc[9, 'P(rel=1)@10'] = '0.7955'  # GTE + Lion, epoch 1: 0.7953 in the second table
    sets = find_result_sets(changed, RAW, SECOND)
    assert '41 of the 42 cells' in sets.reads


def test_the_appendix_prints_the_raw_outputs():
    assert differing(study_table('appendix'), RAW) == set()


def test_the_differing_cells_favour_no_optimizer_in_count():
    direction = find_direction(PUBLISHED, RAW, SECOND)
    assert direction.count == 32
    assert 'Lion +0.015 on average (19 of 24 higher)' in direction.reads
    assert 'AdamW +0.002 on average (13 of 18 higher)' in direction.reads
    assert 'GTE + Lion goes from 0.6785 to 0.6904' in direction.reads


def test_the_printed_comparison_on_gte_crosses_the_sets():
    crossed = find_crossed_gaps(PUBLISHED, RAW, SECOND)
    assert crossed.count == 3
    for gaps in (
        '-0.044, -0.029, +0.000 as printed',
        '-0.025, -0.041, -0.033 in the raw outputs',
        '-0.013, -0.003, -0.002 in the second result table',
    ):
        assert gaps in crossed.reads


def test_what_agrees_with_the_raw_outputs_is_named():
    reads = find_unaffected(PUBLISHED, RAW).reads
    assert 'all 36 cells of ModernBERT' in reads
    assert 'all 18 of MRR@10' in reads
    assert '5 of 5 headline cells' in reads


def test_the_audit_page_says_what_the_findings_read():
    """Its paragraph is typed; these numbers are not."""
    text = (ROOT / 'nbs/analysis/audit.ipynb').read_text()
    for sentence in (
        '42 of its 108 cells are not in',
        'All 42 equal, to four digits, a second result table',
        'of the 18 other cells',
        '32 of the 42 are printed higher than raw',
        'by 0.015 on average',
        "AdamW's by 0.002",
        '0.002 to 0.013 apart',
    ):
        assert sentence in text, sentence


# The protocol


def test_no_pair_of_rows_isolates_the_optimizer():
    pairs = find_isolated_pairs()
    assert pairs.count == 3
    assert 'MiniLM: chained False with AdamW' in pairs.reads
    assert 'global_batch 512 with AdamW, 256 with Lion' in pairs.reads


def test_a_curve_has_few_points():
    points = find_curve_points()
    assert '3 evaluation losses a run; about 3 (MiniLM + AdamW)' in points.reads
    assert points.count == 3  # GTE + AdamW has 12


def test_judgments_are_sparse_or_not_by_their_number():
    assert find_judgment_count({'1': dict.fromkeys('abc', 0)}).count == 0
    assert find_judgment_count({'1': dict.fromkeys('abcdefghijkl', 0)}).count == 1


def test_stated_memory_is_less_than_what_was_logged():
    assert 'stated 8 GB, logged 33 %, 16 GB of an L40S or 26 GB' in find_memory().reads


def test_no_input_of_dl19_needs_a_long_context():
    """The number that the claims use is counted again."""
    longest = find_longest_input(read_collection(need('trec-dl')))
    (inputs,) = study_table('inputs').to_dict('records')
    pairs, tokens = f"{int(inputs['pairs']):,}", inputs['longest_tokens']
    assert f'the longest of {pairs} pairs of topic and passage has {tokens} tokens' in longest.reads


# The texts


def test_one_row_of_the_thesis_is_not_the_best_epoch():
    rows = find_thesis_rows(PUBLISHED, study_table('thesis'))
    assert rows.count == 1
    assert 'MiniLM + Lion: epoch 3 with 0.6808, while epoch 1 has 0.7031' in rows.reads


def test_a_changed_cell_of_the_thesis_is_named():
    values = ['0.4908', '0.4706', '0.5005', '0.5', '0.5066', '0.5115']
    rows = find_thesis_rows(PUBLISHED, study_table('thesis').assign(**{'AP(rel=1)': values}))
    assert 'MAP of GTE + Lion, epoch 2: 0.5 in the thesis' in rows.reads


def test_only_what_is_stated_in_two_ways_is_a_finding():
    about = {finding.about for finding in find_statements(study_table('statements'))}
    assert {'Batch size: all models', 'Peak rate: ModernBERT, AdamW'} <= about
    assert 'Peak rate: MiniLM, GTE' not in about
    assert not any('Gradient clipping' in title for title in about)


def test_two_stated_sizes_differ_from_the_released_models():
    assert find_model_sizes().count == 2


# Table II


def test_rows_of_table_2_follow_their_sources():
    assert find_cited_values(SYSTEMS, study_table('cited')).count == 5
    changed = SYSTEMS.replace({'0.648': '0.677', '0.719': '0.7199'})
    is_left_out = '~system.str.contains("MiniLM") & system != "BERT reranker"'
    listed = study_table('cited').query(is_left_out)
    assert find_cited_values(changed, listed).count == 1  # the other row with 0.648 is wrong now


def test_a_rank_column_that_contradicts_the_scores_is_reported(tmp_path):
    (tmp_path / 'qrels.dl19-passage.txt').write_text('1 0 a 1\n1 0 b 0\n')
    (tmp_path / 'topics.dl19-passage.txt').write_text('1\twhat is it\n')
    documents = '{"id": "a", "contents": "yes"}\n{"id": "b", "contents": "no"}\n'
    (tmp_path / 'corpus.jsonl').write_text(documents)
    runs = tmp_path / 'runs'
    runs.mkdir()
    (runs / 'bm25-pyterrier.dl19.res.gz').write_text('1 Q0 b 0 0.1 x\n1 Q0 a 1 0.9 x\n')
    results = recompute(runs, tmp_path)
    assert isinstance(results, pd.DataFrame)
    reads = find_recomputed(results, SYSTEMS).reads
    assert '1.0000 (no row), 0.6309 by its rank column' in reads
