"""The parameter files of the paper's study say what is known of its runs."""

import math

import pytest
import torch
from tiny import recipes

from reproduce_kit.config.settings import RunConfig
from reproduce_kit.config.sweep import TUNED_KEYS
from reproduce_kit.training.optimizers import make_optimizer
from reproduce_kit.training.schedules import make_schedule, planned_rate

ALL = recipes('as-run', 'as-stated', 'as-discussed', 'controlled', 'own-horizon')
CHAINED = ('minilm-lion', 'gte-lion')


def of_recipe(recipe):
    return {key.split('/')[1]: c for key, c in ALL.items() if key.startswith(f'{recipe}/')}


@pytest.mark.parametrize('recipe', ['as-run', 'as-stated', 'controlled'])
def test_a_recipe_has_the_eighteen_rows_of_the_table(recipe):
    rows = {
        (config.backbone, config.optimizer, epoch)
        for config in of_recipe(recipe).values()
        for epoch in range(1, config.epochs + 1)
    }
    assert len(rows) == 18


def test_as_run_has_the_batches_that_were_recovered():
    batches = {name: config.global_batch for name, config in of_recipe('as-run').items()}
    assert batches == {
        'minilm-adamw': 512,
        'minilm-lion': 256,
        'gte-adamw': 128,
        'gte-lion': 128,
        'modernbert-adamw': 192,
        'modernbert-lion': 192,
    }


def test_as_run_makes_the_updates_in_the_authors_checkpoint_names():
    updates = {name: config.updates for name, config in of_recipe('as-run').items()}
    assert updates['minilm-adamw'] == 11_661
    assert updates['gte-adamw'] == 46_641
    assert updates['modernbert-adamw'] == updates['modernbert-lion'] == 31_092


def test_as_run_has_the_rates_decay_and_chains_that_were_recovered():
    for name, config in of_recipe('as-run').items():
        assert config.learning_rate == (2e-6 if name == 'modernbert-lion' else 2e-5)
        assert config.chained == (name in CHAINED)
        assert (config.decay_on, config.weight_decay) == ('all', 0.01)
        assert (config.max_grad_norm, config.seed) == (1.0, 12)
        assert config.train_pairs == 1_990_000


def test_modernbert_was_trained_on_three_devices():
    batch = of_recipe('as-run')['modernbert-lion'].batch(3)
    assert batch == {'per_device': 64, 'world': 3, 'accumulation': 1, 'global': 192}


def test_as_stated_has_the_stated_batch():
    assert {config.global_batch for config in of_recipe('as-stated').values()} == {64}


def test_as_discussed_has_the_other_rate():
    assert ALL['as-discussed/modernbert-adamw'].learning_rate == 2e-6


@pytest.mark.parametrize('backbone', ['minilm', 'gte', 'modernbert'])
def test_controlled_runs_differ_in_the_optimizer_only(backbone):
    adamw, lion = (ALL[f'controlled/{backbone}-{name}'] for name in ('adamw', 'lion'))
    differ = {key for key in RunConfig.model_fields if getattr(adamw, key) != getattr(lion, key)}
    assert {'name', 'optimizer', 'beta2'} <= differ <= TUNED_KEYS


def warm_cosine(config, update):
    warmup = math.ceil(0.1 * config.updates)
    if update < warmup:
        return config.learning_rate * update / warmup
    progress = (update - warmup) / (config.updates - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def warm_linear(config, update):
    span = config.updates // 3 if config.optimizer == 'lion' else config.updates  # chained epochs
    update, warmup = update % span, math.ceil(0.1 * span)
    if update < warmup:
        return 2e-5 * update / warmup
    return 2e-5 * (span - update) / (span - warmup)


def closed_form(key, config, update):
    """The rate of update + 1 as each recipe's sources give it, independent of the kit's formula."""
    recipe, name = key.split('/')
    if recipe in ('controlled', 'own-horizon') or (
        recipe != 'as-run' and name.startswith('modernbert')
    ):
        return warm_cosine(config, update)
    if key == 'as-run/modernbert-lion':
        return 2e-6 * 0.5 * (1 + math.cos(math.pi * update / 93_750))
    if recipe == 'as-stated' or key == 'as-run/modernbert-adamw':
        return 2e-5
    return warm_linear(config, update)


@pytest.mark.parametrize('key', ALL)
def test_the_schedule_is_the_recipes_over_the_whole_run(key):
    config = ALL[key]
    optimizer = make_optimizer(torch.nn.Linear(2, 1), config)
    schedule = make_schedule(optimizer, config)
    ends = {config.epoch_updates - 1, config.epoch_updates, config.updates - 1}
    for update in sorted(ends | {*range(0, config.updates, config.updates // 400)}):
        expected = pytest.approx(closed_form(key, config, update), rel=1e-9, abs=1e-18)
        assert config.learning_rate * schedule.lr_lambdas[0](update) == expected
        assert planned_rate(config, update) == expected


def test_the_cosine_of_modernbert_and_lion_ended_at_three_quarters():
    config = ALL['as-run/modernbert-lion']
    assert round(planned_rate(config, config.updates - 1) / 2e-6, 2) == 0.75


@pytest.mark.parametrize('key', ALL)
def test_decay_is_on_all_parameters_or_on_matrices(key):
    config = ALL[key]
    groups = make_optimizer(torch.nn.Linear(2, 1), config).param_groups
    sizes = [len(group['params']) for group in groups]
    assert sizes == ([2] if config.decay_on == 'all' else [1, 1])
