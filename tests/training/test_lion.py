"""Lion is lion-pytorch's to the last bit on a CPU.

Its GPU kernel is compared in Triton's interpreter, or on a GPU."""

import importlib.util
import math
import subprocess
import sys

import lion_pytorch
import pytest
import torch
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.training.lion import BlockTable, Lion, coefficients, gpu_step
from reproduce_kit.training.optimizers import describe_optimizer, make_optimizer

HAS_CUDA = torch.cuda.is_available()
HAS_TRITON = importlib.util.find_spec('triton') is not None
SHAPES = ((384, 384), (1536,), (7,), (33, 5), (1,), (0,))
KINDS = (lion_pytorch.Lion, Lion)


def keep_gradient(step, gradient):
    return gradient


def train_tensors(kind, steps=10, shapes=SHAPES, change=keep_gradient, **settings):
    """Return the weights, averages and optimizer after training two groups of tensors."""
    torch.manual_seed(3)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    groups = [dict(params=weights[::2], weight_decay=0.1), dict(params=weights[1::2], lr=3e-3)]
    optimizer = kind(groups, lr=1e-3, betas=(0.9, 0.99), **settings)
    for step in range(steps):
        for weight in weights:
            scale = 10.0 ** torch.randint(-4, 3, weight.shape)
            weight.grad = change(step, torch.randn(weight.shape) * scale)
        optimizer.step()
    averages = [optimizer.state[weight].get('exp_avg') for weight in weights]
    return weights, averages, optimizer


def assert_same(reference, ours):
    """Weights and averages are equal to the last bit; NaN equals NaN."""
    for expected, actual in zip(reference[0] + reference[1], ours[0] + ours[1]):
        assert (expected is None) == (actual is None)
        if expected is not None:
            assert torch.equal(expected.nan_to_num(7.5), actual.nan_to_num(7.5))


def spoil_gradient(step, gradient):
    """Drop one tensor's gradient at times, and make another's infinite or NaN."""
    if len(gradient) == 7 and step % 3 == 1:
        return None
    if len(gradient) == 33 and step == 4:
        return gradient * math.inf
    if len(gradient) == 33 and step == 6:
        return gradient * math.nan
    return gradient


@pytest.mark.parametrize(
    'case',
    [
        dict(),
        dict(decoupled_weight_decay=True),
        dict(change=spoil_gradient),
        dict(shapes=((1000, 1000), (1003,), (70001,)), steps=3),
    ],
    ids=['plain', 'decoupled decay', 'missing and infinite gradients', 'several threads'],
)
def test_tensors_equal_the_reference_to_the_last_bit(case):
    assert_same(*(train_tensors(kind, **case) for kind in KINDS))


def test_each_loads_the_others_state():
    (*_, reference), (*_, ours) = (train_tensors(kind, steps=2) for kind in KINDS)
    ours.load_state_dict(reference.state_dict())
    assert list(ours.state_dict()['state'][0]) == ['exp_avg']
    reference.load_state_dict(ours.state_dict())


def small_model():
    return torch.nn.Sequential(torch.nn.Linear(37, 61), torch.nn.Tanh(), torch.nn.Linear(61, 3))


def losses(model, n=12):
    generator = torch.Generator().manual_seed(2)
    for _ in range(n):
        yield model(torch.randn(8, 37, generator=generator)).square().sum()


def train_accumulated(model, optimizer):
    """Step after every third loss, with clipping."""
    for i, loss in enumerate(losses(model)):
        loss.backward()
        if i % 3 == 2:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


def train_scaled(model, optimizer):
    """Scale the loss as for float16; an overflow is skipped, and the scale comes down."""
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**10, growth_interval=2)
    for i, loss in enumerate(losses(model)):
        scaler.scale(loss * (math.inf if i == 4 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


@pytest.mark.parametrize('train', [train_accumulated, train_scaled])
def test_a_training_loop_equals_the_references_to_the_last_bit(train):
    tensors = []
    for kind in KINDS:
        torch.manual_seed(5)
        model = small_model()
        optimizer = kind(model.parameters(), lr=1e-3, weight_decay=0.05)
        train(model, optimizer)
        averages = [optimizer.state[p]['exp_avg'] for p in model.parameters()]
        tensors.append([*model.parameters(), *averages])
    assert all(torch.equal(expected, actual) for expected, actual in zip(*tensors))
    assert all(torch.isfinite(tensor).all() for tensor in tensors[1])


@pytest.mark.parametrize('first, then', [KINDS, KINDS[::-1]])
def test_each_resumes_the_other(first, then):
    """Half with one, its state saved and loaded, half with the other: as all with the reference."""

    def train_in_halves(first, then):
        torch.manual_seed(5)
        model = small_model()
        optimizer = first(model.parameters(), lr=1e-3)
        for i, loss in enumerate(losses(model)):
            if i == 6:
                state = optimizer.state_dict()
                optimizer = then(model.parameters(), lr=0.5)  # the state brings the rate
                optimizer.load_state_dict(state)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return list(model.parameters())

    reference = train_in_halves(lion_pytorch.Lion, lion_pytorch.Lion)
    mixed = train_in_halves(first, then)
    assert all(torch.equal(expected, actual) for expected, actual in zip(reference, mixed))


WITHOUT_COMPILER = '''
import lion_pytorch, torch
from reproduce_kit.training.lion import Lion
weights = []
for kind in (lion_pytorch.Lion, Lion):
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(100))
    optimizer = kind([weight], lr=0.1)
    for _ in range(3):
        weight.grad = weight.detach() * 2
        optimizer.step()
    weights.append(weight)
print(torch.equal(*weights))
'''


def test_without_a_compiler_the_parents_step_is_taken_with_one_message(tmp_path):
    folders = dict.fromkeys(['PATH', 'REPRODUCE_CACHE', 'REPRODUCE_ROOT', 'HOME'], str(tmp_path))
    process = subprocess.run(
        [sys.executable, '-c', WITHOUT_COMPILER],
        capture_output=True,
        text=True,
        env=folders | dict(CC='no-such-compiler'),
    )
    assert process.stdout.strip() == 'True', process.stderr
    assert process.stderr.count('no C compiler') == 1, process.stderr


@pytest.mark.skipif(
    not HAS_TRITON,
    reason='triton is not installed (it comes with the CUDA build of torch; `make test` adds it to the CPU build)',
)
def test_the_gpu_kernel_equals_the_references_arithmetic():
    """One launch over several tensors: blocks that end within a tensor, an empty tensor, NaN.

    Halfway the averages are new tensors, as at the start of a chained epoch.
    """
    generator = torch.Generator().manual_seed(4)
    device = 'cuda' if HAS_CUDA else 'cpu'
    weights, gradients, averages = (
        [torch.randn(n, generator=generator).to(device) for n in (9000, 4096, 1, 0, 333)]
        for _ in range(3)
    )
    gradients[0][7], gradients[0][9], averages[0][9] = math.nan, 0.0, 0.0
    expected_weights = [tensor.clone() for tensor in weights]
    expected_averages = [tensor.clone() for tensor in averages]
    table = BlockTable()
    for step in range(4):
        if step == 2:
            averages = [torch.zeros_like(tensor) for tensor in averages]
            expected_averages = [torch.zeros_like(tensor) for tensor in averages]
        for weight, gradient, average in zip(expected_weights, gradients, expected_averages):
            lion_pytorch.lion_pytorch.update_fn(weight, gradient, average, 1e-2, 0.1, 0.9, 0.99)
        gpu_step(weights, gradients, averages, coefficients(1e-2, 0.1, 0.9, 0.99), table)
    for expected, actual in zip(expected_weights + expected_averages, weights + averages):
        assert torch.equal(expected.isnan(), actual.isnan())
        # the interpreter rounds a product before it is added
        torch.testing.assert_close(actual.nan_to_num(), expected.nan_to_num(), rtol=2e-6, atol=2e-7)


def test_without_triton_the_gpu_step_equals_the_reference(monkeypatch):
    monkeypatch.setattr('reproduce_kit.training.lion._kernel', lambda: None)
    generator = torch.Generator().manual_seed(4)
    ours = [[torch.randn(n, generator=generator) for n in (333, 1)] for _ in range(3)]
    reference = [[tensor.clone() for tensor in tensors] for tensors in ours]
    for row in zip(*reference):
        lion_pytorch.lion_pytorch.update_fn(*row, 1e-2, 0.1, 0.9, 0.99)
    gpu_step(*ours, coefficients(1e-2, 0.1, 0.9, 0.99), BlockTable())
    for expected, actual in zip(sum(reference, []), sum(ours, [])):
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-7)


def test_a_run_with_optimizer_lion_uses_this_class():
    optimizer = make_optimizer(small_model(), make_config(SMOKE | dict(optimizer='lion')))
    assert describe_optimizer(optimizer)['kind'] == 'reproduce_kit.training.lion.Lion'
