"""Rates are read with their dates, or the line is named; what ran is what is paid for."""

import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError
from reproduce_kit.engines.cost import cost, dollars_per_hour, match_gpu, read_rates, split_bill
from reproduce_kit.store.events import EventKind
from reproduce_kit.store.run import Run


@pytest.fixture
def cfg():
    return make_config(example_settings(gpu='A100-80GB', gpu_fallbacks=['H100'], ram_gib=64))


def test_an_hour_is_gpus_cores_and_memory(cfg):
    rates = read_rates()
    dollars = rates['dollars']
    machine = 8 * dollars['cpu core'] + 64 * dollars['GiB of memory']
    assert dollars_per_hour(cfg, rates) == pytest.approx(dollars['A100-80GB'] + machine)
    assert dollars_per_hour(cfg, rates, 'H100') == pytest.approx(dollars['H100'] + machine)


@pytest.mark.parametrize(
    'devices, gpu',
    [
        ([], 'A100-80GB'),
        (['NVIDIA A100-SXM4-80GB'], 'A100-80GB'),
        (['NVIDIA A100 80GB PCIe'], 'A100-80GB'),
        (['NVIDIA H100 80GB HBM3'], 'H100'),
        (['NVIDIA H200'], 'H100'),
        (['Tesla T4'], 'A100-80GB'),
    ],
)
def test_the_gpu_that_was_had_is_told_by_its_drivers_name(cfg, devices, gpu):
    assert match_gpu(cfg, devices) == gpu


def test_an_h200_that_was_asked_for_is_no_h100():
    cfg = make_config(example_settings(gpu='H100', gpu_fallbacks=['H200']))
    assert match_gpu(cfg, ['NVIDIA H200']) == 'H200'


def test_a_gpu_without_a_rate_is_named():
    with pytest.raises(KitError, match='no rate for H200'):
        dollars_per_hour(make_config(example_settings(gpu='H200')), read_rates())


def test_a_row_without_a_number_or_a_day_is_named(tmp_path):
    table = tmp_path / 'mine.csv'
    for row in ('H100,cheap,2026-05-07,me', 'H100,3.9,in May,me'):
        table.write_text(f'resource,dollars_per_hour,seen,source\n{row}\n')
        with pytest.raises(KitError, match=r'mine\.csv, line 2'):
            read_rates(table)


def test_a_table_without_processor_or_memory_is_not_enough(tmp_path):
    table = tmp_path / 'mine.csv'
    table.write_text('resource,dollars_per_hour,seen,source\nH100,3.9,2026-05-07,me\n')
    with pytest.raises(KitError, match="no line for 'cpu core'"):
        read_rates(table)


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(KitError, match=r'none\.csv does not exist'):
        read_rates('none.csv')


def test_an_attempt_on_ones_own_machine_has_seconds_and_no_price(cfg, tmp_path):
    run = Run(cfg, tmp_path)
    run.record(EventKind.STARTED, attempt=1, where='local')
    run.record(EventKind.ALIVE, attempt=1, step=4)
    run.record(EventKind.ENDED, attempt=1, how='done', step=8)
    (attempt,) = run.progress.attempts
    assert attempt.ended == 'done' and attempt.seconds < 60
    assert cost(run)['dollars'] is None and cost(run)['source'] == 'own machine'


def test_a_bill_for_nothing_is_nothing():
    assert split_bill({'adamw': 0.0}, 5.0) == {'adamw': 0.0}
