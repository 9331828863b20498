"""The Triton kernels against plain PyTorch.

Compiled on a GPU, in Triton's interpreter without one."""

import importlib.util
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'
if importlib.util.find_spec('triton') is None:
    pytest.skip(
        'triton is not installed: it comes with the CUDA build of torch; '
        '`make test` adds it to the CPU build',
        allow_module_level=True,
    )

from reproduce_kit.models.pooling import pool  # noqa: E402
from reproduce_kit.models.pooling_plan import pooling_plan  # noqa: E402
from reproduce_kit.models.pooling_triton import pool_triton  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def random_rows(n, width, **more):
    return torch.randn(n, width, dtype=torch.float64, device=DEVICE, **more)


@pytest.mark.parametrize('kernel', range(1, 6))
def test_value_and_gradient(kernel):
    torch.manual_seed(kernel)
    lengths = [1, 7, 2, 1, 12, 5, 3, 30]
    for stride in range(1, kernel + 1):
        (step,) = pooling_plan(lengths, [kernel], [stride], DEVICE)
        cotangent = random_rows(len(step.after.padded_index), 5)
        x = random_rows(sum(lengths), 5, requires_grad=True)
        x_triton = x.detach().clone().requires_grad_()
        y, y_triton = pool(x, step), pool_triton(x_triton, step)
        assert (y - y_triton).abs().max() < 1e-14
        (y * cotangent).sum().backward()
        (y_triton * cotangent).sum().backward()
        assert (x.grad - x_triton.grad).abs().max() < 1e-14, (kernel, stride)


@pytest.mark.parametrize('kernel', [2, 3])
def test_gradcheck(kernel):
    (step,) = pooling_plan([1, 4, 9, 2], [kernel], [kernel], DEVICE)
    x = random_rows(16, 3, requires_grad=True)
    cotangent = random_rows(len(step.after.padded_index), 3)
    assert torch.autograd.gradcheck(lambda x: pool_triton(x, step) * cotangent, x)


def test_half_precision_and_wide_rows():
    (step,) = pooling_plan([64, 33], [2], [2], DEVICE)
    x = torch.randn(97, 300, device=DEVICE).to(torch.bfloat16)
    assert (pool_triton(x, step).float() - pool(x.float(), step)).abs().max() < 0.02
