"""Exact search against all dot products at once."""

import numpy as np
import pytest
import torch

from reproduce_kit.evaluation.dense import exact_search, load_bi_encoder
from reproduce_kit.models.tite import TiteModel
from reproduce_kit.models.tite_config import TiteConfig
from reproduce_kit.models.tite_files import save_bi_encoder, tite_tokenizer

CORPUS = {f'd{i}': f'w{i} w{i}' for i in range(40)}
TOPICS = {'1': 'w3 w3', '2': 'w7 w7'}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A TITE bi-encoder with random weights."""
    torch.manual_seed(12)
    folder = tmp_path_factory.mktemp('model')
    words = ['[PAD]', '[UNK]', '[SEP]', '[MASK]', *(f'w{i}' for i in range(40))]
    config = TiteConfig(
        vocab_size=len(words),
        num_hidden_layers=4,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        kernel_size=2,
        stride=2,
        max_position_embeddings=16,
    )
    save_bi_encoder(TiteModel(config), tite_tokenizer(words, 16), folder)
    return load_bi_encoder(folder)


@pytest.mark.parametrize('part', [7, 100_000])
def test_order_is_that_of_all_dot_products(model, part):
    passages, queries = model.encode(list(CORPUS.values())), model.encode(list(TOPICS.values()))
    run = exact_search(model, TOPICS, CORPUS, depth=5, part=part)
    for topic, query in zip(TOPICS, queries):
        best = np.argsort(-(passages @ query), kind='stable')[:5]
        assert list(run[topic]) == [f'd{i}' for i in best]
        assert list(run[topic].values()) == pytest.approx((passages @ query)[best], abs=1e-4)


def test_of_equal_passages_the_first_in_the_corpus_wins(model):
    run = exact_search(model, {'1': 'w3'}, {'b': 'w3 w3', 'a': 'w3 w3', 'c': 'w3 w3'}, part=2)
    assert list(run['1']) == ['b', 'a', 'c']


def test_topics_and_passages_are_cut_to_their_own_lengths(model):
    long, short = 'w3 w4 w5 w6 w7 w8', 'w3 w4'
    whole = exact_search(model, {'1': long}, {'d': short})['1']['d']
    cut = exact_search(model, {'1': long}, {'d': short}, query_tokens=2)['1']['d']
    assert cut == pytest.approx(exact_search(model, {'1': short}, {'d': short})['1']['d'])
    assert cut != pytest.approx(whole)


def test_the_model_keeps_its_own_length(model):
    exact_search(model, TOPICS, CORPUS, query_tokens=4, passage_tokens=8)
    assert model.max_seq_length == 16
