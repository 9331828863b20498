"""The audit against the authors' real raw outputs."""

import shutil

import numpy as np
import pytest
from kit import need

from reproduce_kit.core import KitError
from reproduce_kit.studies.lion_vs_adamw.audit import audit
from reproduce_kit.studies.lion_vs_adamw.raw_outputs import read_raw_outputs
from reproduce_kit.studies.lion_vs_adamw.study import study_table
from reproduce_kit.studies.lion_vs_adamw.table_findings import audit_table
from reproduce_kit.verdicts.sources import KEY

COPY = "The kit's copy of the raw outputs"


@pytest.fixture(scope='module')
def raw():
    return read_raw_outputs(need('paper-authors'))


def test_42_of_108_cells_differ_from_the_raw_outputs(raw):
    """The cells of MiniLM's and GTE's small measures differ, and all of GTE + Lion."""
    cells = audit_table(study_table('table1'), raw)
    differing = cells[cells['state'] == 'differs']
    assert (len(cells), len(differing)) == (108, 42)
    backbones = differing['backbone'].str.split('/').str[1].str[:6]
    columns = {*(backbones + ' ' + differing['optimizer'] + ' ' + differing['measure'])}
    expected = {f'gte-mu Lion {measure}' for measure in ('nDCG@10', 'AP(rel=1)')}
    for backbone in ('MiniLM', 'gte-mu'):
        for measure in ('R(rel=1)@10', 'Rprec(rel=1)', 'P(rel=1)@10'):
            expected |= {f'{backbone} AdamW {measure}', f'{backbone} Lion {measure}'}
    assert columns == expected


def test_the_headline_cells_agree_with_the_raw_outputs(raw):
    cells = audit_table(study_table('table1'), raw)
    is_headline = cells['printed'].isin(['0.7225', '0.5121', '0.5988', '0.7127'])
    assert (is_headline & (cells['state'] != 'differs')).sum() >= 4


def test_ten_changed_cells_are_found_and_nothing_else(raw):
    """Ten random cells of a copy that agrees, each moved by 0.0002."""
    table = study_table('table1')
    measures = [column for column in table.columns if column in raw.columns]
    for i, row in table.iterrows():
        for measure in measures:
            table.loc[i, measure] = f'{raw.loc[tuple(row[KEY]), measure]:.4f}'
    assert (audit_table(table, raw)['state'] == 'rounded').all()
    rng = np.random.default_rng(12)
    numbers = rng.choice(108, 10, replace=False)
    chosen = {(int(n) // len(measures), measures[int(n) % len(measures)]) for n in numbers}
    for i, measure in chosen:
        changed = float(table.loc[i, measure]) + rng.choice([-1, 1]) * 0.0002
        table.loc[i, measure] = f'{changed:.4f}'
    cells = audit_table(table, raw)
    differing = cells[cells['state'] == 'differs']
    rows = {tuple(row[KEY]): i for i, row in table.iterrows()}
    assert {(rows[tuple(cell[KEY])], cell['measure']) for _, cell in differing.iterrows()} == chosen


def test_no_finding_is_unchecked_where_every_file_is_at_hand():
    findings = audit(need('paper-authors'), need('runs'), need('trec-dl')).set_index('about')
    assert not findings['reads'].eq('not checked here').any()
    topics = findings.loc['Per-topic outputs (MiniLM, GTE)']
    assert topics['count'] == 27
    assert topics['reads'].startswith('36 of 36 means over topics equal the raw outputs')
    levels = 'whole for 100 % of topics at level 1, and for at most 12 % at level 2'
    assert levels in topics['reads']
    assert 'divided by 44 rows' in findings.loc['Averages of the per-topic outputs', 'reads']
    recomputed = findings.loc['Table II, recomputed', 'reads']
    assert 'with the collection 0.5058 (printed 0.506)' in recomputed
    assert 'BERT cross-encoder 0.6855 (no row), 0.4794 by its rank column' in recomputed
    assert 'monoT5 0.6982' in recomputed
    assert findings.loc[COPY, 'count'] == 0


def test_a_changed_file_is_one_error_of_the_copy(tmp_path):
    copy = tmp_path / 'paper-authors'
    shutil.copytree(need('paper-authors'), copy, copy_function=shutil.copyfile)
    for path in (copy, *copy.rglob('*')):
        path.chmod(0o755)
    summary = copy / 'eval_results/gte/Lion/ep1.json'
    summary.write_text(summary.read_text().replace('"map": 0.4794', '"map": 0.4795'))
    assert audit(copy).set_index('about').loc[COPY, 'count'] == 1


def test_a_folder_without_raw_outputs_is_an_error(tmp_path):
    with pytest.raises(KitError, match="needs the authors' raw outputs there"):
        audit(tmp_path)
