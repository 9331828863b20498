"""TITE: configurations, equality of a ragged batch and each sequence alone, and models from
disk."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import CrossEncoder, SentenceTransformer

from reproduce_kit.core import KitError
from reproduce_kit.models.tite import TiteForSequenceClassification, TiteModel, apply_rope
from reproduce_kit.models.tite_config import PUBLISHED, TiteConfig, tiny_tite
from reproduce_kit.models.tite_files import save_bi_encoder, tite_tokenizer


def padded_columns(kind: int, length: int, width: int, g) -> np.ndarray:
    """The columns of a sequence: padded right, padded left, or with holes."""
    if kind == 0:
        return np.arange(length)
    if kind == 1:
        return np.arange(width - length, width)
    return np.sort(g.choice(width, length, replace=False))


def ragged(n=64, longest=512, seed=3):
    """Random ids and mask; lengths from 1 to `longest`, in any order."""
    g = np.random.default_rng(seed)
    lengths = g.permutation([1, 2, 3, longest - 1, longest, *g.integers(1, longest + 1, n - 5)])
    width = longest + 9
    ids, mask = np.zeros((n, width), int), np.zeros((n, width), int)
    for i, length in enumerate(lengths):
        columns = padded_columns(i % 3, length, width, g)
        ids[i, columns] = g.integers(1, 200, length)
        mask[i, columns] = 1
    return torch.tensor(ids), torch.tensor(mask)


def each_alone(model, ids, mask):
    vectors = [model(row[m.bool()][None]).last_hidden_state for row, m in zip(ids, mask)]
    return torch.cat(vectors)


def largest_difference(a, b) -> float:
    return float((a - b).abs().max())


# Configurations


@pytest.mark.parametrize(
    'message, changes',
    [
        (
            '8 tokens do not become one vector: the lengths after each layer are 8, 4, 2; '
            'pool more, or lower max_position_embeddings to 4',
            dict(max_position_embeddings=8),
        ),
        (
            'layer 2: 512 hidden units after 768; sizes never shrink',
            dict(hidden_sizes=[768, 512, 768], num_attention_heads=[12, 8, 12]),
        ),
        ('layer 2: stride 3 with kernel_size 2', dict(stride=[None, 3, 2])),
        ('kernel_size has 2 values, num_hidden_layers is 3', dict(kernel_size=[2, 2])),
        ('layer 1: 768 hidden units in 7 heads', dict(num_attention_heads=7)),
        ("layer 1: pooling_location 'mid'", dict(pooling_location='mid')),
        ('layer 2: kernel_size 2 with stride None; both or neither', dict(stride=[None, None, 2])),
        ("rope_position 'middle'", dict(rope_position='middle')),
    ],
)
def test_a_configuration_that_cannot_be_built_is_an_error(message, changes):
    shape = dict(num_hidden_layers=3, kernel_size=[None, 2, 2], stride=[None, 2, 2])
    with pytest.raises(KitError) as error:
        TiteConfig(**shape | dict(max_position_embeddings=4) | changes)
    assert message in str(error.value)


# Ragged batches


@pytest.mark.parametrize(
    'number, rope_position', list(itertools.product(PUBLISHED, ('center', 'index')))
)
def test_a_ragged_batch_is_each_sequence_alone(number, rope_position):
    torch.manual_seed(number)
    model = TiteModel(tiny_tite(number, rope_position=rope_position)).double().eval()
    ids, mask = ragged(24)
    with torch.no_grad():
        alone = each_alone(model, ids, mask)
        assert largest_difference(model(ids, mask).last_hidden_state, alone) < 1e-12


@pytest.mark.soak
@pytest.mark.parametrize('number', PUBLISHED)
def test_the_order_of_a_batch_changes_nothing(number):
    torch.manual_seed(number)
    model = TiteModel(tiny_tite(number)).double().eval()
    ids, mask = ragged()
    order = torch.randperm(64)
    with torch.no_grad():
        batch = model(ids, mask).last_hidden_state
        shuffled = model(ids[order], mask[order]).last_hidden_state
    assert largest_difference(shuffled, batch[order]) < 1e-12


@pytest.mark.parametrize('number', [1, 5, 6])
def test_eager_equals_sdpa(number):
    torch.manual_seed(number)
    model = TiteModel(tiny_tite(number)).double().eval()
    eager = copy.deepcopy(model)
    eager.config._attn_implementation = 'eager'
    ids, mask = ragged(16)
    with torch.no_grad():
        sdpa = model(ids, mask).last_hidden_state
        assert largest_difference(eager(ids, mask).last_hidden_state, sdpa) < 1e-12


def test_no_mask_means_that_every_token_counts():
    model = TiteModel(tiny_tite()).eval()
    ids = ragged(8)[0][:2, :9]
    with torch.no_grad():
        without = model(ids).last_hidden_state
        with_ones = model(ids, torch.ones_like(ids)).last_hidden_state
    assert torch.equal(without, with_ones)


def test_an_empty_sequence_is_zeros_and_leaves_its_neighbours_alone():
    model = TiteModel(tiny_tite()).double().eval()
    ids, mask = ragged(16, 40)
    emptied = mask.clone()
    emptied[3] = 0
    with torch.no_grad():
        before = model(ids, mask).last_hidden_state
        after = model(ids, emptied).last_hidden_state
        all_empty = model(ids, mask * 0).last_hidden_state
    assert not after[3].any()
    assert largest_difference(after[4], before[4]) < 1e-12
    assert all_empty.shape == (16, 1, 36) and not all_empty.any()


def flat_gradients(model, output):
    model.zero_grad()
    output().backward()
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()]
    )


@pytest.mark.parametrize('number', [1, 4, 5, 6, 7])
def test_gradients_are_each_sequences_own(number):
    """A sequence's gradient does not depend on its neighbours.

    Padding and empty sequences give no NaN."""
    torch.manual_seed(1)
    model = TiteModel(tiny_tite(number)).double().train(False)
    ids, mask = ragged(9, 40)
    mask[4] = 0
    weight = torch.randn(9, model.config.hidden_size, dtype=torch.float64)

    def of_batch():
        return (model(ids, mask).last_hidden_state[:, 0] * weight).sum()

    def of_sequence(i):
        return (model(ids[i][mask[i].bool()][None]).last_hidden_state[0, 0] * weight[i]).sum()

    together = flat_gradients(model, of_batch)
    filled = [i for i in range(9) if mask[i].any()]
    alone = sum(flat_gradients(model, lambda i=i: of_sequence(i)) for i in filled)
    assert torch.isfinite(together).all()
    assert largest_difference(together, alone) < 1e-10 * alone.abs().max()


def test_a_sequence_that_is_too_long_is_an_error():
    model = TiteModel(tiny_tite(4)).eval()
    ids = torch.ones(1, 730, dtype=torch.long)
    with torch.no_grad():
        assert model(ids[:, :729]).last_hidden_state.shape == (1, 1, 36)
    message = '730 tokens would end in 2 vectors instead of one; this model takes 729'
    with pytest.raises(KitError, match=message):
        model(ids)


# Against PyTorch's own operations


def post_norm_bert(model, ids):
    """A post-norm BERT with rotary positions, two heads of 8 units, written out for one
    sequence."""
    x = model.embed(ids)
    place = torch.arange(len(x))
    for layer in model.layers:
        q, k, v = (f(x).view(len(x), 2, 8) for f in (layer.query, layer.key, layer.value))
        q, k = (apply_rope(rows, place, 10_000.0).transpose(0, 1) for rows in (q, k))
        attended = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v.transpose(0, 1)
        x = x + layer.out(attended.transpose(0, 1).reshape(len(x), 16))
        x = F.layer_norm(x, (16,), layer.norm.weight, layer.norm.bias, 1e-12)
        x = x + layer.down(F.gelu(layer.up(x), approximate='tanh'))
        x = F.layer_norm(x, (16,), layer.ffn_norm.weight, layer.ffn_norm.bias, 1e-12)
    return x


def test_without_pooling_it_is_a_post_norm_bert():
    config = TiteConfig(
        vocab_size=50,
        num_hidden_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    model = TiteModel(config).double().eval()
    ids = torch.randint(1, 50, (9,))
    with torch.no_grad():
        vectors = model(ids[None]).last_hidden_state[0]
        assert largest_difference(vectors, post_norm_bert(model, ids)) < 1e-12


# From disk


SMALL = dict(
    vocab_size=12,
    max_position_embeddings=16,
    num_hidden_layers=4,
    hidden_sizes=32,
    num_attention_heads=4,
    intermediate_size=64,
    kernel_size=2,
    stride=2,
)
WORDS = ['sort', 'an', 'array', 'the', 'mean', 'of', '##s', 'graph']


@pytest.fixture
def tokenizer():
    return tite_tokenizer(['[PAD]', '[UNK]', '[SEP]', '[MASK]', *WORDS], 16)


def test_sentence_transformer_gives_the_models_vectors(tokenizer, tmp_path):
    model = TiteModel(TiteConfig(**SMALL)).eval()
    save_bi_encoder(model, tokenizer, tmp_path)
    texts = ['sort an array', 'the mean of a graph', 'graphs ' * 40]
    encodings = [tokenizer(text, truncation=True, return_tensors='pt') for text in texts]
    with torch.no_grad():
        vectors = [model(**encoding).last_hidden_state[0, 0] for encoding in encodings]
    embedder = SentenceTransformer(str(tmp_path), device='cpu')
    embedded = embedder.encode([*texts, ''], batch_size=4)
    expected = torch.stack([*vectors, torch.zeros(32)]).numpy()
    assert np.abs(embedded - expected).max() < 1e-6


@pytest.fixture
def saved_head(tokenizer, tmp_path):
    head = TiteForSequenceClassification(TiteConfig(**SMALL, num_labels=1)).eval()
    head.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return head


def test_cross_encoder_gives_the_models_scores(saved_head, tokenizer, tmp_path):
    scorer = CrossEncoder(str(tmp_path), num_labels=1, device='cpu', max_length=16)
    pair = ('sort an array', 'the mean')
    score, _ = scorer.predict([pair, ('graph', 'graph ' * 90)])
    with torch.no_grad():
        logit = saved_head(**tokenizer(*pair, return_tensors='pt')).logits
    assert abs(score - float(logit.sigmoid())) < 1e-6


def test_a_loaded_head_has_the_saved_weights(saved_head, tmp_path):
    loaded = TiteForSequenceClassification.from_pretrained(tmp_path)
    for saved, read in zip(saved_head.parameters(), loaded.parameters()):
        assert torch.equal(saved, read)


def test_without_pooling_the_score_ignores_padding():
    shape = SMALL | dict(kernel_size=None, stride=None)
    model = TiteForSequenceClassification(TiteConfig(**shape, num_labels=1)).double().eval()
    ids = torch.tensor([[4, 5, 6, 2, 7], [8, 9, 0, 0, 0]])
    with torch.no_grad():
        padded = model(ids, (ids > 0).long()).logits[1]
        alone = model(ids[1:, :2]).logits[0]
    assert largest_difference(padded, alone) < 1e-12
