"""A released reranker is measured like any epoch, and nothing that is stored is scored again."""

from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

import reproduce_kit.evaluation.released as released
from reproduce_kit.config.files import make_config
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import EvalSet
from reproduce_kit.data.trec import read_run
from reproduce_kit.engines.compliance import check_run
from reproduce_kit.engines.plan import plan_row
from reproduce_kit.evaluation.released import PartScorer, evaluate_released, topic_parts
from reproduce_kit.evaluation.rerank import evaluate_first_stage
from reproduce_kit.models.reranker import reranker_sources
from reproduce_kit.store.run import find_runs, mark_done, open_run, record_data
from reproduce_kit.testing.fake_hub import fake_words
from reproduce_kit.testing.fake_rerankers import fake_reranker, released_settings


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    for name in ('HF_HUB_CACHE', 'REPRODUCE_CACHE', 'REPRODUCE_RUNS'):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    fake_reranker('tiny-bert-reranker')


@pytest.fixture
def judged():
    rng, words = np.random.default_rng(5), fake_words()
    corpus = {f'd{i}': ' '.join(rng.choice(words, 10)) for i in range(30)}
    topics = {f'q{i}': ' '.join(rng.choice(words, 3)) for i in range(8)}
    qrels = {topic: {f'd{i}': 1} for i, topic in enumerate(topics)}
    candidates = {
        topic: {f'd{(i + j) % 30}': 5.0 - j for j in range(5)} for i, topic in enumerate(topics)
    }
    return EvalSet('test', topics, qrels, candidates, corpus, 'fingerprint')


def new_run(**changes):
    return open_run(make_config(released_settings(**changes)))


class Killed(Exception):
    """The machine is gone."""


def test_a_killed_run_scores_only_what_is_not_stored(judged, monkeypatch):
    whole = PartScorer(new_run(name='whole'), pairs=10).ranking(judged)
    scored, limit = [], [2]
    own_rerank = released.rerank

    def rerank(model, topics, corpus, candidates, *more, **named):
        if len(scored) == limit[0]:
            raise Killed
        scored.append(sorted(candidates))
        return own_rerank(model, topics, corpus, candidates, *more, **named)

    monkeypatch.setattr(released, 'rerank', rerank)
    run = new_run(name='cut')
    with pytest.raises(Killed):
        evaluate_released(run, {'test': judged}, pairs=10)
    limit[0] = 4
    evaluate_released(run, {'test': judged}, pairs=10)
    assert scored == [['q0', 'q1'], ['q2', 'q3'], ['q4', 'q5'], ['q6', 'q7']]
    assert read_run(run.epoch(0) / 'test.run.gz') == whole
    assert not (run.epoch(0) / 'parts').exists()


def test_parts_hold_whole_topics_and_all_of_them(judged):
    parts = topic_parts(judged.candidates, 12)
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    assert sorted(topic for part in parts for topic in part) == sorted(judged.candidates)


def test_its_manifest_says_what_was_measured_and_nothing_of_training(judged, monkeypatch):
    clock = SimpleNamespace(monotonic=count(100).__next__)  # a second from look to look
    monkeypatch.setattr(released, 'time', clock)
    run = new_run()
    evaluate_first_stage(run, {'test': judged})
    record_data(run, test=judged.fingerprint, **reranker_sources(run.cfg))
    mark_done(run, {0: evaluate_released(run, {'test': judged})})
    manifest = run.manifest
    assert 'optimizer' not in manifest['config'] and 'learning_rate' not in manifest['config']
    assert manifest['config']['revision'] == run.cfg.revision
    assert manifest['data'][run.cfg.repo] == run.cfg.revision
    assert manifest['seconds']['evaluate'] == 2  # one for the part, one for the measures
    assert check_run(run) == []
    (found,) = find_runs('smoke', 'released')
    assert found.cfg == run.cfg and found.done


def test_another_commit_is_another_run():
    first, second = new_run(), new_run(revision='f' * 40)
    assert first.folder != second.folder


def test_a_plan_has_time_for_scoring_only():
    row = plan_row(make_config(released_settings(gpu='L40S')))
    assert row.updates == row.train_pairs == 0 and row.scored_pairs == 150 * 4
    assert row.gpu_hours is not None and row.schedule == 'nothing is trained'
    assert row.memory_gib.optimizer == row.memory_gib.gradients == 0


@pytest.mark.parametrize('key', ['optimizer', 'learning_rate', 'epochs', 'seed', 'loss'])
def test_a_training_key_in_its_file_is_an_error(key):
    with pytest.raises(KitError, match=f"unknown key '{key}'"):
        make_config(released_settings(**{key: 1}))
