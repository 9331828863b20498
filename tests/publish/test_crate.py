"""A study as an RO-Crate: read back by the package's own reader, whole or not at all."""

import json
import warnings

import pytest
import yaml
from click.testing import CliRunner
from rocrate.rocrate import ROCrate

import reproduce_kit.publish.crate as crate_module
from reproduce_kit.cli.app import main
from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, sha256
from reproduce_kit.evaluation.metrics import evaluate
from reproduce_kit.publish.crate import export_study
from reproduce_kit.results.latex import write_table
from reproduce_kit.results.table import Table
from reproduce_kit.testing.fake_runs import fake_run

QRELS = {'1': {'d0': 1}, '2': {'d1': 2}}
RANKED = {topic: {'d0': 1.0, 'd1': 0.5} for topic in QRELS}
STUDY = 'crated'


def source(run):
    """Where a table of `results` says that a value of a run is from."""
    where = f'{run.cfg.study}/{run.cfg.recipe}/{run.folder.name}/epoch-1'
    files = dict(run_file=f'{where}/test.run.gz', perquery=f'{where}/perquery.csv')
    digests = [sha256(run.epoch(1) / name) for name in ('test.run.gz', 'perquery.csv')]
    return files | dict(zip(('sha256', 'perquery_sha256'), digests))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds, and a table of their mean; another study's table lies next to it."""
    for kind in ('RUNS', 'PAPER'):
        monkeypatch.setenv(f'REPRODUCE_{kind}', str(tmp_path / kind.lower()))
    frame = evaluate(RANKED, QRELS)
    runs = []
    for study, seed in ((STUDY, 12), (STUDY, 13), ('other', 12)):
        config = make_config(example_settings(study=study, name=f's{seed}', seed=seed, epochs=1))
        runs.append(fake_run(config, {1: dict(test=frame)}))
    pair, other = runs[:2], runs[2]
    table = Table('table1', 'A mean over seeds.')
    table.add('Lion', 'nDCG@10', '0.8155', 0.8155, seeds=[source(run) for run in pair])
    write_table(table, pair, 'nbs/analysis/table1.ipynb')
    table2 = Table('table2', 'Of another study.')
    table2.add('Lion', 'nDCG@10', '0.8155', 0.8155, **source(other))
    write_table(table2, [other], 'nbs/analysis/table2.ipynb')
    return pair


@pytest.fixture
def crate(runs, tmp_path):
    export_study(STUDY, tmp_path / 'crate')
    return ROCrate(tmp_path / 'crate')


def ids(entities):
    entities = entities if isinstance(entities, list) else [entities]
    return {entity.id for entity in entities}


def test_every_listed_file_is_there_with_its_hash_and_size(crate, tmp_path):
    listed = [entity for entity in crate.data_entities if entity.type == 'File']
    for entity in listed:
        path = tmp_path / 'crate' / entity.id
        assert sha256(path) == entity['sha256'] and path.stat().st_size == entity['contentSize']
    assert len(listed) > 10


def test_every_file_of_the_folder_is_listed(crate, tmp_path):
    files = {
        p.relative_to(tmp_path / 'crate').as_posix()
        for p in (tmp_path / 'crate').rglob('*')
        if p.is_file()
    }
    assert files - {'ro-crate-metadata.json'} == ids(crate.data_entities)


def test_each_run_is_an_action_from_its_settings_to_its_run_file(crate, runs):
    for run in runs:
        action = crate.get(f'#run-{run.folder.name}')
        folder = f'runs/{STUDY}/smoke/{run.folder.name}'
        assert {f'{folder}/epoch-1/test.run.gz', f'{folder}/epoch-1/perquery.csv'} <= ids(
            action['result']
        )
        assert ids(action['object']) == {f'{folder}/manifest.json'}  # no file of params/ has it
        assert action['startTime'] <= action['endTime']


def test_the_tool_of_a_run_is_the_kit_at_the_commit_of_its_manifest(crate, runs):
    git = runs[0].manifest['git']
    tool = crate.get(f'#run-{runs[0].folder.name}')['instrument']
    assert tool['name'] == 'reproduce-kit'
    assert tool['version'].startswith(git['commit'])


def test_a_table_names_the_run_files_behind_its_cells(crate, runs):
    names = ids(crate.get('#table-table1')['object'])
    for run in runs:
        folder = f'runs/{STUDY}/smoke/{run.folder.name}'
        assert {f'{folder}/done.json', f'{folder}/epoch-1/test.run.gz'} <= names


def test_a_table_has_its_tex_file_as_a_result_and_other_studies_have_none(crate):
    assert 'paper/tables/table1.tex' in ids(crate.get('#table-table1')['result'])
    assert crate.get('#table-table2') is None


def test_the_root_mentions_all_actions_and_names_the_profile(crate):
    assert ids(crate.root_dataset['mentions']) == ids(crate.get_by_type('CreateAction'))
    assert ids(crate.root_dataset['conformsTo']) == {crate_module.PROFILE}


def test_a_run_of_params_has_its_yaml_file_as_input(runs, tmp_path, monkeypatch):
    params = tmp_path / 'params' / STUDY
    params.mkdir(parents=True)
    settings = runs[0].cfg.model_dump() | dict(name='s', seed=[12, 13])
    monkeypatch.setattr(crate_module, 'config_file', lambda config: params / 's.yaml')
    monkeypatch.setattr(crate_module, 'project_root', lambda: tmp_path)
    (params / 's.yaml').write_text(yaml.safe_dump(settings))
    export_study(STUDY, tmp_path / 'crate')
    crate = ROCrate(tmp_path / 'crate')
    for run in runs:
        place = f'params/{STUDY}/s.yaml'
        assert ids(crate.get(f'#run-{run.folder.name}')['object']) == {place}


# --- whole or not at all ---


def left_over(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_a_run_file_that_changed_stops_the_export(runs, tmp_path):
    (runs[1].epoch(1) / 'test.run.gz').write_bytes(b'')
    with pytest.raises(KitError, match='is not the file that was measured'):
        export_study(STUDY, tmp_path / 'crate')
    assert left_over(tmp_path) == ['paper', 'runs']


def test_a_table_of_other_runs_than_there_are_now_stops_the_export(runs, tmp_path):
    path = tmp_path / 'paper/tables/table1.json'
    content = json.loads(path.read_text())
    name = next(iter(content['inputs']))
    content['inputs'][name] = '0' * 64
    path.write_text(json.dumps(content))
    with pytest.raises(KitError, match='has changed since'):
        export_study(STUDY, tmp_path / 'crate')
    assert left_over(tmp_path) == ['paper', 'runs']


def test_a_file_that_goes_away_while_the_crate_is_written_leaves_no_folder(
    runs, tmp_path, monkeypatch
):
    describe = crate_module._describe_root

    def then_lose_a_file(study_crate, study):
        describe(study_crate, study)
        (runs[0].epoch(1) / 'test.run.gz').unlink()

    monkeypatch.setattr(crate_module, '_describe_root', then_lose_a_file)
    with warnings.catch_warnings(), pytest.raises((KitError, OSError)):
        warnings.simplefilter('ignore')
        export_study(STUDY, tmp_path / 'crate')
    assert left_over(tmp_path) == ['paper', 'runs']


def test_the_command_counts_runs_tables_and_files(runs, tmp_path):
    to = tmp_path / 'crate'
    result = CliRunner().invoke(main, ['export', STUDY, '--crate', '--to', str(to), '--json'])
    answer = json.loads(result.stdout)
    assert (answer['folder'], answer['runs'], answer['tables']) == (str(to), 2, 1)
    assert answer['files'] == len(ROCrate(to).data_entities)


def test_a_folder_that_is_there_is_not_written_over(runs, tmp_path):
    (tmp_path / 'crate').mkdir()
    with pytest.raises(KitError, match='is there already'):
        export_study(STUDY, tmp_path / 'crate')
