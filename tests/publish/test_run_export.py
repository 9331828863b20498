"""Run files that leave the kit: header, ranking and description survive other tools' readers."""

import gzip
import io
import json
import shutil
import sys
import types

import pytest
import pytrec_eval
import yaml
from click.testing import CliRunner
from conftest import ROOT

from reproduce_kit.cli.app import main
from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.data.trec import read_run
from reproduce_kit.evaluation.ir_metadata import RunFile, ir_metadata
from reproduce_kit.evaluation.metrics import evaluate
from reproduce_kit.publish.run_export import export_run
from reproduce_kit.testing.fake_runs import fake_run

QRELS = {'1': {'d0': 1}, '2': {'d1': 2}}
RANKED = {topic: {'d0': 1.0, 'd1': 0.5} for topic in QRELS}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of two test sets, from before there were descriptions."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    config = make_config(example_settings(epochs=2, test_sets=['test', 'dev']))
    frame = evaluate(RANKED, QRELS)
    return fake_run(config, dict.fromkeys((1, 2), dict.fromkeys(('test', 'dev'), frame)))


@pytest.fixture(scope='module')
def reader():
    """repro_eval's reader. Its module also imports pkg_resources, which setuptools 82 dropped.

    The reader does not use it, so an empty module of that name is enough; nothing else is replaced.
    """
    with pytest.MonkeyPatch.context() as patch:
        try:
            import pkg_resources  # noqa: F401
        except ImportError:
            patch.setitem(sys.modules, 'pkg_resources', types.ModuleType('pkg_resources'))
        from repro_eval.metadata import MetadataHandler

        yield MetadataHandler
        sys.modules.pop('repro_eval.metadata')


@pytest.fixture
def exported(run, tmp_path):
    return export_run(run, tmp_path / 'out.run', epoch=1, test_set='test')


def test_repro_eval_reads_the_description_that_the_sidecar_has(run, exported, reader):
    sidecar = run.epoch(1) / 'test.ir-metadata.yml'
    assert reader.read_metadata(str(exported)) == yaml.safe_load(sidecar.read_text())


def test_repro_eval_reads_the_ranking_that_was_measured(run, exported, reader):
    assert reader.strip_metadata(str(exported)) == read_run(run.epoch(1) / 'test.run.gz')


def test_without_its_comments_the_file_is_the_measured_one_byte_by_byte(run, exported):
    lines = exported.read_text().splitlines(keepends=True)
    plain = ''.join(line for line in lines if not line.startswith('#'))
    with gzip.open(run.epoch(1) / 'test.run.gz', 'rt') as file:
        assert plain == file.read()
    assert pytrec_eval.parse_run(io.StringIO(plain)) == read_run(run.epoch(1) / 'test.run.gz')


def test_the_description_has_the_six_parts_of_primad_and_the_tag_of_the_file(run, exported, reader):
    described = reader.read_metadata(str(exported))
    parts = ['platform', 'research goal', 'implementation', 'method', 'actor', 'data']
    assert list(described) == ['schema-version', 'run-version', 'tag', *parts]
    assert described['tag'] == exported.read_text().splitlines()[-1].split()[-1]
    assert described['actor'] == {'role': 'reproducer'}
    assert (
        f'torch=={run.manifest["packages"]["torch"]}'
        in (described['platform']['software']['libraries']['python'])
    )


def test_two_runs_that_differ_in_a_setting_differ_in_method_only(run, monkeypatch):
    """What repro_eval's analyzer compares: here the string is priMad."""
    config = make_config(run.cfg.model_dump() | dict(learning_rate=1.0e-4))
    other = fake_run(
        config, dict.fromkeys((1, 2), dict.fromkeys(('test', 'dev'), evaluate(RANKED, QRELS)))
    )
    first, second = (ir_metadata(RunFile(r, r.epoch(1), 'test', 1)) for r in (run, other))
    assert [part for part in first if first[part] != second[part]] == ['method']


def test_the_second_stage_names_the_first_one_with_its_constants(run):
    first, second = ir_metadata(RunFile(run, run.epoch(1), 'test', 1))['method']['retrieval']
    assert (first['method'], first['k1'], first['b']) == ('BM25', 0.9, 0.4)
    assert second['reranks'] == first['name'] and second['rerank depth'] == run.cfg.depth


def test_the_publication_of_the_study_is_the_research_goal(run, tmp_path, monkeypatch):
    shutil.copytree(ROOT / 'params', tmp_path / 'params')
    paper = dict(title='A paper', year=2025, venue='SIGIR', doi='10.1/x')
    (tmp_path / 'params' / run.cfg.study / 'study.yaml').write_text(
        yaml.safe_dump(dict(publication=paper))
    )
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    goal = ir_metadata(RunFile(run, run.epoch(1), 'test', 1))['research goal']
    assert goal['venue'] == dict(name='SIGIR', year=2025)
    assert goal['publication'] == dict(title='A paper', doi='https://doi.org/10.1/x')


def test_a_description_is_written_once(run, exported):
    sidecar = run.epoch(1) / 'test.ir-metadata.yml'
    sidecar.write_text(sidecar.read_text() + 'note: mine\n')
    assert '# note: mine' in export_run(run, exported, 1, 'test').read_text()


# --- the command ---


def export(*words):
    return CliRunner().invoke(main, ['export', *map(str, words)])


def test_a_run_of_several_test_sets_needs_the_name_of_one(run):
    result = export(run.cfg.name, '--trec')
    assert result.exit_code == 1
    assert 'several test sets (test, dev); name one with --set' in result.stderr


def test_the_command_writes_the_last_epoch_and_says_where(run, tmp_path):
    to = tmp_path / 'last.run'
    result = export(run.cfg.name, '--trec', '--set', 'dev', '--to', to, '--json')
    assert json.loads(result.stdout) == dict(file=str(to))
    assert '  epoch: 2\n' in to.read_text()


def test_one_form_must_be_named(run):
    result = export(run.cfg.name)
    assert result.exit_code == 1 and 'name one form, --trec' in result.stderr
