"""Several processes that score together return what one returns, to the last bit."""

import json
import socket

import numpy as np
import pytest
from kit import SMOKE
from shared_scoring import score_share
from warm import fresh_processes

from reproduce_kit.config.files import make_config
from reproduce_kit.data.collection import Collection, write_collection
from reproduce_kit.evaluation.pair_scoring import ALONE, Share
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.testing.fake_hub import fake_model, fake_words


@pytest.fixture
def inputs(tmp_path):
    """A checkpoint, and a collection whose passages have many lengths."""
    fake_model('tiny-bert')
    model = load_backbone(make_config(SMOKE | dict(backbone='tiny-bert', layers=2, max_length=96)))
    model.save_pretrained(str(tmp_path / 'model'), create_model_card=False)
    rng, words = np.random.default_rng(3), fake_words()
    corpus = {f'd{i}': ' '.join(rng.choice(words, int(rng.integers(1, 80)))) for i in range(300)}
    topics = {f'q{i}': ' '.join(rng.choice(words, 4)) for i in range(5)}
    qrels = {topic: {'d0': 1} for topic in topics}
    candidates = {
        topic: {docid: 1.0 / (i + 1) for i, docid in enumerate(corpus)} for topic in topics
    }
    collection = Collection(
        'long', corpus, dict(test=topics), dict(test=qrels), dict(test=candidates)
    )
    write_collection(collection, tmp_path / 'texts')
    return tmp_path


def free_port() -> int:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]


def score(inputs, world: int) -> list:
    """What each process returned, and how many batches it scored."""
    out = inputs / f'by-{world}'
    out.mkdir()
    common = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), WORLD_SIZE=str(world))
    folders = [str(inputs / 'model'), str(inputs / 'texts'), str(out)]
    processes = [
        fresh_processes().Process(
            target=score_share, args=(common | dict(RANK=str(rank)), *folders)
        )
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return [json.loads((out / f'{rank}.json').read_text()) for rank in range(world)]


def test_two_processes_share_the_batches_and_get_the_scores_of_one(inputs):
    (alone,) = score(inputs, 1)
    first, second = score(inputs, 2)
    assert first['run'] == second['run'] == alone['run']
    assert alone['batches'] > 10
    assert first['batches'] + second['batches'] == alone['batches']
    assert abs(first['batches'] - second['batches']) <= 1


def test_without_other_processes_nothing_is_shared():
    assert all(ALONE.has(number) for number in range(5))
    scores = np.ones(3, np.float32)
    assert ALONE.gather(scores, 'cpu') is scores
    assert [Share(1, 2).has(number) for number in range(4)] == [False, True, False, True]
