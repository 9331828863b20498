"""The endpoint of a study, and that its file is no run."""

import pytest
from conftest import ROOT

from reproduce_kit.config.endpoint import read_endpoint
from reproduce_kit.config.files import read_configs
from reproduce_kit.core import KitError

ENDPOINT = 'baseline: adamw\nadvanced: lion\nmeasure: nDCG@10\ntest_sets: [test]\nrecipe: controlled\nmargin: 0.03\n'


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A project with one study, whose endpoint is written by the test."""
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    folder = tmp_path / 'params/mine'
    folder.mkdir(parents=True)
    return folder


def test_an_endpoint_is_read_and_named(study):
    (study / 'endpoint.yaml').write_text(ENDPOINT)
    assert read_endpoint('mine').title == 'Lion minus AdamW, nDCG@10 on test, margin 0.03'


def test_a_study_without_a_file_has_no_endpoint(study):
    assert read_endpoint('mine') is None


@pytest.mark.parametrize(
    'line, changed, problem',
    [
        ('margin: 0.03', 'margin: 0', r'endpoint.yaml.*margin'),
        ('advanced: lion', 'advanced: adamw', 'the same optimizer'),
        ('advanced: lion', 'advanced: lino', 'is no optimizer'),
        ('margin: 0.03', 'margins: 0.03', 'margins'),
    ],
)
def test_a_wrong_endpoint_is_named(study, line, changed, problem):
    (study / 'endpoint.yaml').write_text(ENDPOINT.replace(line, changed))
    with pytest.raises(KitError, match=problem):
        read_endpoint('mine')


def test_the_file_of_an_endpoint_describes_no_run():
    configs = read_configs([ROOT / 'params/embedded'])
    assert len(configs) == 10
