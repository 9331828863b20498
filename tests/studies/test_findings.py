"""Each finding of the audit follows the table that it reads."""

import pandas as pd
import pytest

from reproduce_kit.core import KitError
from reproduce_kit.data.published import listed_systems
from reproduce_kit.studies.lion_vs_adamw.study import author_results, study_table, this_paper
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
