"""The Triton kernels against plain PyTorch: in Triton's interpreter without a GPU, compiled with one."""

import importlib.util
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'
if importlib.util.find_spec('triton') is None:
    pytest.skip(
        'triton is not installed (it comes with the CUDA build of torch; `make test` adds it to the CPU build)',
        allow_module_level=True,
    )

from reproduce_kit.models.pooling import pool, pooling_plan  # noqa: E402
from reproduce_kit.models.pooling_triton import pool_triton  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.mark.parametrize('k', range(1, 6))
def test_value_and_gradient(k):
    torch.manual_seed(k)
    for s in range(1, k + 1):
        lengths = [1, 7, 2, 1, 12, 5, 3, 30]
        (step,) = pooling_plan(lengths, [k], [s], DEVICE)
        n = sum(lengths)
        w = torch.randn(len(step.out.slot), 5, dtype=torch.float64, device=DEVICE)
        a = torch.randn(n, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
        b = a.detach().clone().requires_grad_()
        ya, yb = pool(a, step), pool_triton(b, step)
        assert (ya - yb).abs().max() < 1e-14
        (ya * w).sum().backward()
        (yb * w).sum().backward()
        assert (a.grad - b.grad).abs().max() < 1e-14, (k, s)


@pytest.mark.parametrize('k', [2, 3])
def test_gradcheck(k):
    (step,) = pooling_plan([1, 4, 9, 2], [k], [k], DEVICE)
    x = torch.randn(16, 3, dtype=torch.float64, device=DEVICE, requires_grad=True)
    w = torch.randn(len(step.out.slot), 3, dtype=torch.float64, device=DEVICE)
    assert torch.autograd.gradcheck(lambda x: pool_triton(x, step) * w, x)


def test_half_precision_and_wide_rows():
    (step,) = pooling_plan([64, 33], [2], [2], DEVICE)
    x = torch.randn(97, 300, device=DEVICE).to(torch.bfloat16)
    assert (pool_triton(x, step).float() - pool(x.float(), step)).abs().max() < 0.02
