"""Test sets that are measured once: when all epochs are, with the model of the selected one."""

import pytest
from kit import tiny_backbone
from miniature import go

import reproduce_kit.evaluation.rerank as reranking
from reproduce_kit.cli.run import run_row
from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, read_json
from reproduce_kit.evaluation.rerank import epoch_table, evaluate_extra_sets
from reproduce_kit.publish.run_export import find_run_file
from reproduce_kit.store.run import Run, final_epoch, mark_done, run_folder


class Killed(Exception):
    """The machine is gone."""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    changes = dict(select_on='dev', final_test_sets=['unseen', 'dev'])
    return make_config(example_settings(**tiny_backbone(), **changes))


@pytest.fixture
def scored(monkeypatch):
    """(epoch, sets) of every scoring; after `limit` of them the machine is gone."""
    calls, own = [], reranking._rerank_sets
    limit = [100]

    def rerank_sets(run, sets, epoch, select=None):
        if len(calls) == limit[0]:
            raise Killed
        calls.append((epoch, list(sets)))
        return own(run, sets, epoch, select)

    monkeypatch.setattr(reranking, '_rerank_sets', rerank_sets)
    return calls, limit


def test_a_run_is_done_once_they_are_measured_and_nothing_is_scored_twice(config, scored):
    calls, limit = scored
    limit[0] = 3
    with pytest.raises(Killed):
        go(config)
    run = Run(config, run_folder(config))
    assert not run.done
    limit[0] = 100
    go(config)
    done = read_json(run.folder / 'done.json')
    chosen = done['selected']
    assert calls == [(1, ['test']), (2, ['test']), (chosen, ['unseen']), (chosen, ['dev'])]
    assert {name: once['epoch'] for name, once in done['final'].items()} == {
        'unseen': chosen,
        'dev': chosen,
    }
    assert list(run.epoch(3 - chosen).glob('also-*')) == []


def test_they_are_in_the_list_the_epochs_table_and_the_exports(config):
    run = go(config)
    table, chosen = epoch_table(run), read_json(run.folder / 'done.json')['selected']
    column = ('unseen', 'nDCG@10')
    assert table[column].notna().tolist() == [True, True, chosen == 1, chosen == 2]
    assert run_row(config).final['unseen'] == table.loc[f'epoch {chosen}', column]
    assert find_run_file(run, test_set='unseen').path.exists()
    assert run.manifest['score_precision'] == ['fp32']


def test_a_later_evaluation_of_another_epoch_changes_nothing(config):
    run = go(config)
    files = ('done.json', 'events.jsonl', 'manifest.json')
    before = [(run.folder / name).read_bytes() for name in files]
    other = 3 - read_json(run.folder / 'done.json')['selected']
    scores = evaluate_extra_sets(run, other, ['unseen'])
    assert list(scores) == ['unseen']
    assert (run.epoch(other) / 'also-unseen/metrics.json').exists()
    assert [(run.folder / name).read_bytes() for name in files] == before


def test_without_a_selection_it_is_the_last_epoch():
    config = make_config(example_settings(final_test_sets=['dev']))
    assert final_epoch(config, {1: dict(selection=None), 2: dict(selection=None)}) == 2
    scores = {1: 0.4, 2: 0.4, 3: 0.3}
    measured = {epoch: dict(selection=dict(value=value)) for epoch, value in scores.items()}
    assert final_epoch(config, measured) == 1


def test_a_run_without_them_is_not_done(config):
    run = go(config)
    measured = {n: read_json(run.epoch(n) / 'metrics.json') for n in (1, 2)}
    (run.folder / 'done.json').unlink()
    with pytest.raises(KitError, match='also-unseen, also-dev missing'):
        mark_done(run, measured)
