"""Mean pooling: lengths against windows counted one by one, gradients against finite
differences."""

import pytest
import torch

from reproduce_kit.models.pooling import pool
from reproduce_kit.models.pooling_plan import pooled_length, pooling_plan

KERNELS_AND_STRIDES = [(k, s) for k in range(1, 6) for s in range(1, k + 1)]
LENGTHS = [1, 7, 2, 1, 12, 5, 3]


@pytest.mark.parametrize('kernel, stride', KERNELS_AND_STRIDES)
def test_lengths_are_the_number_of_windows(kernel, stride):
    """Windows start every `stride` rows, until one of them reaches the end."""
    for n in range(40):
        starts = [0] if n else []
        while n > 1 and starts[-1] + kernel < n:
            starts.append(starts[-1] + stride)
        assert int(pooled_length(n, kernel, stride)) == len(starts)


@pytest.mark.parametrize('kernel, stride', KERNELS_AND_STRIDES)
def test_packed_sequences_are_pooled_alone(kernel, stride):
    (step,) = pooling_plan(LENGTHS, [kernel], [stride])
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)
    alone = []
    for part in x.split(LENGTHS):
        (own_step,) = pooling_plan([len(part)], [kernel], [stride])
        alone.append(pool(part, own_step))
    assert (torch.cat(alone) - pool(x, step)).abs().max() < 1e-15


@pytest.mark.parametrize('kernel, stride', KERNELS_AND_STRIDES)
def test_gradient(kernel, stride):
    """The cotangent differs by position: a constant one cannot tell a window from its neighbour."""
    (step,) = pooling_plan(LENGTHS, [kernel], [stride])
    x = torch.randn(sum(LENGTHS), 2, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(len(step.after.padded_index), 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: pool(x, step) * cotangent, x)


def test_windows_that_divide_all_sequences_are_regular():
    steps = pooling_plan([4, 8], [2, 2], [2, 2])
    assert all(step.is_regular for step in steps)
    (ragged,) = pooling_plan([4, 7], [2], [2])
    assert not ragged.is_regular


class ShiftedBackward(torch.autograd.Function):
    """Pooling whose backward sends a window's gradient to the next window's rows."""

    @staticmethod
    def forward(ctx, x, kernel):
        ctx.kernel = kernel
        return x.view(-1, kernel, x.shape[1]).mean(1)

    @staticmethod
    def backward(ctx, grad):
        return grad.roll(1, 0).repeat_interleave(ctx.kernel, 0) / ctx.kernel, None


def test_only_a_cotangent_that_varies_detects_a_shifted_backward():
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(4, 3, dtype=torch.float64)
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda x: ShiftedBackward.apply(x, 2).sum(), x)
    assert not gradcheck(
        lambda x: ShiftedBackward.apply(x, 2) * cotangent, x, raise_exception=False
    )
