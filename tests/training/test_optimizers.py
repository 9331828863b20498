"""Any optimizer: named by its class, tried before it is trained with, and resumed to the last bit."""

import pytest
import torch
from conftest import ROOT
from test_resume import TINY, assert_resumes, open_tiny, start, weights

from reproduce_kit.config.files import make_config, read_configs
from reproduce_kit.core import KitError
from reproduce_kit.engines.compliance import check_run
from reproduce_kit.store.history import read_history
from reproduce_kit.store.run import Run
from reproduce_kit.training.optimizer_contract import check_contract
from reproduce_kit.training.schedules import planned_rate

AS_CLASS = dict(beta1=None, beta2=None, learning_rate=1.0e-3)
MUON = dict(optimizer='torch.optim:Muon', rest='adamw', rest_learning_rate=1.0e-4)
OPTIMIZERS = {
    'muon': MUON,
    'muon-lion': MUON | dict(rest='lion', rest_args=dict(betas=[0.9, 0.99])),
    'sgd': dict(optimizer='torch.optim:SGD', optimizer_args=dict(momentum=0.9)),
    'ademamix': dict(optimizer='pytorch_optimizer:AdEMAMix'),
    'soap': dict(optimizer='pytorch_optimizer:SOAP'),
    'schedule-free': dict(optimizer='pytorch_optimizer:ScheduleFreeAdamW', schedule='none'),
}


QUICK = ('muon', 'schedule-free')
LONG = [pytest.param(name, marks=pytest.mark.soak) for name in OPTIMIZERS if name not in QUICK]


@pytest.mark.parametrize('name', [*QUICK, *LONG])
def test_a_killed_and_resumed_run_equals_a_whole_one(name):
    """Stopped after the first epoch; then without its last checkpoint, in the second."""
    changes = AS_CLASS | OPTIMIZERS[name]
    whole, cut = (open_tiny(name=f'{name}-{part}', **changes) for part in ('whole', 'cut'))
    assert_resumes(whole, cut)
    assert weights(whole)[0] != weights(whole)[1]


@pytest.mark.parametrize('name', [*QUICK, *LONG])
def test_a_manifest_describes_the_optimizer_and_the_history_its_rate(name):
    run = open_tiny(name=f'{name}-described', **AS_CLASS | OPTIMIZERS[name])
    start(run)
    run = Run(run.cfg, run.folder)
    assert check_run(run) == []
    assert run.manifest['memory']['optimizer_state_bytes'] > 0
    for line in read_history(run.folder):
        if 'loss' in line:
            planned = planned_rate(run.cfg, line['step'] - 1)
            assert line['learning_rate'] == pytest.approx(planned, rel=1e-12)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    run = open_tiny(name='muon-groups', **AS_CLASS | MUON)
    start(run)
    optimizer = Run(run.cfg, run.folder).manifest['optimizer']
    assert optimizer['kind'] == 'torch.optim.Muon'
    assert optimizer['rest']['kind'] == 'torch.optim.adamw.AdamW'
    (matrices,) = optimizer['groups']
    decayed, others = optimizer['rest']['groups']
    assert (
        matrices['tensors'] == 7
    )  # of one layer: query, key, value, output, two dense; the pooler
    assert decayed['tensors'] == 4  # three embedding tables and the head
    assert others['weight_decay'] == 0


def test_the_shipped_optimizers_keep_to_the_contract():
    configs = read_configs([ROOT / 'params/optimizers'])
    assert len(configs) == 4
    for config in configs:
        check_contract(config)


class KeepsNothing(torch.optim.SGD):
    """Momentum that no checkpoint sees."""

    def __init__(self, groups, lr):
        super().__init__(groups, lr=lr)
        self.hidden = {}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group['params']:
                average = self.hidden.setdefault(p, torch.zeros_like(p))
                average.mul_(0.9).add_(p.grad)
                p.sub_(group['lr'] * average)


class FixedRate(torch.optim.SGD):
    """It reads the rate once."""

    def __init__(self, groups, lr):
        super().__init__(groups, lr=lr)
        self.rate = lr

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group['params']:
                p.sub_(self.rate * p.grad)


class Diverges(torch.optim.SGD):
    """It ends in infinity."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group['params']:
                p.mul_(1e8)


class Raises(torch.optim.SGD):
    """It has a fault of its own."""

    @torch.no_grad()
    def step(self, closure=None):
        raise ZeroDivisionError('no moments yet')


@pytest.mark.parametrize(
    'kind, rule',
    [
        (KeepsNothing, 'resumed from a checkpoint differs'),
        (FixedRate, 'does not read the rate from its groups'),
        (Diverges, 'not finite after 20 updates'),
        (Raises, 'ZeroDivisionError: no moments yet'),
    ],
)
def test_an_optimizer_that_breaks_a_rule_is_refused(kind, rule):
    name = f'{__name__}:{kind.__name__}'
    config = make_config(TINY | AS_CLASS | dict(optimizer=name))
    with pytest.raises(KitError, match=f'{kind.__name__}: .*{rule}.* nothing was started'):
        check_contract(config)


@pytest.mark.parametrize(
    'changes, problem',
    [
        (dict(optimizer='lino'), "'lino' is no optimizer, .*did you mean 'lion'"),
        (dict(optimizer='torch.optim.Muon'), 'no class as torch.optim:Muon'),
        (dict(optimizer='torch.optim:Muon'), 'beta1: write null'),
        (dict(optimizer='adamw', beta1=None), 'beta1: needed by adamw'),
        (dict(optimizer_args=dict(nesterov=True)), 'optimizer_args: for a class'),
        (AS_CLASS | MUON | dict(rest_learning_rate=None), 'rest_learning_rate: goes with rest'),
        (AS_CLASS | MUON | dict(optimizer_args=dict(lr=1)), 'lr has a key of its own'),
        (AS_CLASS | MUON | dict(chained=True, schedule_updates=None), 'not with chained epochs'),
    ],
)
def test_a_wrong_name_or_key_is_told(changes, problem):
    with pytest.raises(KitError, match=problem):
        make_config(TINY | changes)


@pytest.mark.parametrize(
    'optimizer, arguments, problem',
    [
        ('torch.optim:Moun', {}, "torch.optim has no optimizer 'Moun'; did you mean 'Muon'"),
        ('no_such_package:Lion', {}, 'no_such_package, not installed'),
        ('torch.optim:SGD', dict(momentun=0.9), 'momentun.*correct its arguments'),
    ],
)
def test_a_class_that_is_not_there_is_told_before_training(optimizer, arguments, problem):
    config = make_config(TINY | AS_CLASS | dict(optimizer=optimizer, optimizer_args=arguments))
    with pytest.raises(KitError, match=problem):
        check_contract(config)


def test_the_package_of_a_class_is_part_of_the_identity(monkeypatch):
    config = make_config(TINY | AS_CLASS | MUON)
    before = config.identity
    monkeypatch.setattr(
        'reproduce_kit.config.settings.optimizer_package', lambda name: 'torch 99.0'
    )
    assert make_config(TINY | AS_CLASS | MUON).identity != before
