"""The answer to a study's endpoint: not before all runs are there, and with its error."""

import pandas as pd
import pytest
from conftest import ROOT

import reproduce_kit.results.endpoint as endpoint
from reproduce_kit.config.endpoint import read_endpoint
from reproduce_kit.config.files import read_configs
from reproduce_kit.core import KitError
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.testing.fake_runs import fake_run


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """All runs of the embedded study, finished; Lion is lower by 0.01 on every topic."""
    topics = pd.Index([f'numpy.part.f{i}' for i in range(20)], name='qid')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_RUNS', str(tmp_path_factory.mktemp('runs')))
        finished = []
        for config in read_configs([ROOT / 'params/embedded']):
            score = 0.49 if config.optimizer == 'lion' else 0.5
            frame = pd.DataFrame(score, index=topics, columns=MEASURES)
            values = {config.epochs: dict.fromkeys(config.test_sets, frame)}
            finished.append(fake_run(config, values))
        yield finished


def test_the_sign_is_that_of_the_endpoint(runs, monkeypatch):
    stated = read_endpoint('embedded')
    assert endpoint.endpoint_answer(runs).test.parts.mean == pytest.approx(-0.01)
    swapped = stated.model_copy(update=dict(baseline='lion', advanced='adamw'))
    monkeypatch.setattr(endpoint, 'read_endpoint', lambda study: swapped)
    assert endpoint.endpoint_answer(runs).test.parts.mean == pytest.approx(0.01)


def test_nothing_is_answered_while_a_run_is_missing(runs):
    assert endpoint.endpoint_answer(runs[:-1]) is None


def test_an_unknown_measure_is_named_with_its_file(runs, monkeypatch):
    wrong = read_endpoint('embedded').model_copy(update=dict(measure='nDCG@100'))
    monkeypatch.setattr(endpoint, 'read_endpoint', lambda study: wrong)
    with pytest.raises(KitError, match=r"endpoint.yaml: measure 'nDCG@100' is unknown"):
        endpoint.endpoint_answer(runs)
