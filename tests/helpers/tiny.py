"""The study's recipes at toy size.

Tiny models of the true architectures, read through a fake hub."""

import json

from conftest import DATA, ROOT

from reproduce_kit.config.files import make_config, read_runs
from reproduce_kit.data.collection import read_collection
from reproduce_kit.data.msmarco import first_triplets, questions
from reproduce_kit.data.msmarco_sets import set_folder, write_set
from reproduce_kit.data.trec import ranking
from reproduce_kit.testing.fake_hub import fake_model, fake_msmarco, fake_nanobeir, fake_qa

TINY = {  # backbone: its tiny model
    'minilm-l12-h384': 'tiny-bert',
    'gte-multilingual-base': 'tiny-gte',
    'modernbert-base': 'tiny-modernbert',
}
TINY_BATCH = {512: 16, 256: 8, 192: 6, 128: 4, 64: 4}  # global batch: at toy size
TREC_DL = DATA / 'trec-dl'
QUESTIONS = DATA / 'msmarco-v1.1-sample/train-200.json'


def shrink(cfg, **changes):
    """A config at toy size.

    What makes the recipe stays: optimizer, rates, decay, schedule and its length relative to
    the run, chaining, hold-out, a short last batch."""
    batch = TINY_BATCH[cfg.global_batch]
    schedule = cfg.schedule_updates and round(cfg.schedule_updates / cfg.updates * 12)
    short_by = batch // 2 if cfg.last_batch == 'keep' else 0
    small = dict(
        study='tiny',
        backbone=TINY[cfg.backbone],
        layers=2,
        max_length=64,
        train_triplets=200,
        train_pairs=4 * batch - short_by,
        dev_pairs=20,
        test_sets=['dl19' if TREC_DL.exists() else 'mini', 'qa'],
        final_test_sets=[],
        depth=100,
        schedule_updates=schedule,
        global_batch=batch,
        device_batch=max(1, batch * cfg.device_batch // cfg.global_batch),
        precision='auto',
        log_steps=1,
        save_steps=3,
        gpu=None,
        gpu_fallbacks=[],
        workers=0,
    )
    return make_config(json.loads(cfg.model_dump_json()) | small | changes)


def recipes(*names):
    """{recipe/file: the first run of each YAML}."""
    study = ROOT / 'params/lion-vs-adamw'
    return {
        f'{name}/{path.stem}': read_runs(path)[0]
        for name in names
        for path in sorted((study / name).glob('*.yaml'))
    }


def hub(cfg):
    """Fill the fake hub.

    DL19's real passages and BM25 ranking, and MS MARCO's real questions, are used if they are
    at hand."""
    collection = read_collection(TREC_DL) if TREC_DL.exists() else None
    if collection:
        fake_msmarco(corpus=collection.corpus, topics=collection.topics['dl19'])
    else:
        fake_msmarco()
    fake_nanobeir()
    fake_qa(json.loads(QUESTIONS.read_text())[:40] if QUESTIONS.exists() else None)
    for backbone in TINY.values():
        fake_model(backbone)
    if collection:
        keep_dl19(cfg, collection)
    keep_mini(cfg)


def keep_dl19(cfg, collection):
    """Write DL19 with 20 candidates per topic: twice as many as its measures read."""
    candidates = {
        topic: {docid: scores[docid] for docid in ranking(scores)[:20]}
        for topic, scores in collection.candidates['dl19'].items()
    }
    topics, qrels = collection.topics['dl19'], collection.qrels['dl19']
    write_set(set_folder('dl19', cfg), topics, qrels, candidates)


def keep_mini(cfg):
    """Write a made-up set of 8 topics, for machines without the real one."""
    asked = questions()
    positive = {row['query_id']: row['positive_id'] for row in first_triplets(400).to_pylist()}
    topics = sorted(positive)[:8]
    write_set(
        set_folder('mini', cfg),
        {topic: asked[topic] for topic in topics},
        {topic: {positive[topic]: 3} for topic in topics},
        {topic: {positive[topic]: 1.0, '9000001': 2.0, '9000002': 0.5} for topic in topics},
    )
