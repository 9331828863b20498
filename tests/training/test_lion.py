"""Our Lion is lion-pytorch's: on the CPU to the last bit, under scaling, accumulation and resumption; its kernel for GPUs in Triton's interpreter, or on one."""

import importlib.util
import subprocess
import sys

import lion_pytorch
import pytest
import torch
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.training.lion import Lion, gpu_step
from reproduce_kit.training.optimizers import describe_optimizer, make_optimizer

CUDA = torch.cuda.is_available()


def pair(build, train):
    """The parameters and averages that `train(model, optimizer)` leaves under each Lion."""
    out = []
    for kind in (lion_pytorch.Lion, Lion):
        torch.manual_seed(5)
        model = build()
        opt = kind(model.parameters(), lr=1e-3, weight_decay=0.05)
        train(model, opt)
        out.append([*model.parameters(), *(opt.state[p]['exp_avg'] for p in model.parameters())])
    return out


def small():
    return torch.nn.Sequential(torch.nn.Linear(37, 61), torch.nn.Tanh(), torch.nn.Linear(61, 3))


def losses(model, n=12):
    g = torch.Generator().manual_seed(2)
    for _ in range(n):
        yield model(torch.randn(8, 37, generator=g)).square().sum()


def accumulated(model, opt):
    for i, loss in enumerate(losses(model)):
        loss.backward()
        if i % 3 == 2:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            opt.zero_grad()


def scaled(model, opt):
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**10, growth_interval=2)
    for i, loss in enumerate(losses(model)):
        scaler.scale(loss * (float('inf') if i == 4 else 1.0)).backward()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()  # an overflow is skipped, and the scale comes down


@pytest.mark.parametrize('train', [accumulated, scaled])
def test_equal_to_the_last_bit(train):
    a, b = pair(small, train)
    assert all(torch.equal(x, y) for x, y in zip(a, b)) and all(torch.isfinite(x).all() for x in b)


@pytest.mark.parametrize('first, then', [(lion_pytorch.Lion, Lion), (Lion, lion_pytorch.Lion)])
def test_each_resumes_the_other(first, then):
    """Half with one, its state saved and loaded, half with the other: the same as all with the reference."""

    def halves(model, kinds):
        opt = kinds[0](model.parameters(), lr=1e-3)
        for i, loss in enumerate(losses(model)):
            if i == 6:
                state = opt.state_dict()
                opt = kinds[1](model.parameters(), lr=5.0)
                opt.load_state_dict(state)
            loss.backward()
            opt.step()
            opt.zero_grad()
        return list(model.parameters())

    torch.manual_seed(5)
    a = halves(small(), (lion_pytorch.Lion,) * 2)
    torch.manual_seed(5)
    b = halves(small(), (first, then))
    assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_without_a_compiler_the_parents_step_is_taken_and_said_once(tmp_path):
    code = '''
import lion_pytorch, torch
from reproduce_kit.training.lion import Lion
out = []
for kind in (lion_pytorch.Lion, Lion):
    torch.manual_seed(1); p = torch.nn.Parameter(torch.randn(100)); opt = kind([p], lr=.1)
    for _ in range(3): p.grad = p.detach() * 2; opt.step()
    out.append(p)
print(torch.equal(*out))'''
    p = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env={
            'PATH': str(tmp_path),
            'CC': 'no-such-compiler',
            'REPRODUCE_CACHE': str(tmp_path),
            'REPRODUCE_ROOT': str(tmp_path),
            'HOME': str(tmp_path),
        },
    )
    assert p.stdout.strip() == 'True' and p.stderr.count('no C compiler') == 1, p.stdout + p.stderr


@pytest.mark.skipif(
    importlib.util.find_spec('triton') is None,
    reason='triton is not installed (it comes with the CUDA build of torch; `make test` adds it to the CPU build)',
)
def test_the_kernel_for_gpus():
    """One launch over several tensors against the reference's arithmetic; blocks that end within a tensor, and an empty one."""
    g = torch.Generator().manual_seed(4)
    shapes = (9000, 4096, 1, 0, 333)
    where = 'cuda' if CUDA else 'cpu'
    ps, gs, ms = ([torch.randn(n, generator=g).to(where) for n in shapes] for _ in range(3))
    gs[0][7], ms[0][9], gs[0][9] = float('nan'), 0.0, 0.0
    table = {}
    want = [(p.clone(), m.clone()) for p, m in zip(ps, ms)]
    for i in range(4):
        if i == 2:
            ms = [torch.zeros_like(m) for m in ms]
            want = [
                (p, torch.zeros_like(m)) for p, m in want
            ]  # a chained epoch forgets the averages, and the weights stay where they are
        for (p, m), x in zip(want, gs):
            lion_pytorch.lion_pytorch.update_fn(p, x, m, 1e-2, 0.1, 0.9, 0.99)
        gpu_step(ps, gs, ms, 1e-2, 0.1, 0.9, 0.99, table)
    for (p, m), q, n in zip(want, ps, ms):
        for x, y in ((p, q), (m, n)):
            assert torch.equal(x.isnan(), y.isnan()) and torch.allclose(
                x.nan_to_num(), y.nan_to_num(), rtol=2e-6, atol=2e-7
            )  # the interpreter rounds a product before it is added


def test_training_takes_it():
    model = small()
    assert (
        describe_optimizer(make_optimizer(model, make_config(SMOKE | dict(optimizer='lion'))))[
            'kind'
        ]
        == 'reproduce_kit.training.lion.Lion'
    )
