"""Data sets of ir-datasets: checked against the catalogue, read by the package's own code."""

import pytest
from irds import register
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.core import KitError, NotCached
from reproduce_kit.data.collection import read_collection, write_collection
from reproduce_kit.data.irds import any_collection, read_irds
from reproduce_kit.data.pairs import load_collection, load_pairs
from reproduce_kit.evaluation.test_sets import load_test_sets

PASSAGES = {f'd{i}': f'passage about subject{i} and matter{i % 7}' for i in range(60)}
TOPICS = {f'q{i}': f'what is subject{i}' for i in range(60)}


def judged(numbers) -> dict:
    return {f'q{i}': {f'd{i}': 1} for i in numbers}


def topics(numbers) -> dict:
    return {f'q{i}': TOPICS[f'q{i}'] for i in numbers}


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Twenty topics to train on, six to test on, four with candidates of their own."""
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path / 'cache'))
    scored = [(f'q{i}', f'd{(i + j) % 60}', 9.0 - j) for i in range(50, 54) for j in range(3)]
    splits = {
        'train': dict(topics=topics(range(40)), qrels=judged(range(40))),
        'test': dict(topics=topics(range(40, 46)), qrels=judged(range(40, 46))),
        'trec-2019/judged': dict(
            topics=topics(range(50, 54)), qrels=judged(range(50, 54)), scored=scored
        ),
    }
    return register(tmp_path, PASSAGES, splits)


def config_of(dataset, **changes):
    settings = dict(
        collection=f'irds:{dataset}',
        passage_words=None,
        test_topics=None,
        train_pairs=24,
        dev_pairs=8,
        global_batch=8,
        device_batch=8,
        epochs=1,
        hard_share=0.0,  # no first stage for training
    )
    return make_config(SMOKE | settings | changes)


def test_a_run_trains_and_tests_on_the_splits_of_an_id(dataset):
    config = config_of(dataset, test_sets=['test'])
    pairs = load_pairs(config)
    assert len(pairs['train']) == 24
    assert set(pairs['train']['passage']) <= set(PASSAGES.values())
    judged_set = load_test_sets(config)['test']
    assert judged_set.topics == topics(range(40, 46))
    assert all(f'd{topic[1:]}' in docs for topic, docs in judged_set.candidates.items())
    assert judged_set.first_stage == 'BM25'


def test_a_tenth_of_the_training_topics_is_dev_where_there_is_none(dataset):
    collection = load_collection(config_of(dataset))
    assert len(collection.topics['dev']) == 4
    assert collection.topics['train'] | collection.topics['dev'] == topics(range(40))
    assert not collection.topics['train'].keys() & collection.topics['dev'].keys()


def test_candidates_of_the_data_set_are_its_scoreddocs(dataset):
    config = config_of(dataset, test_sets=['trec-2019-judged'], depth=2)
    found = load_test_sets(config)['trec-2019-judged']
    assert found.candidates['q50'] == {'d50': 9.0, 'd51': 8.0}
    assert found.first_stage == 'scoreddocs'


def test_the_same_texts_in_a_folder_train_the_same(dataset, tmp_path):
    config = config_of(dataset, test_sets=['test'])
    write_collection(load_collection(config), tmp_path / 'folder')
    folder = config_of(dataset, collection=str(tmp_path / 'folder'), test_sets=['test'])
    assert load_pairs(folder)['fingerprint'] == load_pairs(config)['fingerprint']
    assert read_collection(tmp_path / 'folder').topics == load_collection(config).topics


def test_other_passages_are_another_collection(dataset, tmp_path):
    before = read_irds(dataset, ['test'])
    (tmp_path / 'docs.tsv').write_text(
        (tmp_path / 'docs.tsv').read_text().replace('matter6', 'changed')
    )
    after = read_irds(dataset, ['test'])
    assert 'changed' in after.corpus['d6']
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize(
    'changes, problem',
    [
        (dict(collection='irds:beir/scifat'), "did you mean 'beir/scifact'"),
        (dict(collection='irds:beir'), 'has no passages; name one of its subsets'),
        (dict(test_sets=['tset']), "test_sets: irds:kit-.* has no split 'tset'; did you mean"),
        (
            dict(collection='irds:beir/trec-covid', test_sets=['trec-covid']),
            'has no split train to learn from',
        ),
    ],
)
def test_what_the_catalogue_lacks_is_told_before_anything_is_fetched(dataset, changes, problem):
    with pytest.raises(KitError, match=problem):
        config_of(dataset, **changes)


def test_an_id_with_topics_is_a_collection_of_one_split(dataset):
    assert list(any_collection(f'irds:{dataset}/test').topics) == ['test']
    with pytest.raises(KitError, match='name the split to read; it has test, train'):
        any_collection(f'irds:{dataset}')


def test_a_download_that_fails_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path / 'cache'))
    dataset = register(tmp_path, PASSAGES, {'test': dict(topics=TOPICS, qrels=judged(range(3)))})
    (tmp_path / 'docs.tsv').unlink()
    with pytest.raises(NotCached, match='once where there is a network'):
        read_irds(dataset, ['test'])
