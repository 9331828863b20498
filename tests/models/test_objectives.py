"""Pre-training objectives.

What the decoder sees, tied weights from disk, and vectors that carry information."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reproduce_kit.models.objectives import MaskedDecoder, TiteForPreTraining, unigram_bow
from reproduce_kit.models.tite_config import TiteConfig, tiny_tite


def generator():
    return torch.Generator().manual_seed(3)


def test_only_queries_that_see_a_token_depend_on_it():
    torch.manual_seed(1)
    decoder = MaskedDecoder(tiny_tite()).double().eval()
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    vector = torch.randn(2, 36, dtype=torch.float64)
    tokens = torch.randn(2, 6, 36, dtype=torch.float64)
    changed = tokens.clone()
    changed[0, 2] += 1
    with torch.no_grad():
        before = decoder(vector, tokens, mask, generator())
        after = decoder(vector, changed, mask, generator())
    is_hidden = ~decoder.visible(mask, generator())[0, :, 3]  # column 0 is the vector
    is_unchanged = (before[0] - after[0]).abs().sum(-1).eq(0)
    assert is_unchanged.tolist() == is_hidden.tolist()
    assert is_hidden[2] and not is_hidden.all()


@pytest.mark.parametrize('number', [1, 7])
def test_the_decoder_is_still_the_embedding_table_after_loading(number, tmp_path):
    """Also if the table is wider than the first layer (row 7)."""
    model = TiteForPreTraining(tiny_tite(number))
    model.save_pretrained(tmp_path)
    loaded = TiteForPreTraining.from_pretrained(tmp_path)
    assert loaded.decoder.weight.data_ptr() == loaded.tite.embeddings.weight.data_ptr()
    for saved, read in zip(model.state_dict().values(), loaded.state_dict().values()):
        assert torch.equal(saved, read)


def topical_text(n, seed, topics=10, length=24):
    """Ids and topics of texts.

    70 % of the words are among their topic's thirty, the others among thirty for all."""
    g = np.random.default_rng(seed)
    topic = g.integers(0, topics, n)
    own = g.integers(0, 30, (n, length)) + 70 + 30 * topic[:, None]
    ids = np.where(g.random((n, length)) < 0.7, own, g.integers(4, 34, (n, length)))
    return torch.tensor(ids), torch.tensor(topic)


@pytest.fixture(scope='module')
def trained():
    """(model, baseline, bag-of-words losses) after 150 updates of 32 texts."""
    torch.manual_seed(12)
    config = TiteConfig(
        vocab_size=400,
        num_hidden_layers=5,
        hidden_size=72,
        num_attention_heads=4,
        intermediate_size=144,
        kernel_size=2,
        stride=2,
        max_position_embeddings=32,
    )
    model = TiteForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, fused=True)
    ids, _ = topical_text(150 * 32, 1)
    baseline = unigram_bow(ids[:2000], ids[:2000] > 3, 400)
    mask = torch.ones(32, ids.shape[1], dtype=torch.long)
    losses = []
    for step, batch in enumerate(ids.split(32)):
        for group in optimizer.param_groups:
            group['lr'] = 2e-3 * min(1, step / 15) * (1 - step / 160)
        output = model(batch, mask, special=(0, 1, 2, 3))
        output.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.bow_loss))
    return model.eval(), baseline, losses


def test_the_bag_of_words_falls_below_its_baseline(trained):
    _, baseline, losses = trained
    assert sum(losses[-10:]) / 10 < 0.9 * baseline


def test_vectors_of_held_out_texts_find_their_topic(trained):
    """Of the ten nearest texts by dot product; chance is a tenth."""
    model = trained[0]
    ids, topic = topical_text(400, 2)
    with torch.no_grad():
        vectors = F.normalize(model.tite(ids).last_hidden_state[:, 0])
    similarity = vectors @ vectors.T - 2 * torch.eye(400)
    nearest = similarity.topk(10).indices
    assert (topic[nearest] == topic[:, None]).float().mean() > 0.5
