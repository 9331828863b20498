"""A collection of forty passages with candidates, and settings of a run of a second on it."""

import numpy as np

from reproduce_kit.data.collection import Collection
from reproduce_kit.testing.fake_hub import fake_words

TINY = dict(
    backbone='tiny-bert',
    layers=1,
    max_length=32,
    passage_words=None,
    test_topics=None,
    train_pairs=16,
    dev_pairs=8,
    global_batch=8,
    device_batch=8,
    depth=10,
    epochs=1,
    save_steps=1,
)
SPLITS = dict(train=range(16), dev=range(16, 20), test=range(20, 28), more=range(28, 34))


def invented_collection() -> Collection:
    """Topics that share words with their one relevant passage, and their candidates."""
    rng, words = np.random.default_rng(12), fake_words()
    corpus = {f'd{i}': ' '.join(rng.choice(words, 8)) for i in range(40)}
    topics, qrels, candidates = {}, {}, {}
    for split, numbers in SPLITS.items():
        topics[split] = {f'q{i}': ' '.join(corpus[f'd{i}'].split()[:3]) for i in numbers}
        qrels[split] = {f'q{i}': {f'd{i}': 1} for i in numbers}
        candidates[split] = {
            f'q{i}': {f'd{(i + step) % 40}': 1.0 / (1 + step) for step in range(5)} for i in numbers
        }
    return Collection('invented', corpus, topics, qrels, candidates)
