"""The audit against the authors' real raw outputs."""
import numpy as np

from kit import need
from reproduce_kit.audit import audit_table, read_raw
from reproduce_kit.tables import reference


def test_42_of_108():
    """Table I: 42 printed cells are not the raw outputs'; the headline cells are."""
    cells = audit_table(reference('table1'), read_raw(need('paper-authors'))); differs = cells[cells['state'] == 'differs']
    assert len(cells) == 108 and len(differs) == 42
    key = differs['backbone'].str.split('/').str[1].str[:6] + ' ' + differs['optimizer'] + ' ' + differs['measure']
    small = {'R(rel=1)@10', 'Rprec(rel=1)', 'P(rel=1)@10'}
    assert {k for k in key} == {f'{b} {o} {m}' for b in ('MiniLM', 'gte-mu') for o in ('AdamW', 'Lion') for m in small} | {f'gte-mu Lion {m}' for m in ('nDCG@10', 'AP(rel=1)')}
    good = cells[(cells['state'] != 'differs') & cells['printed'].isin(['0.7225', '0.5121', '0.5988', '0.7127'])]; assert len(good) >= 4


def test_finds_what_is_changed():
    """Ten random cells of a copy that agrees, each moved by 0.0002: found, and nothing else."""
    raw = read_raw(need('paper-authors')); table = reference('table1'); measures = [c for c in table.columns if c in raw.columns]
    exact = table.copy()
    for i, p in exact.iterrows():
        for m in measures: exact.loc[i, m] = f"{raw.loc[(p['backbone'], p['optimizer'], p['epoch']), m]:.4f}"
    assert (audit_table(exact, raw)['state'] == 'rounded').all()
    rng = np.random.default_rng(12); chosen = {(int(k) // len(measures), measures[int(k) % len(measures)]) for k in rng.choice(108, 10, replace=False)}
    for i, m in chosen: exact.loc[i, m] = f'{float(exact.loc[i, m]) + rng.choice([-1, 1]) * .0002:.4f}'
    found = audit_table(exact, raw); found = found[found['state'] == 'differs']
    rows = {(p['backbone'], p['optimizer'], p['epoch']): i for i, p in exact.iterrows()}
    assert {(rows[x['backbone'], x['optimizer'], x['epoch']], x['measure']) for _, x in found.iterrows()} == chosen
