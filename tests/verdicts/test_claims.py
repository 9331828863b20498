"""The claims: every verdict changes when its evidence does, and only then."""

import copy
import pickle
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from kit import papers_folder

from reproduce_kit.core import KitError
from reproduce_kit.verdicts.claims import Claim, ask, judge_claim, read_claims
from reproduce_kit.verdicts.evidence import MeasuredOptimizer, collect_evidence
from reproduce_kit.verdicts.table_words import ValueWords
from reproduce_kit.verdicts.vocabulary import ClaimVocabulary

EVIDENCE = collect_evidence('lion-vs-adamw')
TREC = EVIDENCE.paper.measures_on('dl19')
MODELS = ('MiniLM', 'GTE', 'ModernBERT')
OPTIMIZERS = ('AdamW', 'Lion')
EPOCHS = (1, 2, 3)
PRINTED = ('draft', 'raw outputs')
BOTH = (*PRINTED, 'our runs')
FILES = read_claims('lion-vs-adamw')
CLAIMS = {claim.id: claim for file in FILES for claim in file.claims}
DECIDED = [claim for claim in CLAIMS.values() if claim.holds]
CONTRASTS = (
    'pair of rows that differ in rate or schedule alone',
    'rows that differ in architecture, context or strategy alone',
)


# Evidence that could have been another one


def shuffled(evidence, rng):
    """Values of each measure dealt out to other rows, on every ground alike."""
    changed = copy.deepcopy(evidence)
    rows = list(evidence.tables['draft'])
    order = {m: dict(zip(rows, rng.permutation(len(rows)))) for m in (*TREC, 'MRR@10')}
    for table in changed.tables.values():
        before = copy.deepcopy(table)
        own_rows = list(table)
        for row in table:
            for measure in table[row]:
                source = own_rows[order[measure][row] % len(own_rows)]
                table[row][measure] = before[source][measure]
    return changed


def level(evidence, **bonus):
    """Every row the same, but for a bonus of those that are named: `GTE`, `Lion`, `GTELion2`."""
    changed = copy.deepcopy(evidence)
    for table in changed.tables.values():
        for (model, optimizer, epoch), values in table.items():
            names = (model, optimizer, f'{model}{optimizer}', f'{model}{optimizer}{epoch}')
            for measure in values:
                values[measure] = 0.5
                for name in names:
                    values[measure] += bonus.get(name, 0)
    return changed


def with_topics(evidence, **sign):
    """Per-topic values of every model, Lion ahead by `sign[model]`."""
    changed = copy.deepcopy(evidence)
    topics = changed.topics['raw outputs']
    rng = np.random.default_rng(1)
    base = pd.Series(rng.uniform(0, 1, 43))
    for model in MODELS:
        gap = sign.get(model, 0) * 0.1
        for epoch in EPOCHS:
            for measure in TREC:
                topics[model, 'AdamW', epoch, measure] = base
                topics[model, 'Lion', epoch, measure] = base + gap + rng.normal(0, 0.01, 43)
    return changed


def changed_fields(evidence, **fields):
    changed = copy.deepcopy(evidence)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def changed_tables(evidence):
    rng = np.random.default_rng(12)
    for _ in range(60):
        yield shuffled(evidence, rng)
    bonuses = (
        dict(),
        dict(GTE=0.1),
        dict(MiniLM=0.1),
        dict(ModernBERT=0.1),
        dict(Lion=0.1),
        dict(AdamW=0.1),
        dict(MiniLMLion=0.1),
        dict(GTELion2=0.1, MiniLMAdamW=0.05, MiniLMLion3=0.2, ModernBERTLion3=0.2),
        dict(GTELion3=0.1, GTEAdamW1=0.1, MiniLMLion3=0.2, ModernBERTLion3=0.2),
        dict(MiniLMAdamW=-0.1, MiniLMLion=-0.1, GTEAdamW2=0.2),
    )
    for bonus in bonuses:
        yield level(evidence, **bonus)
    for ground in ('draft', 'raw outputs', 'thesis'):  # the others are gone
        yield changed_fields(evidence, tables={ground: evidence.tables[ground]})
    few = copy.deepcopy(evidence)
    for table in few.tables.values():
        for row in [row for row in table if row[0] == 'GTE' or row[2] == 3]:
            del table[row]
    yield few


def changed_topics(evidence):
    three_seeds = {(ground, model): 3 for ground in evidence.tables for model in MODELS}
    yield with_topics(evidence, MiniLM=1, GTE=1, ModernBERT=1)
    for a in (-1, 1):
        for b in (-1, 1):
            mixed = with_topics(evidence, MiniLM=a, GTE=b, ModernBERT=-b)
            yield mixed
            yield changed_fields(mixed, seeds=three_seeds)
            ahead = with_topics(level(evidence, Lion=0.1), MiniLM=a, GTE=a, ModernBERT=b)
            yield changed_fields(ahead, seeds=three_seeds)


def changed_facts(evidence):
    for i in (0, -1):
        one_way = {key: [ways[i]] for key, ways in evidence.statements.items()}
        yield changed_fields(evidence, statements=one_way)
    one_value = {
        key: [('2e-6', how, source) for _, how, source in ways]
        for key, ways in evidence.statements.items()
    }
    yield changed_fields(evidence, statements=one_value)
    measured = dict(
        adamw=MeasuredOptimizer(1.0, is_decoupled=False, has_equal_steps=True),
        lion=MeasuredOptimizer(2.0, is_decoupled=False, has_equal_steps=False),
    )
    yield changed_fields(evidence, measured=measured)
    gpu = {(model, 'AdamW'): 45.0 for model in MODELS} | {(model, 'Lion'): 50.0 for model in MODELS}
    yield changed_fields(evidence, gpu=gpu)
    yield changed_fields(evidence, gpu_of='GPU utilization')
    yield changed_fields(evidence, cited=dict.fromkeys(evidence.cited, 0.1))
    yield changed_fields(evidence, cited=dict.fromkeys(evidence.cited, 0.9))
    systems = {
        system: ndcg if system.startswith('ModernBERT') else 0.9
        for system, ndcg in evidence.systems.items()
    }
    yield changed_fields(evidence, systems=systems)
    yield changed_fields(evidence, sizes=dict.fromkeys(MODELS, 138e6))
    yield changed_fields(evidence, contexts=dict.fromkeys(MODELS, 512))
    yield changed_fields(evidence, judged=54)
    yield changed_fields(evidence, longest=600)


def changed_runs(evidence):
    for is_lion_worse in (0, 1):
        curves = {}
        for ground in evidence.tables:
            for model in MODELS:
                for optimizer in OPTIMIZERS:
                    is_lion = optimizer == 'Lion'
                    rise = 0.1 * (is_lion == bool(is_lion_worse))
                    level = 1.0 + is_lion_worse * is_lion
                    curves[ground, model, optimizer] = dict(
                        eval_loss=[1.0, *[0.9] * 10, 0.9 + rise],
                        grad_norm=[level, *[level] * 10, level + rise],
                    )
        contrasts = dict.fromkeys(CONTRASTS, 0.5 - is_lion_worse)
        yield changed_fields(evidence, curves=curves, contrasts=contrasts)


CHANGED = [
    changed
    for changes in (changed_tables, changed_topics, changed_facts, changed_runs)
    for changed in changes(EVIDENCE)
]


@pytest.mark.parametrize('claim', DECIDED, ids=lambda claim: claim.id)
def test_every_verdict_follows_its_evidence(claim):
    before = judge_claim(claim, EVIDENCE).verdict
    assert any(judge_claim(claim, changed).verdict != before for changed in CHANGED), claim.holds


# {word: the fields of Evidence that it reads}; the words of tables and rows read `tables`.
FIELDS_OF_WORDS = dict(
    significant={'topics'},
    interacts={'topics'},
    stated={'statements'},
    says={'statements'},
    listed={'systems'},
    cited={'cited'},
    judged={'judged'},
    size={'sizes'},
    context={'contexts'},
    longest={'longest'},
    state={'measured'},
    decoupled={'measured'},
    equal_steps={'measured'},
    saved={'gpu', 'gpu_of'},
    quantity={'gpu_of'},
    seeds={'seeds'},
    wobble={'curves'},
    gradient={'curves'},
    gradient_spread={'curves'},
    contrast={'contrasts'},
)


def other_values(field, most=3):
    """Values of a field that differ from the evidence at hand."""
    values = {pickle.dumps(getattr(changed, field)): getattr(changed, field) for changed in CHANGED}
    values.pop(pickle.dumps(copy.deepcopy(getattr(EVIDENCE, field))), None)
    return list(values.values())[:most]


OTHER_VALUES = {
    field: other_values(field) for fields in FIELDS_OF_WORDS.values() for field in fields
}
OTHER_VALUES['tables'] = [{ground: {} for ground in EVIDENCE.tables}]


def fields_of(claim):
    """The fields of Evidence that a claim's expressions name."""
    words = set(re.findall(r'[a-z_]+(?=\()', ' '.join(claim.holds.values())))
    return set().union(*(FIELDS_OF_WORDS.get(word, {'tables'}) for word in words))


@pytest.mark.parametrize('claim', DECIDED, ids=lambda claim: claim.id)
def test_no_verdict_follows_evidence_that_it_does_not_name(claim):
    """All other evidence is exchanged, kind by kind."""
    before, named = judge_claim(claim, EVIDENCE), fields_of(claim)
    for field, values in OTHER_VALUES.items():
        for value in values if field not in named else ():
            after = judge_claim(claim, replace(EVIDENCE, **{field: value}))
            assert (after.verdict, after.evidence) == (before.verdict, before.evidence), field


def test_table_2_is_no_evidence_for_table_1():
    """What a claim does not read does not move it."""
    far = changed_fields(
        EVIDENCE,
        systems=dict.fromkeys(EVIDENCE.systems, 0.9),
        cited=dict.fromkeys(EVIDENCE.cited, 0.9),
    )
    moved = {
        claim.id
        for claim in DECIDED
        if judge_claim(claim, far).verdict != judge_claim(claim, EVIDENCE).verdict
    }
    assert moved
    assert all(claim_id.startswith('D-') for claim_id in moved)


# Verdicts


HEADLINES = {
    'supported': ('A-ndcg', 'A-map', 'A-mrr', 'E-gte', 'T-memory', 'Q15', 'Q03-memory'),
    'not supported': ('Q03', 'T-sizes', 'VA-modernbert-same', 'B-because-context'),
    'depends on the source': ('VA-gte-later', 'E-gte-setting', 'A-dev', 'T-map'),
    'depends on the source and the reading': ('E-larger', 'B-larger', 'B-minilm-lagged'),
    'undecidable': (
        'VA-modernbert-significant',
        'E-substantially',
        'VA-interacts',
        'VA-minilm-stable',
        'T63-lion',
    ),
    'background': ('Q06', 'Q17', 'E-modal'),
}


@pytest.mark.parametrize('verdict', HEADLINES)
def test_verdicts_of_the_headlines(verdict):
    assert {judge_claim(CLAIMS[i], EVIDENCE).verdict for i in HEADLINES[verdict]} == {verdict}


def test_the_note_on_minilm_scaling_has_17_claims():
    assert len({claim_id[:3] for claim_id in CLAIMS if claim_id.startswith('Q')}) == 17


@pytest.mark.parametrize(
    'expression, over, verdict',
    [
        ("round(peak('nDCG@10'), 4) == 0.7225", BOTH, 'supported'),
        ("peak('MAP') > 0", BOTH, 'supported'),
        ("peak('MAP') > 0.6", BOTH, 'not supported'),
        ("significant('Lion', 'AdamW', 'ModernBERT', 'nDCG@10') == 1", BOTH, 'undecidable'),
        ("peak('MAP', 'GTE', 'Lion') > 0.49", BOTH, 'depends on the source'),
        ("state('lion') < state('adamw')", (), 'supported'),
        ("stated('batch size', 'all models') == '64'", (), 'depends on the source'),
    ],
)
def test_a_verdict_follows_from_the_answers(expression, over, verdict):
    claim = Claim('x', 'note', 'here', 'words', {'': expression}, over)
    assert judge_claim(claim, EVIDENCE).verdict == verdict


@pytest.mark.parametrize(
    'one, other, verdict',
    [
        ("peak('MAP') > 0", "peak('nDCG@10') > 0", 'supported'),
        ("peak('MAP') > 0.6", "peak('nDCG@10') > 0.8", 'not supported'),
        ("peak('MAP') > 0", "peak('nDCG@10') > 0.8", 'depends on the reading'),
        (
            "peak('MAP', 'GTE', 'Lion') > 0.49",
            "peak('nDCG@10', 'GTE', 'Lion') < 0.695",
            'depends on the source',
        ),
        (
            "peak('MAP', 'GTE', 'Lion') > 0.49",
            "peak('MAP') > 0",
            'depends on the source and the reading',
        ),
        (
            "significant('Lion', 'AdamW', 'ModernBERT', 'MAP') == 1",
            "significant('Lion', 'AdamW', 'ModernBERT', 'R-Prec') == 1",
            'undecidable',
        ),
    ],
)
def test_readings_and_sources_are_told_apart(one, other, verdict):
    claim = Claim('x', 'note', 'here', 'words', dict(one=one, other=other), BOTH)
    assert judge_claim(claim, EVIDENCE).verdict == verdict


def test_values_tie_if_one_print_can_stand_for_both():
    "0.59876 is rounded to 0.5988, and 0.59888 is cut to it."
    winners = {'MiniLM + Lion', 'ModernBERT + Lion'}
    for ground in PRINTED:
        assert ValueWords(EVIDENCE, ground, []).won('MRR@10') == winners
    apart = copy.deepcopy(EVIDENCE)
    apart.tables['raw outputs']['ModernBERT', 'Lion', 3]['MRR@10'] = 0.5990
    assert ValueWords(apart, 'raw outputs', []).won('MRR@10') == {'ModernBERT + Lion'}


def test_an_undecidable_claim_shows_what_the_one_run_says():
    evidence = judge_claim(CLAIMS['VA-minilm-stable'], EVIDENCE).evidence
    assert 'moves by 0.0119' in evidence
    assert 'moves by 0.0223' in evidence
    assert 'no second seed of MiniLM' in evidence


def test_a_ground_is_not_answered_by_another_one():
    """Per-topic values of the raw outputs decide nothing for a printed table."""
    gte = CLAIMS['VA-gte-clearly']
    assert list(judge_claim(gte, EVIDENCE).answers) == ['raw outputs']
    without_gte = copy.deepcopy(EVIDENCE)
    topics = EVIDENCE.topics['raw outputs']
    without_gte.topics['raw outputs'] = {k: v for k, v in topics.items() if k[0] == 'MiniLM'}
    judgment = judge_claim(gte, without_gte)
    assert judgment.verdict == 'undecidable'


def test_our_own_runs_answer_for_themselves_only():
    ours = copy.deepcopy(EVIDENCE)
    ours.tables['our runs (as-run)'] = ours.tables['draft']
    lion_ahead = with_topics(EVIDENCE, ModernBERT=1)
    ours.topics['our runs (as-run)'] = lion_ahead.topics['raw outputs']
    judgment = judge_claim(CLAIMS['VA-modernbert-significant'], ours)
    assert judgment.answers == {'our runs (as-run)': True}


# The vocabulary


def test_the_words_of_an_expression():
    table = 'value peak won peak_epoch mean spread measures ahead most models optimizers epochs'
    topics = 'significant interacts'
    facts = 'stated says listed cited judged size context longest state decoupled equal_steps saved quantity'
    runs = 'seeds wobble gradient gradient_spread contrast'
    built_in = 'round len min max sum all any abs'
    expected = ' '.join([table, topics, facts, runs, built_in]).split()
    assert sorted(ClaimVocabulary(EVIDENCE, 'draft', []).functions()) == sorted(expected)


@pytest.mark.parametrize(
    'expression', ["__import__('os').getcwd()", 'peak.__self__', "peak.__func__('MAP')"]
)
def test_an_expression_can_only_ask(expression):
    claim = Claim('x', 'note', 'here', 'words', {'': expression}, BOTH)
    with pytest.raises(KitError, match='claim x'):
        ask(claim, EVIDENCE, 'draft')


def test_optimizers_without_an_epoch_in_common_are_missing_evidence():
    evidence = copy.deepcopy(EVIDENCE)
    kept = {('AdamW', 1), ('Lion', 2)}
    table = evidence.tables['draft']
    evidence.tables['draft'] = {row: table[row] for row in table if row[1:] in kept}
    ahead = "ahead('Lion', 'AdamW', 'GTE', ['MAP']) > 0.5"
    claim = Claim('x', 'note', 'here', 'words', {'': ahead}, BOTH)
    answer = ask(claim, evidence, 'draft')
    assert answer.holds is None
    assert 'no epoch of GTE with both' in str(answer.missing)


@pytest.mark.parametrize(
    'expression, problem',
    [
        ("peek('MAP') > 1", "did you mean 'peak'"),
        ("peak('MPA') > 1", "measure 'MPA' is unknown; did you mean 'MAP'"),
        ("size('GTF') > 1", "models: 'GTF' is unknown; did you mean 'GTE'"),
        ("most(measures('dl91'), [])", "test set 'dl91' is unknown; did you mean 'dl19'"),
        ("state('lino') > 1", "measured optimizers: 'lino' is unknown; did you mean 'lion'"),
    ],
)
def test_an_unknown_name_in_an_expression_is_named(expression, problem):
    claim = Claim('x', 'note', 'here', 'words', {'': expression}, BOTH)
    with pytest.raises(KitError, match='claim x: ') as error:
        ask(claim, EVIDENCE, 'draft')
    assert problem in str(error.value)


def test_an_unknown_ground_is_named():
    claim = Claim('x', 'note', 'here', 'words', {'': "peak('MAP') > 0"}, ('drafts',))
    with pytest.raises(KitError, match="over: 'drafts' is unknown; did you mean 'draft'"):
        judge_claim(claim, EVIDENCE)


def test_a_claim_without_grounds_is_asked_on_all():
    claim = Claim('x', 'note', 'here', 'words', {'': "peak('MAP') > 0"}, None)
    assert set(judge_claim(claim, EVIDENCE).answers) == set(EVIDENCE.tables)


def test_evidence_that_a_study_does_not_have_is_missing():
    bare = changed_fields(
        EVIDENCE, statements={}, systems={}, cited={}, gpu={}, gpu_of='', longest=0
    )
    expressions = (
        "stated('batch size', 'all models') == '64'",
        "listed() > 0",
        "cited('BM25') > 0",
        "saved('Lion', 'AdamW', 'GTE') > 0",
        "quantity() == ''",
        'longest() > 0',
    )
    for expression in expressions:
        claim = Claim('x', 'note', 'here', 'words', {'': expression})
        assert judge_claim(claim, bare).verdict == 'undecidable', expression


# Files of claims


@pytest.mark.parametrize(
    'entries, problem',
    [
        (
            '- {id: a, where: b, words: c, hold: d}',
            "x.yaml, claim a: key 'hold' is unknown; did you mean 'holds'",
        ),
        ('- {where: b, words: c, why: d}', 'x.yaml, claim 1: id is missing'),
        ('- {id: a, where: b, words: c}', 'x.yaml, claim a: neither an expression'),
        ('- {id: a, where: b, words: c, holds: "1 +"}', 'x.yaml, claim a: .* does not parse'),
        (
            '- {id: a, where: b, words: c, why: d}\n- {id: a, where: b, words: c, why: d}',
            'x.yaml, claim a: the id appears twice',
        ),
    ],
)
def test_a_malformed_claim_is_named(tmp_path, entries, problem):
    (tmp_path / 'claims').mkdir()
    (tmp_path / 'claims/x.yaml').write_text(f'over: []\nclaims:\n{entries}')
    with pytest.raises(KitError, match=problem):
        read_claims(str(tmp_path))


def test_an_unknown_key_of_a_file_is_named(tmp_path):
    (tmp_path / 'claims').mkdir()
    (tmp_path / 'claims/x.yaml').write_text('titel: mine\nclaims: []\n')
    with pytest.raises(KitError, match="key 'titel' is unknown; did you mean 'title'"):
        read_claims(str(tmp_path))


def letters(text):
    return re.sub(r'[^a-z0-9@.]+', '', text.lower())


def test_claims_quote_their_sources():
    """The words of a claim are in the source that it names; brackets are the kit's."""
    folder = papers_folder()
    files = dict(
        draft='lion-vs-adamw-paper.txt',
        thesis='lion-vs-adamw-thesis.txt',
        question='minilm-scaling-question.txt',
    )
    sources = {source: letters((folder / file).read_text()) for source, file in files.items()}
    missing = []
    for claim in CLAIMS.values():
        for part in re.split(r'\[[^\]]*\]', claim.words):
            if letters(part).strip('.') not in sources[claim.source]:
                missing.append((claim.id, part))
    assert not missing, missing
