"""The claims: every verdict changes when its evidence does, and only then."""

import copy

import numpy as np
import pandas as pd
import pytest
from kit import papers_folder

from reproduce_kit.verdicts.claims import TREC, collect_evidence, judge_claim, read_claims

EVIDENCE = collect_evidence()
MODELS = ('MiniLM', 'GTE', 'ModernBERT')
DECIDED = [c for c in read_claims() if c.holds]


def shuffled(ev, rng):
    """Values of each measure dealt out to other rows, on every ground alike."""
    ev = copy.deepcopy(ev)
    keys = list(ev.tables['Table I'])
    to = {m: dict(zip(keys, rng.permutation(len(keys)))) for m in (*TREC, 'MRR@10')}
    for ground, t in ev.tables.items():
        old = copy.deepcopy(t)
        mine = list(t)
        for k in t:
            for m in t[k]:
                t[k][m] = old[mine[to[m][k] % len(mine)]][m]
    return ev


def level(ev, **per):
    """Every row the same but for a bonus of those that are named."""
    ev = copy.deepcopy(ev)
    for t in ev.tables.values():
        for (m, o, e), row in t.items():
            for k in row:
                row[k] = (
                    0.5
                    + per.get(m, 0)
                    + per.get(o, 0)
                    + per.get(f'{m}{o}', 0)
                    + per.get(f'{m}{o}{e}', 0)
                )
    return ev


def with_topics(ev, **sign):
    """Per-topic values of every model, Lion ahead by `sign[model]`."""
    ev = copy.deepcopy(ev)
    rng = np.random.default_rng(1)
    base = pd.Series(rng.uniform(0, 1, 43))
    for m in MODELS:
        for e in (1, 2, 3):
            for k in TREC:
                ev.topics['raw outputs'][m, 'AdamW', e, k] = base
                ev.topics['raw outputs'][m, 'Lion', e, k] = (
                    base + sign.get(m, 0) * 0.1 + rng.normal(0, 0.01, 43)
                )
    return ev


def other(ev, **changes):
    ev = copy.deepcopy(ev)
    for k, v in changes.items():
        setattr(ev, k, v)
    return ev


def mutations(ev):
    """Many ways in which the evidence could have been another one."""
    rng = np.random.default_rng(12)
    three = {(g, m): 3 for g in ev.tables for m in MODELS}
    yield with_topics(ev, MiniLM=1, GTE=1, ModernBERT=1)
    for _ in range(60):
        yield shuffled(ev, rng)
    yield from (
        level(ev),
        level(ev, GTE=0.1),
        level(ev, MiniLM=0.1),
        level(ev, ModernBERT=0.1),
        level(ev, Lion=0.1),
        level(ev, AdamW=0.1),
        level(ev, MiniLMLion=0.1),
        level(ev, GTELion2=0.1, MiniLMAdamW=0.05, MiniLMLion3=0.2, ModernBERTLion3=0.2),
        level(ev, GTELion3=0.1, GTEAdamW1=0.1, MiniLMLion3=0.2, ModernBERTLion3=0.2),
        level(ev, MiniLMAdamW=-0.1, MiniLMLion=-0.1, GTEAdamW2=0.2),
    )
    for a in (-1, 1):
        for b in (-1, 1):
            some = with_topics(ev, MiniLM=a, GTE=b, ModernBERT=-b)
            yield some
            yield other(some, seeds=three)
            yield other(
                with_topics(level(ev, Lion=0.1), MiniLM=a, GTE=a, ModernBERT=b), seeds=three
            )
    same = copy.deepcopy(ev)  # one ground gone: the others agree with themselves
    for g in ('Table I', 'raw outputs', 'thesis'):
        yield other(ev, tables={k: v for k, v in ev.tables.items() if k == g})
    for i in (0, -1):
        yield other(ev, statements={k: [v[i]] for k, v in same.statements.items()})
    yield other(
        ev,
        measured=dict(
            adamw=dict(state=1.0, decoupled=False, signs=True),
            lion=dict(state=2.0, decoupled=False, signs=False),
        ),
    )
    yield other(
        ev, gpu={(m, o): 50.0 - 5 * (o == 'AdamW') for m in MODELS for o in ('AdamW', 'Lion')}
    )
    yield other(ev, gpu_of='GPU utilization')
    yield other(ev, cited={k: 0.1 for k in ev.cited})
    yield other(ev, cited={k: 0.9 for k in ev.cited})
    yield other(
        ev, table2={k: v if k.startswith('ModernBERT') else 0.9 for k, v in ev.table2.items()}
    )
    yield other(ev, sizes=dict.fromkeys(MODELS, 138e6))
    yield other(ev, contexts=dict.fromkeys(MODELS, 512))
    yield other(ev, judged=54)
    for up in (0, 1):
        curves = {
            (g, m, o): dict(
                eval_loss=[1.0, 0.9, 0.9 + 0.1 * (up if o == 'Lion' else 1 - up)],
                grad_norm=[1.0 + up * (o == 'Lion')],
            )
            for g in ev.tables
            for m in MODELS
            for o in ('AdamW', 'Lion')
        }
        yield other(
            ev,
            curves=curves,
            contrasts={
                w: 0.5 - up
                for w in (
                    'pair of rows that differ in rate or schedule alone',
                    'rows that differ in architecture, context or strategy alone',
                )
            },
        )
    few = copy.deepcopy(ev)
    for t in few.tables.values():
        for k in list(t):
            if k[0] == 'GTE' or k[2] == 3:
                del t[k]
    yield few


MUTATED = list(mutations(EVIDENCE))


@pytest.mark.parametrize('claim', DECIDED, ids=lambda c: c.id)
def test_every_verdict_follows_its_evidence(claim):
    before = judge_claim(claim, EVIDENCE)['verdict']
    assert any(judge_claim(claim, ev)['verdict'] != before for ev in MUTATED), claim.holds


def test_what_a_claim_does_not_read_does_not_move_it():
    """Table II is no evidence for Table I, and the other way round."""
    far = other(
        EVIDENCE, table2={k: 0.9 for k in EVIDENCE.table2}, cited={k: 0.9 for k in EVIDENCE.cited}
    )
    moved = {
        c.id
        for c in DECIDED
        if judge_claim(c, far)['verdict'] != judge_claim(c, EVIDENCE)['verdict']
    }
    assert moved and all(i.startswith('D-') for i in moved)


def test_verdicts_of_the_headlines():
    got = {c.id: judge_claim(c, EVIDENCE)['verdict'] for c in read_claims()}
    assert {
        got[i]
        for i in ('A-ndcg', 'A-map', 'E-gte', 'T-memory', 'Q15', 'Q03-memory', 'VA-interacts')
    } == {'supported'} and {got[i] for i in ('Q03', 'T-sizes')} == {'not supported'}
    assert {
        got[i]
        for i in (
            'A-mrr',
            'VA-modernbert-significant',
            'E-substantially',
            'VA-gte-later',
            'E-gte-setting',
        )
    } == {'undecidable'} and {got[i] for i in ('Q06', 'Q17', 'E-modal')} == {'background'}
    assert len({i[:3] for i in got if i.startswith('Q')}) == 17


def test_what_a_ground_does_not_have_is_not_lent_to_it():
    """Per-topic values of the raw outputs decide nothing for a printed table, and our own runs nothing for the authors' outputs."""
    gte = next(c for c in DECIDED if c.id == 'VA-gte-clearly')
    assert list(judge_claim(gte, EVIDENCE)['answers']) == ['raw outputs']
    modernbert = next(c for c in DECIDED if c.id == 'VA-modernbert-significant')
    ours = copy.deepcopy(EVIDENCE)
    made = with_topics(EVIDENCE, ModernBERT=1)
    ours.tables['our runs (as-run)'] = ours.tables['Table I']
    ours.topics['our runs (as-run)'] = made.topics['raw outputs']
    assert judge_claim(modernbert, ours)['answers'] == {'our runs (as-run)': True}
    alone = copy.deepcopy(EVIDENCE)
    alone.topics['raw outputs'] = {
        k: v for k, v in alone.topics['raw outputs'].items() if k[0] == 'MiniLM'
    }
    assert (
        judge_claim(gte, alone)['verdict'] == 'undecidable'
        and judge_claim(gte, alone)['because'] == 'not in these data'
    )


def test_claims_quote_their_sources():
    """The words of a claim stand in the source that it names."""
    papers = dict(
        paper='lion-vs-adamw-paper.txt',
        thesis='lion-vs-adamw-thesis.txt',
        question='minilm-scaling-question.txt',
    )
    folder = papers_folder()
    import re

    flat = lambda t: re.sub(r'[^a-z0-9@.]+', '', t.lower().replace('’', "'"))
    text = {k: flat((folder / f).read_text()) for k, f in papers.items()}
    lost = [
        (c.id, part)
        for c in read_claims()
        for part in re.split(r'\[[^\]]*\]', c.words)
        if flat(part).strip('.') and flat(part).strip('.') not in text[c.source]
    ]
    assert not lost, lost
