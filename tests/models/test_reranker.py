"""A released reranker scores as its authors' library does, or says why it cannot."""

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.config.files import make_config
from reproduce_kit.core import KitError
from reproduce_kit.evaluation.pair_scoring import score_pairs
from reproduce_kit.models.reranker import load_reranker, reranker_folder, reranker_problem
from reproduce_kit.testing.fake_hub import fake_words
from reproduce_kit.testing.fake_rerankers import fake_reranker, released_settings

NAMES = ['tiny-bert-reranker', 'tiny-roberta-reranker', 'tiny-modernbert-reranker']


@pytest.fixture(autouse=True)
def own_hub(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path / 'cache'))


def settings_of(name, **changes):
    return make_config(released_settings(reranker=name, **changes))


def texts(seed=3):
    """Topics and passages, some longer than the models read."""
    rng, words = np.random.default_rng(seed), fake_words()
    topics = {f'q{i}': ' '.join(rng.choice(words, rng.integers(1, 12))) for i in range(6)}
    corpus = {f'd{i}': ' '.join(rng.choice(words, rng.integers(1, 90))) for i in range(12)}
    return topics, corpus, [(topic, docid) for topic in topics for docid in corpus]


@pytest.mark.parametrize('name', NAMES)
def test_scores_equal_the_library_s_own_on_the_same_pairs(name):
    folder = fake_reranker(name)
    topics, corpus, pairs = texts()
    ours = score_pairs(load_reranker(settings_of(name)), topics, corpus, pairs)
    library = CrossEncoder(str(folder), model_kwargs=dict(dtype=torch.float32))
    theirs = library.predict([(topics[q], corpus[d]) for q, d in pairs])
    assert np.ptp(theirs) > 1e-4
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_authors_activation_is_read_from_the_files():
    fake_reranker(NAMES[0])
    fake_reranker(NAMES[2])
    models = (load_reranker(settings_of(name)) for name in (NAMES[0], NAMES[2]))
    kinds = [type(model.activation_fn).__name__ for model in models]
    assert kinds == ['Identity', 'Sigmoid']  # as written before version 4; the default


def test_gte_is_converted_with_its_head():
    name = 'tiny-gte-reranker'
    fake_reranker(name)
    model = load_reranker(settings_of(name))
    assert model.model.classifier.weight.shape == (1, 64)
    topics, corpus, pairs = texts()
    scores = score_pairs(model, topics, corpus, pairs)
    assert np.unique(scores).size > len(pairs) // 2


@pytest.mark.parametrize(
    ('fault', 'problem'),
    [
        ('no safetensors', 'it has no model.safetensors; other formats can carry code'),
        ('two outputs', 'it has 2 outputs; a reranker has one'),
        ('own code', "its architecture 'own' is code in the repository, which is never run"),
        ('no head', 'its head would be random'),
    ],
)
def test_what_cannot_be_measured_is_one_message(fault, problem):
    fake_reranker(NAMES[0], fault)
    with pytest.raises(KitError, match=problem) as error:
        load_reranker(settings_of(NAMES[0]))
    assert '\n' not in str(error.value)


def test_another_model_than_the_one_described_is_an_error():
    spec = BACKBONES[NAMES[2]]
    fake_reranker(NAMES[2])
    config = settings_of(NAMES[0], repo=spec.repo, revision=spec.revision)
    with pytest.raises(KitError, match='this is another model than the one described'):
        reranker_folder(config)


def test_a_t5_reranker_is_no_sequence_classifier():
    config = dict(model_type='t5', architectures=['T5ForConditionalGeneration'])
    assert 'not a sequence classifier' in reranker_problem(config)


def test_an_unknown_commit_stops_before_anything_is_fetched():
    config = make_config(
        released_settings(
            reranker='ms-marco-minilm-l6-v2',
            study='model-zoo',
            collection='msmarco',
            passage_words=None,
            test_topics=None,
        )
    )
    assert config.revision is None
    with pytest.raises(KitError, match='without its commit; `reproduce data pin model-zoo`'):
        reranker_folder(config)
