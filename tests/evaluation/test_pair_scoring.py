"""Scores of pairs: the model's own tokens and `predict`'s scores, for each architecture,
whatever is cut, empty or left over."""

import numpy as np
import pytest
import torch
from kit import SMOKE, need

from reproduce_kit.config.files import make_config
from reproduce_kit.data.collection import read_collection
from reproduce_kit.evaluation.pair_scoring import length_batches, score_pairs
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.models.pair_tokens import PairTokenizer
from reproduce_kit.testing.fake_hub import fake_model, fake_words


def odd_texts(rng):
    """Topics and passages, short and long, empty, and with marks of other languages."""
    words = fake_words()
    topics = {f'q{n}': ' '.join(rng.choice(words, n)) for n in (1, 2, 9, 60)} | {'empty': ''}
    passages = {f'd{i}': ' '.join(rng.choice(words, int(rng.integers(1, 80)))) for i in range(60)}
    return topics, passages | {'empty': '', 'odd': '  Ünïcode\n\ttext, "quoted" '}


@pytest.fixture(params=['tiny-bert', 'tiny-gte', 'tiny-modernbert'])
def scored(request):
    """A model, its topics and passages, and all pairs of them in random order."""
    fake_model(request.param)
    config = make_config(SMOKE | dict(backbone=request.param, layers=2, max_length=48))
    model = load_backbone(config)
    model.eval()
    rng = np.random.default_rng(1)
    topics, passages = odd_texts(rng)
    pairs = [(q, d) for q in topics for d in passages]
    return model, topics, passages, [pairs[i] for i in rng.permutation(len(pairs))]


def test_tokens_are_the_models_own(scored):
    model, topics, passages, pairs = scored
    join = PairTokenizer(model)
    a, b = (dict(zip(t, join.texts(t.values()))) for t in (topics, passages))
    for start in range(0, len(pairs), 37):
        batch = pairs[start : start + 37]
        ours = join.batch([(a[q], b[d]) for q, d in batch], 'cpu')
        theirs = model.preprocess([(topics[q], passages[d]) for q, d in batch])
        left_out = set(theirs) - set(ours)
        assert left_out <= {'attention_mask', 'modality'} and set(ours) <= set(theirs)
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize('tokens, window', [(64, 7), (4096, 100_000)])
def test_scores_are_predicts(scored, tokens, window):
    model, topics, passages, pairs = scored
    texts = [(topics[q], passages[d]) for q, d in pairs]
    expected = model.predict(texts, batch_size=32, show_progress_bar=False)
    ours = score_pairs(model, topics, passages, pairs, tokens, window)
    assert np.abs(ours - expected).max() < 1e-5


def test_batches_take_everything_once_and_hardly_pad():
    lengths = np.random.default_rng(2).integers(1, 300, 5_000)
    batches = length_batches(lengths, 2_000)
    padded = [len(batch) * lengths[batch].max() for batch in batches]
    assert sorted(np.concatenate(batches)) == list(range(5_000))
    assert all(size <= 2_000 or len(batch) == 1 for batch, size in zip(batches, padded))
    assert sum(padded) < 1.02 * lengths.sum()


def test_real_passages_in_the_same_order():
    """DL 2019's first topics with BM25's candidates: `predict`'s scores and order."""
    collection = read_collection(need('trec-dl'))
    topics, candidates = collection.topics['dl19'], collection.candidates['dl19']
    pairs = [(q, d) for q in list(candidates)[:3] for d in list(candidates[q])[:40]]
    model = load_backbone(make_config(SMOKE | dict(layers=2, max_length=256)))
    model.eval()
    ours = score_pairs(model, topics, collection.corpus, pairs)
    texts = [(topics[q], collection.corpus[d]) for q, d in pairs]
    theirs = model.predict(texts, show_progress_bar=False)
    assert np.abs(ours - theirs).max() < 1e-5
    for start in range(0, 120, 40):
        order, expected = (
            np.argsort(-s[start : start + 40], kind='stable') for s in (ours, theirs)
        )
        assert (order == expected).all()
