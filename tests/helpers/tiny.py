"""The paper's study in miniature: its own recipes on tiny models of the true architectures, read through the hub's cache."""

import json

from conftest import DATA, ROOT

from reproduce_kit.config.files import make_config, read_runs
from reproduce_kit.data.collection import read_collection
from reproduce_kit.data.msmarco import first_triplets, questions, set_folder, write_set
from reproduce_kit.data.trec import ranking
from reproduce_kit.testing.fake_hub import fake_model, fake_msmarco, fake_nanobeir, fake_qa

TINY = {
    'minilm-l12-h384': 'tiny-bert',
    'gte-multilingual-base': 'tiny-gte',
    'modernbert-base': 'tiny-modernbert',
}


def shrink(cfg, **more):
    """A recipe's config at toy size: what makes it that recipe (optimizer, rates, decay, schedule and its length relative to the run, chaining, hold-out, a short last batch) stays."""
    batch = {512: 16, 256: 8, 192: 6, 128: 4, 64: 4}
    n = batch[cfg.global_batch]
    span = cfg.schedule_updates and round(cfg.schedule_updates / cfg.updates * 12)
    sets = ['dl19', 'qa'] if (DATA / 'trec-dl').exists() else ['mini', 'qa']
    return make_config(
        json.loads(cfg.model_dump_json())
        | dict(
            study='tiny',
            backbone=TINY[cfg.backbone],
            layers=2,
            max_length=64,
            train_triplets=200,
            train_pairs=4 * n - (n // 2 if cfg.last_batch == 'keep' else 0),
            dev_pairs=20,
            test_sets=sets,
            depth=100,
            schedule_updates=span,
            global_batch=n,
            device_batch=max(1, n * cfg.device_batch // cfg.global_batch),
            precision='auto',
            log_steps=1,
            save_steps=3,
            gpu=None,
            gpu_fallbacks=[],
            workers=0,
        )
        | more
    )


def recipes(*names):
    """{recipe/file: the first run of each YAML}."""
    return {
        f'{n}/{f.stem}': read_runs(f)[0]
        for n in names
        for f in sorted((ROOT / 'params/lion-vs-adamw' / n).glob('*.yaml'))
    }


def hub(cfg):
    """The small hub, with DL19's real passages and BM25 ranking where they are at hand, and MS MARCO's real questions."""
    corpus, topics, real = {}, {}, DATA / 'trec-dl'
    if real.exists():
        c = read_collection(real)
        corpus, topics = c.corpus, c.topics['dl19']
    rows = DATA / 'msmarco-v1.1-sample/train-200.json'
    fake_msmarco(corpus=corpus, topics=topics)
    fake_nanobeir()
    fake_qa(json.loads(rows.read_text())[:40] if rows.exists() else None)
    for b in TINY.values():
        fake_model(b)
    if real.exists():
        write_set(
            set_folder('dl19', cfg),
            topics,
            c.qrels['dl19'],
            {q: {d: s[d] for d in ranking(s)[:20]} for q, s in c.candidates['dl19'].items()},
        )  # as many as its measures look at, and as many again
    keep_mini(cfg)


def keep_mini(cfg):
    """A set of made-up topics for machines without the real one."""
    asked = questions()
    own = {r['query_id']: r['positive_id'] for r in first_triplets(400).to_pylist()}
    some = sorted(own)[:8]
    write_set(
        set_folder('mini', cfg),
        {q: asked[q] for q in some},
        {q: {own[q]: 3} for q in some},
        {q: {own[q]: 1.0, '9000001': 2.0, '9000002': 0.5} for q in some},
    )
