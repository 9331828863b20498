"""Scores of pairs: the model's own tokens and `predict`'s scores, for each architecture, whatever is cut, empty or left over."""

import numpy as np
import pytest
import torch
from kit import SMOKE, need

from reproduce_kit.config.files import make_config
from reproduce_kit.evaluation.pair_scoring import length_batches, score_pairs
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.models.pair_tokens import PairTokenizer
from reproduce_kit.testing.fake_hub import fake_model, fake_words


@pytest.mark.parametrize('backbone', ['tiny-bert', 'tiny-gte', 'tiny-modernbert'])
def test_tokens_and_scores_are_the_models_own(backbone):
    fake_model(backbone)
    model = load_backbone(make_config(SMOKE | dict(backbone=backbone, layers=2, max_length=48)))
    model.eval()
    g = np.random.default_rng(1)
    words = fake_words()

    def text(n):
        return ' '.join(g.choice(words, n))

    first, second = (
        {f'q{n}': text(n) for n in (1, 2, 9, 60)} | {'empty': ''},
        {f'd{i}': text(int(g.integers(1, 80))) for i in range(60)}
        | {'empty': '', 'odd': '  Ünïcode\n\ttext, "quoted" '},
    )
    pairs = [(q, d) for q in first for d in second]
    order = g.permutation(len(pairs))
    pairs = [pairs[i] for i in order]
    texts = [(first[q], second[d]) for q, d in pairs]
    join = PairTokenizer(model)
    a, b = ({k: e for k, e in zip(t, join.texts(t.values()))} for t in (first, second))
    for i in range(0, len(pairs), 37):
        ours, theirs = (
            join.batch([(a[q], b[d]) for q, d in pairs[i : i + 37]], 'cpu'),
            model.preprocess(texts[i : i + 37]),
        )
        assert set(ours) == {k for k, v in theirs.items() if torch.is_tensor(v)} or set(
            theirs
        ) - set(ours) <= {'attention_mask', 'modality'}
        assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    want = model.predict(texts, batch_size=32, show_progress_bar=False)
    for tokens, window in ((64, 7), (4096, 100_000)):
        assert np.abs(score_pairs(model, first, second, pairs, tokens, window) - want).max() < 1e-5


def test_batches_take_everything_once():
    g = np.random.default_rng(2)
    lengths = g.integers(1, 300, 5_000)
    found = length_batches(lengths, 2_000)
    assert sorted(np.concatenate(found)) == list(range(5_000)) and all(
        len(b) == 1 or len(b) * lengths[b].max() <= 2_000 for b in found
    )
    assert (
        sum(len(b) * lengths[b].max() for b in found) < 1.02 * lengths.sum()
    )  # hardly any padding


def test_real_passages_in_the_same_order():
    """DL 2019's first topics with BM25's candidates: `predict`'s scores and order."""
    from reproduce_kit.data.collection import read_collection

    c = read_collection(need('trec-dl'))
    model = load_backbone(make_config(SMOKE | dict(layers=2, max_length=256)))
    model.eval()
    split = next(s for s in c.candidates if s == 'dl19')
    topics = list(c.candidates[split])[:3]
    pairs = [(q, d) for q in topics for d in list(c.candidates[split][q])[:40]]
    a, b = (
        score_pairs(model, c.topics[split], c.corpus, pairs),
        model.predict(
            [(c.topics[split][q], c.corpus[d]) for q, d in pairs], show_progress_bar=False
        ),
    )
    assert np.abs(a - b).max() < 1e-5
    for i in range(3):
        assert (
            np.argsort(-a[40 * i : 40 * i + 40], kind='stable')
            == np.argsort(-b[40 * i : 40 * i + 40], kind='stable')
        ).all()
