"""The audit against the authors' real raw outputs."""

import shutil

import numpy as np
from kit import need

from reproduce_kit.data.published import published_table
from reproduce_kit.studies.lion_vs_adamw.audit import (
    audit,
    audit_table,
    author_topic_values,
    read_early,
    read_raw,
)
from reproduce_kit.verdicts.sources import author_results


def test_42_of_108():
    """Table I: 42 printed cells are not the raw outputs'; the headline cells are."""
    cells = audit_table(published_table('lion-vs-adamw', 'table1'), read_raw(need('paper-authors')))
    differs = cells[cells['state'] == 'differs']
    assert len(cells) == 108 and len(differs) == 42
    key = (
        differs['backbone'].str.split('/').str[1].str[:6]
        + ' '
        + differs['optimizer']
        + ' '
        + differs['measure']
    )
    small = {'R(rel=1)@10', 'Rprec(rel=1)', 'P(rel=1)@10'}
    assert {k for k in key} == {
        f'{b} {o} {m}' for b in ('MiniLM', 'gte-mu') for o in ('AdamW', 'Lion') for m in small
    } | {f'gte-mu Lion {m}' for m in ('nDCG@10', 'AP(rel=1)')}
    good = cells[
        (cells['state'] != 'differs')
        & cells['printed'].isin(['0.7225', '0.5121', '0.5988', '0.7127'])
    ]
    assert len(good) >= 4


def test_finds_what_is_changed():
    """Ten random cells of a copy that agrees, each moved by 0.0002: found, and nothing else."""
    raw = read_raw(need('paper-authors'))
    table = published_table('lion-vs-adamw', 'table1')
    measures = [c for c in table.columns if c in raw.columns]
    exact = table.copy()
    for i, p in exact.iterrows():
        for m in measures:
            exact.loc[i, m] = f"{raw.loc[(p['backbone'], p['optimizer'], p['epoch']), m]:.4f}"
    assert (audit_table(exact, raw)['state'] == 'rounded').all()
    rng = np.random.default_rng(12)
    chosen = {
        (int(k) // len(measures), measures[int(k) % len(measures)])
        for k in rng.choice(108, 10, replace=False)
    }
    for i, m in chosen:
        exact.loc[i, m] = f'{float(exact.loc[i, m]) + rng.choice([-1, 1]) * 0.0002:.4f}'
    found = audit_table(exact, raw)
    found = found[found['state'] == 'differs']
    rows = {(p['backbone'], p['optimizer'], p['epoch']): i for i, p in exact.iterrows()}
    assert {
        (rows[x['backbone'], x['optimizer'], x['epoch']], x['measure']) for _, x in found.iterrows()
    } == chosen


def test_the_numbers_that_ship_are_the_files_numbers():
    now = read_raw(need('paper-authors'))
    shipped = author_results()
    assert (now.loc[shipped.index, shipped.columns] == shipped).all().all() and len(shipped) == 18


def test_findings_with_all_files(tmp_path):
    """What the audit finds where every file is at hand, and that it follows the files."""
    folder = need('paper-authors')
    found = audit(folder, need('runs'), need('trec-dl')).set_index('about')
    assert not found['reads'].eq('not checked here').any()
    early = found.loc['Per-topic outputs (MiniLM, GTE)']
    assert (
        early['count'] == 27
        and early['reads'].startswith("36 of 36 means over topics are the raw outputs'")
        and 'whole for 100% of topics at level 1 and for 12% at most at level 2' in early['reads']
    )
    assert 'divided by 44 rows' in found.loc['Averages of the per-topic outputs', 'reads']
    again = found.loc['Table II, recomputed', 'reads']
    assert (
        'with the collection 0.5058 (printed 0.506)' in again
        and 'BERT cross-encoder 0.6855 (no row), 0.4794 if its rank column were believed' in again
        and 'monoT5 0.6982' in again
    )
    assert found.loc["The kit's copy of the raw outputs", 'count'] == 0
    copy = tmp_path / 'paper-authors'
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    for d in (copy, *copy.rglob('*')):
        d.chmod(0o755)
    f = copy / 'eval_results/gte/Lion/ep1.json'
    f.write_text(f.read_text().replace('"map": 0.4794', '"map": 0.4795'))
    assert audit(copy).set_index('about').loc["The kit's copy of the raw outputs", 'count'] == 1


def test_the_topics_that_ship_are_the_files_topics():
    shipped = author_topic_values()
    now = read_early(need('paper-authors'))
    assert shipped.keys() == now.keys() and all(
        (now[k][df.columns].loc[df.index] == df).all().all() for k, df in shipped.items()
    )
