"""Each recipe of the paper's study, end to end in miniature: tiny models, real judgments."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import DATA, ROOT
from datasets import Dataset
from kit import need, reproduce
from miniature import Stop, go
from tiny import TREC_DL, hub, recipes, shrink

from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.config.files import make_config, read_configs
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, read_json, sha256
from reproduce_kit.data.collection import read_collection
from reproduce_kit.data.msmarco_qa import qa_set
from reproduce_kit.data.msmarco_sets import set_folder, write_set
from reproduce_kit.engines.compliance import check_run
from reproduce_kit.engines.plan import plan_row
from reproduce_kit.evaluation.metrics import ceiling, evaluate
from reproduce_kit.evaluation.rerank import epoch_table
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.results.figures import gap_frame, history_frame
from reproduce_kit.results.run_tables import require_runs, table1
from reproduce_kit.results.significance_tables import gap_table, letters_table
from reproduce_kit.store.events import EventKind
from reproduce_kit.store.history import read_history
from reproduce_kit.store.run import open_run
from reproduce_kit.training.cross_encoder import train

ALL = recipes('as-run', 'as-stated', 'as-discussed', 'controlled')
AS_RUN = [key for key in ALL if key.startswith('as-run')]
QUICK = ['as-run/minilm-lion', 'as-run/modernbert-adamw']
LONG = [key for key in ALL if not key.startswith('as-discussed') and key not in QUICK]
UPDATES = 12
ONCE = ['mini'] if TREC_DL.exists() else []  # test sets for the selected epoch
STATE_BYTES = {'adamw': 8, 'lion': 4}  # per parameter


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    kept = {key: os.environ.get(key) for key in ('REPRODUCE_CACHE', 'REPRODUCE_RUNS')}
    base = tmp_path_factory.mktemp('tiny')
    os.environ |= dict(REPRODUCE_CACHE=str(base / 'cache'), REPRODUCE_RUNS=str(base / 'runs'))
    hub(shrink(ALL['as-run/minilm-lion']))
    yield base
    for key, value in kept.items():
        if value is None:
            os.environ.pop(key)
        else:
            os.environ[key] = value


def weights(run, epoch):
    return sha256(run.epoch(epoch) / 'model/model.safetensors')


def check_manifest(run, config):
    manifest = run.manifest
    assert manifest['updates'] == dict(planned=UPDATES, done=UPDATES)
    assert len(manifest['attempts']) == 3
    assert manifest['batch'] == config.batch(1)
    assert set(manifest['data']) == {
        'pairs',
        config.test_sets[0],
        'qa',
        *ONCE,
        'weights',
        'sentence-transformers/msmarco',
        'microsoft/ms_marco',
        'sentence-transformers/NanoBEIR-en',
        BACKBONES[config.backbone].repo,
    }
    assert all(len(fingerprint) >= 40 for fingerprint in manifest['data'].values())
    memory = manifest['memory']
    per_parameter = memory['optimizer_state_bytes'] / memory['parameters']['total']
    assert per_parameter == pytest.approx(STATE_BYTES[config.optimizer], abs=0.1)


def check_results(run, config):
    main = config.test_sets[0]
    done = read_json(run.folder / 'done.json')
    assert set(done['epochs']['3']['means']) == {main, 'qa'}
    assert list(done['epochs']['3']['means']['qa']) == ['mrr10_qa_v11']
    assert 'nDCG@10' in done['epochs']['3']['means'][main]
    assert done['selected'] in (1, 2, 3)
    assert list(done['final']) == ONCE
    assert done['epochs']['1']['selection']['metric'] == 'NanoBEIR_R100_mean_ndcg@10'
    first_stage = read_json(run.folder / 'first-stage/metrics.json')['means']
    if main == 'dl19':
        assert round(first_stage['BM25/dl19']['nDCG@10'], 4) == 0.5058
    assert len(epoch_table(run)) == 5


@pytest.mark.parametrize('key', [*QUICK, *(pytest.param(k, marks=pytest.mark.soak) for k in LONG)])
def test_a_recipe_stopped_and_resumed_is_what_its_file_asks_for(cache, key):
    """Train, stop, resume, rerank DL19's real top 100 and real questions, select, finish."""
    config = shrink(ALL[key], final_test_sets=ONCE)
    assert config.updates == UPDATES
    with pytest.raises(Stop):
        go(config, stop_after=2)
    assert check_run(open_run(config)) == []
    run = go(config)
    assert check_run(run) == []
    check_manifest(run, config)
    check_results(run, config)
    history = read_history(run.folder)
    assert [line['step'] for line in history if 'loss' in line] == list(range(1, UPDATES + 1))
    assert sum('eval_loss' in line for line in history) == config.epochs
    assert weights(run, 1) != weights(run, 3)


@pytest.fixture(scope='module')
def as_run(cache):
    """The six runs of one recipe, and one of another."""
    for key in [*AS_RUN, 'as-stated/minilm-lion']:
        go(shrink(ALL[key], final_test_sets=ONCE))
    return require_runs('tiny', 'as-run')


@pytest.mark.soak
def test_table_one_has_a_row_for_each_backbone_optimizer_and_epoch(as_run):
    table = table1(as_run)
    rows = list(dict.fromkeys(cell.row for cell in table.cells))
    assert len(rows) == 2 + 18
    assert rows[2] == ('Tiny BERT', 'AdamW', '1')


@pytest.mark.soak
def test_the_two_protocols_of_mrr_share_no_column(as_run):
    cells = table1(as_run).cells
    assert ('qa', 'mrr10_qa_v11') in {cell.column for cell in cells}
    for cell in cells:
        if cell.source:
            is_qa = cell.source['perquery_name'].endswith('/qa')
            assert is_qa == (cell.column[0] == 'qa')


@pytest.mark.soak
def test_every_cell_but_the_order_given_has_a_source(as_run):
    for cell in table1(as_run).cells:
        if cell.source:
            assert {'run', 'run_file', 'sha256', 'measure'} <= cell.source.keys()
        else:
            assert cell.row[0] == 'BM25' or set(ONCE) & set(cell.column)  # of another epoch


@pytest.mark.soak
def test_recipes_are_not_mixed_in_a_table(as_run):
    with pytest.raises(KitError, match=r'several recipes \(as-run, as-stated'):
        require_runs('tiny')


@pytest.mark.soak
def test_comparisons_are_corrected_over_their_family(as_run):
    gap, letters = gap_table(as_run), letters_table(as_run)
    assert 'Holm-Bonferroni over the 3 rows' in gap.caption
    assert '21 comparisons' in letters.caption


@pytest.mark.soak
def test_gaps_lie_in_their_intervals(as_run):
    gaps = gap_frame(as_run)
    assert list(gaps['backbone'].unique()) == ['Tiny BERT', 'Tiny GTE', 'Tiny ModernBERT']
    assert ((gaps['low'] <= gaps['gap']) & (gaps['gap'] <= gaps['high'])).all()
    assert len(history_frame(as_run)) == 6 * (UPDATES + 3)


@pytest.mark.soak
def test_a_row_of_the_paper_runs_from_the_command_line(cache, tmp_path):
    """The console, papermill, the hub's cache, real candidates; then check and plan."""
    config = shrink(ALL['as-run/modernbert-lion'], name='row')
    file = tmp_path / 'row.yaml'
    file.write_text(yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False))
    prepared = reproduce('prepare', file, '--json')
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    assert len(json.loads(prepared.stdout)) == 4
    ran = reproduce('run', file, '--json')
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads(ran.stdout)['done'] == ['row']
    assert 'mrr10_qa_v11' in (open_run(config).folder / 'train.ipynb').read_text()
    checked = json.loads(reproduce('check', file, '--json').stdout)
    assert checked['runs'][0]['state'] == 'as configured'
    plan = json.loads(reproduce('plan', file, '--json').stdout)['runs'][0]
    assert (plan['updates'], plan['state']) == (UPDATES, 'done')
    assert 'ends at' in plan['schedule']
    run = open_run(config)
    run.record(EventKind.CHECKPOINT, step=UPDATES - 1, seconds=1.0)
    run.lock.release(force=True)
    differs = reproduce('check', file)
    assert differs.returncode == 1
    assert 'updates: the run has 11, the config asks for 12' in differs.stdout


@pytest.mark.soak
def test_a_chained_run_resumed_equals_one_uninterrupted(cache):
    whole = go(shrink(ALL['as-run/gte-lion'], name='whole'))
    cut_config = shrink(ALL['as-run/gte-lion'], name='cut')
    for epoch in (1, 2):
        with pytest.raises(Stop):
            go(cut_config, stop_after=epoch)
    cut = go(cut_config)
    assert read_history(whole.folder) == read_history(cut.folder)
    for epoch in (1, 2, 3):
        assert weights(whole, epoch) == weights(cut, epoch)


def test_check_reports_a_run_that_is_not_its_recipe(cache):
    run = go(shrink(ALL['as-run/minilm-lion'], name='other', epochs=1))
    batch = run.manifest['batch'] | dict(per_device=4)
    run.note(batch=batch)
    found, asked = 4 * batch['accumulation'], run.cfg.global_batch
    assert check_run(run) == [f'global batch: the run has {found}, the config asks for {asked}']


def test_a_wrong_first_stage_stops_before_training(cache):
    need('trec-dl')
    collection = read_collection(DATA / 'trec-dl')
    config = shrink(ALL['as-run/minilm-lion'], name='gate', bm25_b=0.5)
    upside_down = {
        topic: {docid: -score for docid, score in scores.items()}
        for topic, scores in collection.candidates['dl19'].items()
    }
    topics, qrels = collection.topics['dl19'], collection.qrels['dl19']
    write_set(set_folder('dl19', config), topics, qrels, upside_down)
    message = r'nDCG@10 is 0\.\d+, published is 0\.5058.*Nothing was trained'
    with pytest.raises(KitError, match=message):
        go(config)
    assert not (open_run(config).folder / 'history.jsonl').exists()


@pytest.fixture(scope='module')
def questions():
    return qa_set(json.loads(need('msmarco-v1.1-sample', 'train-200.json').read_text()))


def mrr(questions, run):
    return evaluate(run, questions.qrels, questions.shown)['mrr10_qa_v11'].mean()


def test_the_qa_protocol_scores_the_order_given(questions):
    assert len(questions.topics) == 200
    assert questions.first_stage == 'order given'
    assert round(mrr(questions, questions.candidates), 3) == 0.326


def test_the_qa_protocol_has_a_ceiling(questions):
    best = ceiling(questions.candidates, questions.qrels, questions.shown)
    assert round(best['mrr10_qa_v11'].mean(), 3) == 0.945


def test_the_qa_protocol_scores_a_random_order(questions):
    rng = np.random.default_rng(12)

    def shuffled():
        candidates = questions.candidates
        return {t: {docid: rng.random() for docid in docs} for t, docs in candidates.items()}

    scores = [mrr(questions, shuffled()) for _ in range(40)]
    assert np.mean(scores) == pytest.approx(0.340, abs=0.01)


def test_the_plan_of_the_paper_study_knows_updates_and_fits():
    rows = [plan_row(config) for config in read_configs([ROOT / 'params/lion-vs-adamw/as-run'])]
    updates = [row.updates for row in rows]
    assert updates == [11_661, 23_322, 46_641, 46_641, 31_092, 31_092]
    for row in rows:
        assert row.fits and row.gpu_hours > 0
        assert row.hours_from.startswith('assumed')


def test_a_resumed_epoch_reads_only_what_is_left(cache):
    """Rows that were seen are not read again; the rest comes in the order it would have had."""
    config = make_config(
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
    read = []

    def note(batch):
        read.extend(int(query[2:]) for query in batch['query'])
        return batch

    def stop(epoch):
        raise Stop

    dev = Dataset.from_dict({key: values[:8] for key, values in rows.items()})
    pairs = dict(train=Dataset.from_dict(rows).with_transform(note), dev=dev)
    run = open_run(config)
    with pytest.raises(Stop):
        train(run, load_backbone(config), pairs, on_epoch=stop)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(12_000)).tolist()
    assert read[-64:] == order
    shutil.rmtree(run.folder / 'checkpoint-8')  # back to update 6 of 8
    read.clear()
    train(run, load_backbone(config), pairs)
    assert read[-80:-64] == order[48:]
    assert len(read) < 16 + 64 + 250  # the trainer also looks at the first rows when it is made
