"""TITE: every sequence of a ragged batch is what it is alone, whatever surrounds it."""

import copy
import itertools

import numpy as np
import pytest
import torch

from reproduce_kit.core import KitError
from reproduce_kit.models.pooling import pool, pooling_plan
from reproduce_kit.models.tite import PUBLISHED, TiteConfig, TiteModel, tiny_tite


def ragged(n=64, longest=512, seed=3):
    """Lengths from 1 to `longest`, padded left, right or with holes, in any order."""
    g = np.random.default_rng(seed)
    lengths = g.permutation([1, 2, 3, longest - 1, longest, *g.integers(1, longest + 1, n - 5)])
    width = longest + 9
    ids, mask = np.zeros((n, width), int), np.zeros((n, width), int)
    for i, m in enumerate(lengths):
        at = [
            np.arange(m),
            np.arange(width - m, width),
            np.sort(g.choice(width, m, replace=False)),
        ][i % 3]
        ids[i, at], mask[i, at] = g.integers(1, 200, m), 1
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parametrize('number, where', list(itertools.product(PUBLISHED, ('center', 'index'))))
def test_a_ragged_batch_is_each_sequence_alone(number, where):
    torch.manual_seed(number)
    model = TiteModel(tiny_tite(number, rope_position=where)).double().eval()
    ids, mask = ragged()
    order = torch.randperm(64)
    with torch.no_grad():
        alone = torch.cat([model(i[m.bool()][None]).last_hidden_state for i, m in zip(ids, mask)])
        assert (model(ids, mask).last_hidden_state - alone).abs().max() < 1e-12
        if where == 'index':
            return
        assert (model(ids[order], mask[order]).last_hidden_state - alone[order]).abs().max() < 1e-12
        if (number, where) not in ((1, 'center'), (5, 'center'), (6, 'center')):
            return
        eager = copy.deepcopy(model)
        eager.config._attn_implementation = 'eager'
        assert (eager(ids, mask).last_hidden_state - alone).abs().max() < 1e-12


@pytest.mark.parametrize('number', [1, 4, 5, 6, 7])
def test_gradients_are_each_sequences_own(number):
    """What a sequence teaches does not depend on its neighbours; nothing is NaN where padding and empty sequences are."""
    torch.manual_seed(1)
    model = TiteModel(tiny_tite(number)).double().train(False)
    ids, mask = ragged(9, 40)
    mask[4] = 0
    weight = torch.randn(9, model.config.hidden_size, dtype=torch.float64)

    def grads(f):
        model.zero_grad()
        f().backward()
        return torch.cat(
            [
                p.grad.flatten()
                if p.grad is not None
                else torch.zeros(p.numel(), dtype=torch.float64)
                for p in model.parameters()
            ]
        )

    together = grads(lambda: (model(ids, mask).last_hidden_state[:, 0] * weight).sum())
    alone = sum(
        grads(lambda: (model(i[m.bool()][None]).last_hidden_state[0, 0] * w).sum())
        for i, m, w in zip(ids, mask, weight)
        if m.any()
    )
    assert (
        torch.isfinite(together).all()
        and (together - alone).abs().max() < 1e-10 * alone.abs().max()
    )


@pytest.mark.parametrize('k', range(1, 6))
def test_pooling_gradient(k):
    """Every kernel and stride up to five, ragged, single tokens among them, against autograd's numbers with a cotangent that varies by position."""
    for s in range(1, k + 1):
        lengths = [1, 7, 2, 1, 12, 5, 3]
        (step,) = pooling_plan(lengths, [k], [s])
        x = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
        w = torch.randn(len(step.out.slot), 2, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda x: pool(x, step) * w, x)


def test_what_cannot_be_reduced_is_refused():
    model = TiteModel(tiny_tite(4)).eval()
    ids = torch.ones(1, 730, dtype=torch.long)
    with torch.no_grad():
        assert model(ids[:, :729]).last_hidden_state.shape == (1, 1, 36)
    with pytest.raises(
        KitError, match='730 tokens would end in 2 vectors instead of one; this model takes 729'
    ):
        model(ids)
    with pytest.raises(KitError, match='the lengths after each layer are 9, 5, 3'):
        TiteConfig(
            num_hidden_layers=3,
            kernel_size=[None, 2, 2],
            stride=[None, 2, 2],
            max_position_embeddings=9,
        )
