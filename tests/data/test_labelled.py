"""Training data of others: JSON lines in three shapes, and docpairs of ir-datasets."""

import gzip
import json

import pytest
from irds import register
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import Collection, write_collection
from reproduce_kit.data.pairs import load_pairs

CORPUS = {f'd{i}': f'passage {i}' for i in range(60)}
TOPICS = {f'q{i}': f'topic {i}' for i in range(30)}


def graded(topic: int) -> list:
    """The answer of a topic has grade 2, two other passages have 1 and 0."""
    return [(topic, topic, 2), (topic, topic + 1, 1), (topic, topic + 2, 0)]


@pytest.fixture
def folder(tmp_path):
    """A collection with topics to learn from and one to test on."""
    splits = dict(train=dict(list(TOPICS.items())[:28]), test={'q29': TOPICS['q29']})
    qrels = {topic: {f'd{i}': 1} for i, topic in enumerate(TOPICS)}
    candidates = {'test': {'q29': {'d29': 2.0, 'd1': 1.0}}}
    write_collection(
        Collection('mini', CORPUS, splits, dict.fromkeys(splits, qrels), candidates),
        tmp_path / 'texts',
    )
    return tmp_path


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


def config_of(folder, source, **changes):
    settings = dict(
        collection=str(folder / 'texts'),
        passage_words=None,
        test_topics=None,
        hard_share=0.0,
        train_from=str(source),
        loss='MSELoss',
        train_pairs=24,
        dev_pairs=4,
        global_batch=8,
        device_batch=8,
        epochs=1,
    )
    return make_config(SMOKE | settings | changes)


def number(text):
    return int(text.split()[1])


def ids_file(folder):
    rows = [
        dict(query_id=f'q{q}', passage_id=f'd{d}', label=label)
        for topic in range(28)
        for q, d, label in graded(topic)
    ]
    return write_lines(folder / 'ids.jsonl', rows)


def test_grades_are_the_labels(folder):
    pairs = load_pairs(config_of(folder, ids_file(folder)))
    assert len(pairs['train']) == 24
    for row in pairs['train']:
        assert row['label'] == 2 - (number(row['passage']) - number(row['query']))
    assert {row['label'] for row in pairs['train']} == {0.0, 1.0, 2.0}


def test_ids_and_texts_are_the_same_data(folder):
    rows = [
        dict(
            query=f'topic {q}',
            query_id=f'q{q}',
            passage=f'passage {d}',
            passage_id=f'd{d}',
            label=x,
        )
        for topic in range(28)
        for q, d, x in graded(topic)
    ]
    texts = write_lines(folder / 'texts.jsonl', rows)
    by_id = load_pairs(config_of(folder, ids_file(folder)))['fingerprint']
    assert load_pairs(config_of(folder, texts))['fingerprint'] == by_id


def test_a_tenth_of_the_topics_is_held_out(folder):
    pairs = load_pairs(config_of(folder, ids_file(folder)))
    train, dev = ({number(row['query']) for row in pairs[part]} for part in ('train', 'dev'))
    assert len(dev) == 2
    assert not train & dev


def test_lists_have_a_label_for_each_passage(folder):
    changes = dict(loss='ListNetLoss', negatives=2, global_batch=6, device_batch=6)
    rows = load_pairs(config_of(folder, ids_file(folder), **changes))['train']
    assert len(rows) == 8
    for row in rows:
        assert row['labels'][0] == 2.0
        assert row['labels'] == [2 - (number(text) - number(row['query'])) for text in row['docs']]


def test_triples_train_on_ones_and_zeros(folder):
    rows = [
        dict(query=f'topic {i}', positive=f'passage {i}', negative=f'passage {i + 1}')
        for i in range(28)
    ]
    source = write_lines(folder / 'triples.jsonl', rows)
    pairs = load_pairs(config_of(folder, source, loss='BinaryCrossEntropyLoss'))
    for row in pairs['train']:
        assert row['label'] == float(number(row['passage']) == number(row['query']))


def test_tevatron_s_lines_are_read_gzipped_too(folder):
    rows = [
        dict(
            query_id=str(i),
            query=f'topic {i}',
            positive_passages=[dict(docid=f'a{i}', title='passage', text=f'{i}')],
            negative_passages=[dict(docid=f'b{i}', text=f'passage {i + 1}')],
        )
        for i in range(28)
    ]
    content = ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / 'tevatron.jsonl.gz').write_bytes(gzip.compress(content.encode()))
    changes = dict(loss='MultipleNegativesRankingLoss')
    pairs = load_pairs(config_of(folder, folder / 'tevatron.jsonl.gz', **changes))
    for row in pairs['train']:
        assert number(row['positive']) == number(row['query'])
        assert number(row['negative_1']) == number(row['query']) + 1


def test_other_labels_are_other_data(folder):
    source = ids_file(folder)
    before = load_pairs(config_of(folder, source))['fingerprint']
    lines = (folder / 'ids.jsonl').read_text()
    (folder / 'ids.jsonl').write_text(lines.replace('"label": 2', '"label": 3'))
    assert load_pairs(config_of(folder, source))['fingerprint'] != before


@pytest.mark.parametrize(
    'line, problem',
    [
        ('{"query_id": "q1"', 'ids.jsonl, line 85: Expecting'),
        ('[1, 2]', 'line 85: '),
        ('{"query_id": "q1", "label": 1}', "line 85: 'passage_id' is missing"),
        ('{"query_id": "q1", "passage_id": "d99", "label": 1}', "'d99' is no passage"),
        ('{"query_id": "q29", "passage_id": "d1", "label": 1}', "'q29' is no training topic"),
        ('{"query_id": "q1", "passage_id": "d1", "label": "1"}', 'label: expected a number'),
        ('{"query_id": "q1", "passage": " ", "label": 1}', 'passage: expected a text'),
        ('{"query": "topic 29", "passage_id": "d1", "label": 1}', "has the test topic 'q29'"),
    ],
)
def test_a_line_that_is_wrong_is_named(folder, line, problem):
    source = ids_file(folder)
    with open(source, 'a') as file:
        file.write(line + '\n')
    with pytest.raises(KitError, match=problem):
        load_pairs(config_of(folder, source))


def test_grades_are_not_for_binary_cross_entropy(folder):
    config = config_of(folder, ids_file(folder), loss='BinaryCrossEntropyLoss')
    with pytest.raises(KitError, match='has a label of 2, and BinaryCrossEntropyLoss learns'):
        load_pairs(config)


def test_topics_without_enough_negatives_are_told(folder):
    config = config_of(
        folder, ids_file(folder), loss='ListNetLoss', negatives=5, global_batch=6, device_batch=6
    )
    with pytest.raises(KitError, match='has 5 passages with a lower label'):
        load_pairs(config)


@pytest.fixture
def triples(tmp_path, monkeypatch):
    """A data set with docpairs, as MS MARCO's train/triples-small."""
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path / 'cache'))
    pairs = [(f'q{i}', f'd{i}', f'd{i + 1 + j}') for j in range(2) for i in range(28)]
    test = dict(topics={'q29': TOPICS['q29']}, qrels={'q29': {'d29': 1}})
    splits = {'test': test, 'train/triples': dict(topics=TOPICS, pairs=pairs)}
    return register(tmp_path, CORPUS, splits)


def test_docpairs_of_a_data_set_train(triples, tmp_path):
    source = f'irds:{triples}/train/triples'
    config = config_of(tmp_path, source, collection=f'irds:{triples}')
    for row in load_pairs(config)['train']:
        assert row['label'] == float(number(row['passage']) == number(row['query']))


def test_docpairs_of_other_passages_are_told(triples, folder):
    (folder / 'texts/corpus.jsonl').write_text('{"id": "x", "contents": "another"}\n')
    with pytest.raises(KitError, match="passage 'd0' of irds:kit-.* is not in the collection"):
        load_pairs(config_of(folder, f'irds:{triples}/train/triples'))


@pytest.mark.parametrize(
    'changes, problem',
    [
        (dict(train_from='irds:beir/scifact/train'), 'train_from: .* has no docpairs'),
        (dict(train_from='irds:msmarco-passage/train/tripels'), 'did you mean'),
        (dict(targets='teacher.run'), 'targets: write null, since train_from brings labels'),
        (dict(negatives_from='dense.run'), 'negatives_from: write null, since the negatives'),
    ],
)
def test_what_does_not_go_with_it_is_told(folder, changes, problem):
    with pytest.raises(KitError, match=problem):
        config_of(folder, 'x.jsonl', **changes)
