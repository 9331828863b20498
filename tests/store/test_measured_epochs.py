"""Runs that measure only their last epoch."""

import pandas as pd
import pytest

from reproduce_kit.cli.run import run_row
from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, read_json
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.publish.model_card import chosen_epoch
from reproduce_kit.results.run_tables import run_epochs, table1
from reproduce_kit.testing.fake_runs import fake_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of three epochs, of which the last was measured."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    config = make_config(example_settings(epochs=3, measured='last epoch'))
    topics = pd.Index(['q1', 'q2', 'q3'], name='qid')
    frame = pd.DataFrame(0.5, index=topics, columns=MEASURES)
    return fake_run(config, {3: dict.fromkeys(config.test_sets, frame)})


def test_it_is_finished_with_the_files_of_its_last_epoch(run):
    assert list(read_json(run.folder / 'done.json')['epochs']) == ['3']
    assert not run.epoch(1).exists()


def test_lists_and_tables_show_its_last_epoch(run):
    assert list(run_row(run.cfg).epochs) == [3]
    assert [epoch for epoch, _ in run_epochs(run)] == [3]
    assert [label[-1] for label in table1([run]).frame.index if label[-1]] == ['3']


def test_an_epoch_that_was_not_measured_cannot_be_published(run):
    assert chosen_epoch(run) == 3
    with pytest.raises(KitError, match='has measured epochs 3 to 3, not 1'):
        chosen_epoch(run, 1)


def test_nothing_is_selected_where_only_the_last_epoch_is_measured():
    with pytest.raises(KitError, match='select_on: write none'):
        make_config(example_settings(measured='last epoch', select_on='dev'))


def test_a_key_at_its_default_is_no_part_of_the_identity():
    plain = make_config(example_settings())
    assert plain.identity == make_config(example_settings(measured='each epoch')).identity
    assert plain.identity != make_config(example_settings(measured='last epoch')).identity
