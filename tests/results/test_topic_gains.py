"""Gains by topic, from finished runs."""

import numpy as np
import pandas as pd
import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.results.topic_gains import topic_gains, topic_gains_figure
from reproduce_kit.store.run import finished_runs
from reproduce_kit.testing.fake_runs import fake_run

TOPICS = [str(i) for i in range(8)]
LION = dict(optimizer='lion', beta2=0.99, learning_rate=2e-5)
ADAMW = dict(optimizer='adamw', beta2=0.999, learning_rate=1e-4)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))


def invented(name, values, **settings):
    """A finished run of one epoch with these values in every measure."""
    config = make_config(example_settings(name=name, epochs=1, **settings))
    index = pd.Index(TOPICS, name='qid')
    frame = pd.DataFrame(dict.fromkeys(MEASURES, values), index=index)
    return fake_run(config, {1: dict.fromkeys(config.test_sets, frame)})


def runs_of(run):
    return finished_runs(run.cfg.study, run.cfg.recipe)


def test_gains_are_lion_minus_adamw_sorted(store):
    lion = np.linspace(0.1, 0.8, 8)
    invented('adamw', np.full(8, 0.4), **ADAMW)
    drawn = topic_gains(runs_of(invented('lion', lion, **LION)))
    assert drawn.gains.to_numpy() == pytest.approx(sorted(lion - 0.4, reverse=True))
    assert list(drawn.gains.index) == TOPICS[::-1]
    assert len(drawn.runs) == 2


def test_seeds_are_averaged(store):
    for seed, level in ((12, 0.3), (13, 0.5)):
        invented(f'adamw-{seed}', np.full(8, level), seed=seed, **ADAMW)
        run = invented(f'lion-{seed}', np.full(8, level + 0.1), seed=seed, **LION)
    drawn = topic_gains(runs_of(run))
    assert drawn.gains.to_numpy() == pytest.approx(0.1)
    assert len(drawn.runs) == 4


def test_the_deepest_backbone_with_both_optimizers_is_drawn(store):
    for layers in (2, 4):
        invented(f'adamw-{layers}', np.full(8, 0.4), layers=layers, **ADAMW)
        invented(f'lion-{layers}', np.full(8, 0.1 * layers), layers=layers, **LION)
    run = invented('adamw-6', np.full(8, 0.9), layers=6, **ADAMW)
    drawn = topic_gains(runs_of(run))
    assert {run.cfg.layers for run in drawn.runs} == {4}


def test_one_optimizer_has_no_gains(store):
    assert topic_gains(runs_of(invented('adamw', np.full(8, 0.4), **ADAMW))) is None


def test_a_backbone_with_several_rates_is_left_out(store):
    invented('adamw', np.full(8, 0.4), **ADAMW)
    invented('lion-low', np.full(8, 0.4), **LION)
    run = invented('lion-high', np.full(8, 0.4), **(LION | dict(learning_rate=1e-4)))
    assert topic_gains(runs_of(run)) is None


def test_the_figure_counts_the_topics(store):
    invented('adamw', np.full(8, 0.4), **ADAMW)
    values = [0.5, 0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.3]
    drawn = topic_gains(runs_of(invented('lion', np.array(values), **LION)))
    label = topic_gains_figure(drawn).axes[0].get_xlabel()
    assert label.startswith('8 topics: Lion ahead on 3, AdamW on 3, 2 tied')
