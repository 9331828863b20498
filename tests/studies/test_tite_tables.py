"""The tables of TITE's cross-encoders, from runs made up."""

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from reproduce_kit.config.files import read_configs
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.results.run_tables import runs_or_none
from reproduce_kit.studies.tite.tables import cross_table, rates_table
from reproduce_kit.testing.fake_runs import fake_run

TOPICS = [f't{i}' for i in range(40)]


def make_runs(folder, score):
    """Finished runs of a folder of params; `score` says what a config reaches on each topic."""
    for config in read_configs([ROOT / folder]):
        frame = pd.DataFrame(dict.fromkeys(MEASURES, score(config)), index=TOPICS)
        values = dict.fromkeys(config.test_sets, frame.rename_axis('qid'))
        fake_run(config, dict.fromkeys(config.measured_epochs, values))


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))


def test_an_encoder_that_pools_is_compared_with_the_one_that_does_not():
    noise = np.linspace(-0.01, 0.01, len(TOPICS))
    gains = {'bert-docs': 0, 'tite-k2-docs': 0.1 + noise, 'tite-k3-docs': -0.1 - noise}
    make_runs('params/tite/controlled', lambda config: 0.4 + gains[config.backbone])
    frame = cross_table(runs_or_none('tite')).frame['worse by 0.03']
    assert frame.tolist()[-3:].count('no') == 1 and frame.tolist()[-3:].count('yes') == 1


def test_every_rate_that_was_tried_has_its_value_on_dev_topics():
    make_runs('params/tite-rates', lambda config: 1000 * config.learning_rate)
    frame = rates_table(runs_or_none('tite-rates')).frame
    assert list(frame.columns) == ['5×10⁻⁵', '1×10⁻⁴', '2×10⁻⁴', '4×10⁻⁴']
    assert len(frame) == 3
    assert all(row == ['0.0500', '0.1000', '0.2000', '0.4000'] for row in frame.values.tolist())
