"""The paper's study: what each recipe asks for, and each recipe end to end in miniature."""

import json
import math
import shutil

import pytest
from conftest import DATA, ROOT
from kit import need
from tiny import hub, recipes, shrink

from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.config.files import example_settings, make_config, read_configs
from reproduce_kit.config.settings import RunConfig
from reproduce_kit.core import KitError, read_json, sha256
from reproduce_kit.data.pairs import load_pairs
from reproduce_kit.engines.compliance import check_run
from reproduce_kit.engines.estimate import plan_run
from reproduce_kit.evaluation.metrics import evaluate
from reproduce_kit.evaluation.rerank import (
    epoch_table,
    evaluate_epoch,
    evaluate_first_stage,
    load_selector,
)
from reproduce_kit.evaluation.test_sets import load_test_sets
from reproduce_kit.models.backbone import load_backbone, sources
from reproduce_kit.store.history import read_history
from reproduce_kit.store.run import mark_done, open_run, record_data
from reproduce_kit.training.cross_encoder import train
from reproduce_kit.training.optimizers import make_optimizer
from reproduce_kit.training.schedules import make_schedule, planned_rate

ALL = recipes('as-run', 'as-stated', 'as-discussed', 'controlled')
THREE = {k: c for k, c in ALL.items() if not k.startswith('as-discussed')}


def test_eighteen_rows_in_each_recipe():
    for r in ('as-run', 'as-stated', 'controlled'):
        rows = {
            (c.backbone, c.optimizer, n)
            for k, c in ALL.items()
            if k.startswith(r + '/')
            for n in range(1, c.epochs + 1)
        }
        assert len(rows) == 18, r


def test_what_was_run():
    """paper-facts: batches, rates, schedules, chains, decay; 31,092 updates of ModernBERT were recovered from the logs."""
    a = {k.split('/')[1]: c for k, c in ALL.items() if k.startswith('as-run')}
    assert {k: c.global_batch for k, c in a.items()} == {
        'minilm-adamw': 512,
        'minilm-lion': 256,
        'gte-adamw': 128,
        'gte-lion': 128,
        'modernbert-adamw': 192,
        'modernbert-lion': 192,
    }
    assert {k: c.chained for k, c in a.items()} == {k: k in ('minilm-lion', 'gte-lion') for k in a}
    assert {k: c.learning_rate for k, c in a.items()} == {
        k: 2e-6 if k == 'modernbert-lion' else 2e-5 for k in a
    }
    assert all(
        c.decay_on == 'all'
        and c.weight_decay == 0.01
        and c.max_grad_norm == 1.0
        and c.seed == 12
        and c.train_pairs == 1_990_000
        for c in a.values()
    )
    assert {k: c.updates for k, c in a.items() if k.endswith('adamw')} == {
        'minilm-adamw': 11_661,
        'gte-adamw': 46_641,
        'modernbert-adamw': 31_092,
    }  # the step counts in the authors' checkpoint names
    assert a['modernbert-lion'].updates == 31_092 and a['modernbert-lion'].batch(3) == {
        'per_device': 64,
        'world': 3,
        'accumulation': 1,
        'global': 192,
    }
    s = {k.split('/')[1]: c for k, c in ALL.items() if k.startswith('as-stated')}
    assert {c.global_batch for c in s.values()} == {64} and ALL[
        'as-discussed/modernbert-adamw'
    ].learning_rate == 2e-6
    for b in ('minilm', 'gte', 'modernbert'):
        pair = [ALL[f'controlled/{b}-{o}'] for o in ('adamw', 'lion')]
        differ = {k for k in RunConfig.model_fields if getattr(pair[0], k) != getattr(pair[1], k)}
        assert differ == {'name', 'optimizer', 'learning_rate', 'beta2'}, differ


def closed_form(key, c, n):
    """The rate of update n + 1 written down per recipe, independently of the kit's own formula."""
    if key.startswith('controlled') or (
        key.startswith('as-') and 'modernbert' in key and not key.startswith('as-run')
    ):
        w = math.ceil(0.1 * c.updates)
        return c.learning_rate * (
            n / w if n < w else 0.5 * (1 + math.cos(math.pi * (n - w) / (c.updates - w)))
        )
    if key == 'as-run/modernbert-lion':
        return 2e-6 * 0.5 * (1 + math.cos(math.pi * n / 93_750))
    if key.startswith('as-stated') or key == 'as-run/modernbert-adamw':
        return 2e-5
    span = c.updates // 3 if key.endswith('lion') else c.updates  # chained epochs
    n, w = n % span, math.ceil(0.1 * span)
    return 2e-5 * (n / w if n < w else (span - n) / (span - w))


@pytest.mark.parametrize('key', ALL)
def test_rate_at_full_length(key):
    """What the scheduler that training builds would do over the whole run, at 400 updates along it."""
    import torch

    c = ALL[key]
    o = make_optimizer(torch.nn.Linear(2, 1), c)
    s = make_schedule(o, c)
    for n in sorted(
        {
            *range(0, c.updates, c.updates // 400),
            c.epoch_updates - 1,
            c.epoch_updates,
            c.updates - 1,
        }
    ):
        rate = c.learning_rate * s.lr_lambdas[0](n)
        assert math.isclose(
            rate, closed_form(key, c, n), rel_tol=1e-9, abs_tol=1e-18
        ) and math.isclose(rate, planned_rate(c, n), rel_tol=1e-9, abs_tol=1e-18), (key, n)
    if key == 'as-run/modernbert-lion':
        assert round(planned_rate(c, c.updates - 1) / 2e-6, 2) == 0.75
    assert [len(g['params']) for g in o.param_groups] == ([2] if c.decay_on == 'all' else [1, 1])


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    import os

    keep = {k: os.environ.get(k) for k in ('REPRODUCE_CACHE', 'REPRODUCE_RUNS')}
    base = tmp_path_factory.mktemp('tiny')
    os.environ |= dict(REPRODUCE_CACHE=str(base / 'cache'), REPRODUCE_RUNS=str(base / 'runs'))
    hub(shrink(ALL['as-run/minilm-lion']))
    yield base
    for k, v in keep.items():
        os.environ.pop(k) if v is None else os.environ.update({k: v})


class Stop(Exception):
    pass


def go(cfg, stop_after=None):
    """What train.ipynb does, in this process."""
    run = open_run(cfg)
    sets = load_test_sets(cfg)
    evaluate_first_stage(run, sets)
    pairs = load_pairs(cfg)
    record_data(
        run,
        pairs=pairs['fingerprint'],
        **{n: s.fingerprint for n, s in sets.items()},
        **sources(cfg),
    )
    model, select = load_backbone(cfg), load_selector(cfg)

    def after(n):
        if n == stop_after:
            raise Stop
        evaluate_epoch(run, sets, n, select)

    train(run, model, pairs, on_epoch=after)
    mark_done(run, {n: evaluate_epoch(run, sets, n, select) for n in range(1, cfg.epochs + 1)})
    return run


@pytest.mark.parametrize('key', THREE)
def test_end_to_end_in_miniature(cache, key):
    """Train, stop after an epoch, resume, rerank DL19's real top 100 and MS MARCO's real questions, select, finish; and be what the recipe asks for."""
    cfg = shrink(THREE[key])
    assert cfg.updates == 12
    with pytest.raises(Stop):
        go(cfg, stop_after=2)
    assert check_run(open_run(cfg)) == []  # half way
    run = go(cfg)
    done = read_json(run.folder / 'done.json')
    m = run.manifest
    assert (
        check_run(run) == []
        and m['updates'] == dict(planned=12, done=12)
        and len(m['attempts']) == 3
    )
    assert m['batch'] == cfg.batch(1) and m['batch']['global'] == cfg.global_batch
    main = cfg.test_sets[0]
    assert set(m['data']) == {
        'pairs',
        main,
        'qa',
        'weights',
        'sentence-transformers/msmarco',
        'microsoft/ms_marco',
        'sentence-transformers/NanoBEIR-en',
        BACKBONES[cfg.backbone].repo,
    } and all(len(v) >= 40 for v in m['data'].values())
    assert (
        set(done['epochs']['3']['means']) == {main, 'qa'}
        and list(done['epochs']['3']['means']['qa']) == ['mrr10_qa_v11']
        and 'nDCG@10' in done['epochs']['3']['means'][main]
    )
    assert (
        done['selected'] in (1, 2, 3)
        and done['epochs']['1']['selection']['metric'] == 'NanoBEIR_R100_mean_ndcg@10'
    )
    first = read_json(run.folder / 'first-stage/metrics.json')['means']
    if main == 'dl19':
        assert round(first['BM25/dl19']['nDCG@10'], 4) == 0.5058
    h = read_history(run.folder)
    assert [l['step'] for l in h if 'loss' in l] == list(range(1, 13)) and sum(
        'eval_loss' in l for l in h
    ) == 3
    assert sha256(run.epoch(1) / 'model/model.safetensors') != sha256(
        run.epoch(3) / 'model/model.safetensors'
    )
    per = m['memory']['optimizer_state_bytes'] / m['memory']['parameters']['total']
    assert abs(per - (8 if cfg.optimizer == 'adamw' else 4)) < 0.1
    assert len(epoch_table(run)) == 5


def test_tables_of_the_paper_study(cache):
    """Table I with a row per backbone, optimizer and epoch, both MRR protocols never in one column, every cell traceable; recipes are not mixed."""
    from reproduce_kit.results.figures import gap_frame, history_frame
    from reproduce_kit.results.run_tables import (
        memory_table,
        number_macros,
        require_runs,
        settings_table,
        table1,
        table2,
    )
    from reproduce_kit.results.significance_tables import gap_table, letters_table

    for k in THREE:  # whichever of the runs above were not asked for
        if k.startswith('as-run') or k.endswith('/minilm-lion'):
            go(shrink(THREE[k]))
    runs = require_runs('tiny', 'as-run')
    t = table1(runs)
    rows = list(dict.fromkeys(c['row'] for c in t.cells))
    columns = dict.fromkeys(c['column'] for c in t.cells)
    assert len(runs) == 6 and len(rows) == 2 + 18 and rows[2] == ('Tiny BERT', 'AdamW', '1')
    assert ('qa', 'mrr10\\_qa\\_v11') in columns and all(
        c['source']['perquery_name'].endswith('/qa') == (c['column'][0] == 'qa')
        for c in t.cells
        if c['source']
    )
    assert [c['row'][0] for c in t.cells if not c['source']] == ['BM25'], (
        'the order given is nobody\'s ranking'
    )
    assert all(
        {'run', 'run_file', 'sha256', 'measure'} <= c['source'].keys()
        for c in t.cells
        if c['source']
    )
    with pytest.raises(KitError, match=r'several recipes \(as-run, as-stated, controlled\)'):
        require_runs('tiny')
    for f in (table2, number_macros, settings_table, memory_table):
        assert f(runs).cells
    gap, letters = gap_table(runs), letters_table(runs)
    assert [c['row'][1] for c in gap.cells if c['column'] == 'effect'] == [
        'Tiny BERT',
        'Tiny GTE',
        'Tiny ModernBERT',
    ] * len(runs[0].cfg.test_sets) and 'Holm-Bonferroni over the 3 rows' in gap.caption
    assert [
        c['text'] for c in letters.cells if c['column'][0] == 'qa' and c['row'][1] == 'BM25'
    ] == ['--'] and '21 comparisons' in letters.caption
    gaps = gap_frame(runs)
    assert (
        list(gaps['backbone'].unique()) == ['Tiny BERT', 'Tiny GTE', 'Tiny ModernBERT']
        and ((gaps['low'] <= gaps['gap']) & (gaps['gap'] <= gaps['high'])).all()
    )
    assert len(history_frame(runs)) == 6 * (12 + 3)


def test_through_the_notebook_and_the_command_line(cache, tmp_path):
    """One of the paper's rows as a user runs it: the console, papermill, the hub's cache, real candidates; then `check` and `plan` on the same file."""
    import yaml
    from kit import reproduce

    cfg = shrink(ALL['as-run/modernbert-lion'], name='row')
    file = tmp_path / 'row.yaml'
    file.write_text(yaml.safe_dump(json.loads(cfg.model_dump_json()), sort_keys=False))
    ready = reproduce('prepare', file, '--json')
    assert ready.returncode == 0 and len(json.loads(ready.stdout)) == 4, ready.stdout + ready.stderr
    p = reproduce('run', file, '--json')
    assert p.returncode == 0, p.stdout + p.stderr
    assert (
        json.loads(p.stdout)['done'] == ['row']
        and 'mrr10_qa_v11' in (open_run(cfg).folder / 'train.ipynb').read_text()
    )
    assert (
        json.loads(reproduce('check', file, '--json').stdout)['runs'][0]['state'] == 'as configured'
    )
    plan = json.loads(reproduce('plan', file, '--json').stdout)['runs'][0]
    assert plan['updates'] == 12 and plan['state'] == 'done' and 'ends at' in plan['schedule']
    run = open_run(cfg)
    run.note(updates=dict(planned=12, done=11))
    run.lock.release(force=True)
    p = reproduce('check', file)
    assert p.returncode == 1 and 'updates: the run has 11, the config asks for 12' in p.stdout


def test_resumed_equals_uninterrupted_in_a_chained_run(cache):
    cfg = shrink(ALL['as-run/gte-lion'], name='whole')
    cut = shrink(ALL['as-run/gte-lion'], name='cut')
    a = go(cfg)
    for stop in (1, 2):
        with pytest.raises(Stop):
            go(cut, stop_after=stop)
    b = go(cut)
    assert read_history(a.folder) == read_history(b.folder)
    assert all(
        sha256(a.epoch(n) / 'model/model.safetensors')
        == sha256(b.epoch(n) / 'model/model.safetensors')
        for n in (1, 2, 3)
    )


def test_check_fails_when_a_run_is_not_its_recipe(cache):
    run = go(shrink(ALL['as-run/minilm-lion'], name='other', epochs=1))
    run.note(batch=run.manifest['batch'] | dict(per_device=4))
    assert check_run(run) == [
        f"global batch: the run has {4 * run.manifest['batch']['accumulation']}, the config asks for {run.cfg.global_batch}"
    ]


def test_wrong_first_stage_stops_before_training(cache):
    if not (DATA / 'trec-dl').exists():
        pytest.skip(f'public data absent: trec-dl is not in {DATA}; set KIT_DATA')
    from reproduce_kit.data.collection import read_collection
    from reproduce_kit.data.msmarco import set_folder, write_set

    c = read_collection(DATA / 'trec-dl')
    cfg = shrink(ALL['as-run/minilm-lion'], name='gate', bm25_b=0.5)
    write_set(
        set_folder('dl19', cfg),
        c.topics['dl19'],
        c.qrels['dl19'],
        {q: {d: -s for d, s in docs.items()} for q, docs in c.candidates['dl19'].items()},
    )
    with pytest.raises(
        KitError,
        match=r'first stage on dl19: nDCG@10 is 0\.\d+, published is 0\.5058.*Nothing was trained',
    ):
        go(cfg)
    assert not (open_run(cfg).folder / 'history.jsonl').exists()


def test_qa_protocol_on_real_rows():
    """The MRR@10 of the paper: order given 0.326, ceiling 0.945, random order about 0.340."""
    import numpy as np

    from reproduce_kit.data.msmarco import qa_set
    from reproduce_kit.evaluation.metrics import ceiling

    rows = json.loads(need('msmarco-v1.1-sample', 'train-200.json').read_text())
    s = qa_set(rows)
    score = lambda run: evaluate(run, s.qrels, s.shown)['mrr10_qa_v11'].mean()
    rng = np.random.default_rng(12)
    assert (
        round(score(s.candidates), 3) == 0.326
        and round(ceiling(s.candidates, s.qrels, s.shown)['mrr10_qa_v11'].mean(), 3) == 0.945
    )
    assert (
        abs(
            np.mean(
                [
                    score({q: {d: rng.random() for d in docs} for q, docs in s.candidates.items()})
                    for _ in range(40)
                ]
            )
            - 0.340
        )
        < 0.01
    )
    assert len(s.topics) == 200 and s.first_stage == 'order given'


def test_plan_of_the_paper_study():
    rows = [plan_run(c) for c in read_configs([ROOT / 'params/lion-vs-adamw/as-run'])]
    assert [r['updates'] for r in rows] == [11_661, 23_322, 46_641, 46_641, 31_092, 31_092] and all(
        r['fits'] and r['gpu_hours'] > 0 and r['hours_from'].startswith('assumed') for r in rows
    )


def test_resuming_reads_only_what_is_left(cache):
    """In mid-epoch the rows that were seen are not read again, and the rest comes in the order it would have had."""
    import torch
    from datasets import Dataset

    cfg = make_config(
        example_settings(
            backbone='tiny-bert',
            layers=2,
            dropout=None,
            train_pairs=64,
            global_batch=8,
            device_batch=8,
            log_steps=2,
            save_steps=2,
            name='reads',
            max_length=16,
        )
    )
    rows = dict(
        query=[f'q {i}' for i in range(64)],
        passage=[f'p {i}' for i in range(64)],
        label=[float(i % 2) for i in range(64)],
    )
    seen = []

    def note(batch):
        seen.extend(int(q[2:]) for q in batch['query'])
        return batch

    pairs = dict(
        train=Dataset.from_dict(rows).with_transform(note),
        dev=Dataset.from_dict({k: v[:8] for k, v in rows.items()}),
    )

    def stop(n):
        raise Stop

    run = open_run(cfg)
    with pytest.raises(Stop):
        train(run, load_backbone(cfg), pairs, on_epoch=stop)
    shutil.rmtree(run.folder / 'checkpoint-8')
    whole = seen[-64:]
    seen.clear()  # back to update 6 of 8
    train(run, load_backbone(cfg), pairs)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(12_000)).tolist()
    assert whole == order and seen[-80:-64] == order[48:]
    assert len(seen) < 16 + 64 + 250, 'besides, the trainer looks at the first rows when it is made'
