"""Plans: exact counts, and hours by the best source there is."""

import json

import pandas as pd
import pytest

from reproduce_kit.config.files import make_config, read_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, project_root, read_json, write_json
from reproduce_kit.engines.estimate import (
    assumed_hours,
    estimate_hours,
    finished_runs_on,
    plan_error,
)
from reproduce_kit.engines.plan import plan_row
from reproduce_kit.engines.workload import workload
from reproduce_kit.speed.gpu_bars import Bar, BarMachine, append_bar
from reproduce_kit.store.machine import core_count
from reproduce_kit.testing.fake_runs import fake_run


def with_changes(cfg, **changes):
    return make_config(cfg.model_dump() | changes)


@pytest.fixture
def modernbert():
    """The paper's best run: three GPUs, and a cosine over more updates than were run."""
    return read_config(project_root() / 'params/lion-vs-adamw/as-run/modernbert-lion.yaml')


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty run store, and an empty folder of benchmarks."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path / 'paper'))
    return tmp_path


def note_threads(run, threads):
    run.note(hardware=run.manifest['hardware'] | dict(threads=threads, cores=core_count()))


@pytest.fixture
def two_runs(store):
    """Two finished smoke runs on this processor; the later one took half as long again."""
    values = pd.DataFrame({'nDCG@10': [0.5, 0.6]}, index=pd.Index(['1', '2'], name='qid'))
    for name, seconds, day in (('one', 10.0, '2026-01-01'), ('two', 15.0, '2026-02-02')):
        cfg = make_config(example_settings(name=name))
        scores = dict.fromkeys(range(1, cfg.epochs + 1), dict.fromkeys(cfg.test_sets, values))
        run = fake_run(cfg, scores, seconds=seconds)  # of training, and as many of measuring
        note_threads(run, core_count())
        done = run.folder / 'done.json'
        write_json(done, read_json(done) | dict(finished=day))


@pytest.fixture
def l40s_bars(store):
    """What `make gpu-bars` leaves behind on an L40S: 100 pairs/s in training, 1,000 in scoring."""
    machine = BarMachine('NVIDIA L40S', '2026-05-07', *[''] * 7)
    bars = [Bar('training', 'ours', 'modernbert-base', 22, work=100, seconds=1.0)]
    bars += [Bar('scoring', 'ours', 'modernbert-base', 22, 'tf32', work=1000, seconds=1.0)]
    for bar in bars:
        append_bar(store / 'paper/performance/gpu/l40s.csv', bar, machine)


def test_a_plan_states_updates_batch_and_schedule_exactly(store, modernbert):
    plan = plan_row(modernbert)
    assert plan.updates == 31_092
    assert plan.schedule.endswith('ends at 75% of the peak')
    assert plan.batch == {'per_device': 64, 'world': 3, 'accumulation': 1, 'global': 192}
    assert plan.hours < plan.gpu_hours


def test_lion_needs_half_of_adamws_state(store, modernbert):
    lion = plan_row(modernbert).memory_gib.optimizer
    adamw = plan_row(with_changes(modernbert, optimizer='adamw')).memory_gib.optimizer
    assert adamw == pytest.approx(2 * lion, abs=0.02)


def test_an_unknown_gpu_is_named_with_the_nearest(store, modernbert):
    with pytest.raises(KitError, match="gpu 'A1000' is unknown; did you mean"):
        plan_row(with_changes(modernbert, gpu='A1000'))
    with pytest.raises(KitError, match="gpu 'H10' is unknown; did you mean 'H100'"):
        plan_row(with_changes(modernbert, gpu_fallbacks=['H10']))


def test_a_plan_is_json(store, modernbert):
    plan = plan_row(modernbert).as_dict()
    assert json.loads(json.dumps(plan)) == plan


def test_a_finished_run_is_planned_as_done(two_runs):
    assert plan_row(make_config(example_settings(name='one'))).state == 'done'
    assert plan_row(make_config(example_settings(name='three'))).state == 'to do'


def test_the_latest_like_run_gives_the_hours(two_runs):
    plan = plan_row(make_config(example_settings(seed=99)))
    assert plan.hours_from.startswith('measured: two')
    assert plan.here == pytest.approx(30 / 3600)
    assert plan.hours is None


def test_a_run_beside_another_is_counted_with_its_share_of_the_cores(two_runs):
    run = finished_runs_on(None)[0]
    note_threads(run, core_count() / 2)
    plan = plan_row(make_config(example_settings(seed=99)))
    assert plan.here == pytest.approx(15 / 3600)


def test_without_a_like_run_the_hours_are_assumed(two_runs):
    plan = plan_row(make_config(example_settings(layers=3)))
    assert plan.here > 0
    assert plan.hours_from.startswith('assumed: 70%')


def test_bars_give_the_hours_on_their_own_gpu_and_in_their_own_precision_only(
    l40s_bars, modernbert
):
    estimate, work = estimate_hours(modernbert, 'L40S', []), workload(modernbert)
    assert estimate.source.startswith('measured: make gpu-bars, NVIDIA L40S')
    alone, shared = work.selection_pairs, work.scored_pairs - work.selection_pairs
    seconds = work.train_pairs / 300 + alone / 1000 + shared / 3000  # three GPUs do all but select
    assert estimate.hours == pytest.approx(seconds / 3600)
    assert estimate_hours(modernbert, 'H100', []).source.startswith('assumed')
    in_bf16 = with_changes(modernbert, score_precision='bf16')
    assert estimate_hours(in_bf16, 'L40S', []).source.startswith('assumed')


def test_the_error_of_plans_is_that_of_the_latest_run_planned_from_those_before(two_runs):
    error = plan_error(None)
    assert error.run.startswith('two') and error.finished == '2026-02-02'
    assert error.planned * 3600 == pytest.approx(20)
    assert error.hours * 3600 == pytest.approx(30)
    assert error.off == pytest.approx(-1 / 3)
    assert plan_error('L40S') is None


def test_the_first_run_of_a_machine_was_planned_by_arithmetic(two_runs):
    first_only = finished_runs_on(None)[1:]
    assert plan_error(None, first_only).hours_from.startswith('assumed')


def test_a_set_that_is_measured_once_is_counted_once(store, modernbert):
    each = with_changes(modernbert, test_sets=['dl19', 'dev'], final_test_sets=[])
    once = with_changes(modernbert, test_sets=['dl19'], final_test_sets=['dev'])
    without = with_changes(modernbert, test_sets=['dl19'], final_test_sets=[])
    pairs = [workload(cfg).scored_pairs for cfg in (without, once, each)]
    assert pairs[1] - pairs[0] == 6_980_000
    assert pairs[2] - pairs[0] == 3 * 6_980_000


def test_the_parts_of_a_plan_add_up_and_each_says_how_it_is_known(store, modernbert):
    plan = plan_row(modernbert)
    assert [part.name for part in plan.parts] == ['preparing', 'training', 'scoring']
    assert all(part.low < part.hours < part.high for part in plan.parts)
    assert plan.hours == pytest.approx(sum(part.hours for part in plan.parts), abs=1e-3)
    assert plan.hours_low < plan.hours < plan.hours_high
    assert [part.source.split(':')[0] for part in plan.parts] == 3 * ['assumed']
    assert 'bf16' in plan.parts[1].source and 'tf32' in plan.parts[2].source


def test_a_measured_part_is_better_known_than_an_assumed_one(l40s_bars, modernbert):
    measured, assumed = plan_row(modernbert), plan_row(with_changes(modernbert, gpu='H100'))
    doubts = [plan.hours_high / plan.hours_low for plan in (measured, assumed)]
    assert doubts[0] < doubts[1]


def test_no_precision_is_assumed_to_reach_a_larger_share_than_fp32(store, modernbert):
    def share(precision):
        cfg = with_changes(modernbert, score_precision=precision)
        return float(assumed_hours(cfg, 'H100').scoring.basis.split('%')[0])

    assert max(share('tf32'), share('bf16')) < share('fp32')


def test_runs_that_scored_in_another_precision_do_not_tell_the_hours(two_runs):
    in_bf16 = make_config(example_settings(seed=99, score_precision='bf16'))
    assert plan_row(in_bf16).hours_from.startswith('assumed')
    for run in finished_runs_on(None):
        run.note(score_precision=['bf16'])
    assert plan_row(in_bf16).hours_from.startswith('measured')
