"""The distillation losses against their definitions, and an encoder that learns a teacher's
order."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

from reproduce_kit.models.tite import TiteModel
from reproduce_kit.models.tite_config import TiteConfig
from reproduce_kit.models.tite_files import save_bi_encoder, tite_tokenizer
from reproduce_kit.training.distillation import (
    DistilLoss,
    distil_rows,
    info_nce,
    kl_divergence,
    margin_mse,
)

QUERIES, PASSAGES = 3, 4


@pytest.fixture
def scores():
    """(all scores, each query's own scores, the teacher's) in double precision."""
    torch.manual_seed(1)
    queries = torch.randn(QUERIES, 8, dtype=torch.float64)
    passages = torch.randn(QUERIES * PASSAGES, 8, dtype=torch.float64)
    teacher = 4 * torch.randn(QUERIES, PASSAGES, dtype=torch.float64)
    all_scores = queries @ passages.T
    own = torch.stack([row[i * PASSAGES : (i + 1) * PASSAGES] for i, row in enumerate(all_scores)])
    return all_scores, own, teacher


def test_margin_mse_is_the_mean_over_pairs(scores):
    _, own, teacher = scores
    pairs = list(itertools.combinations(range(PASSAGES), 2))
    total = 0
    for student_row, teacher_row in zip(own, teacher):
        for i, j in pairs:
            margin = student_row[i] - student_row[j]
            total += ((teacher_row[i] - teacher_row[j]) - margin) ** 2
    assert abs(margin_mse(own, teacher) - total / (QUERIES * len(pairs))) < 1e-12


def test_kl_divergence_is_teacher_against_student(scores):
    _, own, teacher = scores
    p, q = teacher.softmax(1), own.softmax(1)
    assert abs(kl_divergence(own, teacher) - (p * (p / q).log()).sum(1).mean()) < 1e-12


def info_nce_by_hand(all_scores, teacher, theta, strict, positive_below):
    total = 0
    for i in range(QUERIES):
        best = int(teacher[i].argmax())
        denominator = []
        for column in range(QUERIES * PASSAGES):
            query, passage = divmod(column, PASSAGES)
            margin = teacher[i, best] - teacher[i, passage]
            if query != i:
                is_used = True
            elif passage == best:
                is_used = positive_below
            else:
                is_used = margin > theta if strict else margin >= theta
            if is_used:
                denominator.append(all_scores[i, column])
        total += torch.stack(denominator).logsumexp(0) - all_scores[i, i * PASSAGES + best]
    return total / QUERIES


@pytest.mark.parametrize('theta', [0.0, 3.0, 1e9])
@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('positive_below', [True, False])
def test_info_nce_is_its_definition(scores, theta, strict, positive_below):
    all_scores, _, teacher = scores
    loss = info_nce(all_scores, teacher, theta, strict, positive_below)
    expected = info_nce_by_hand(all_scores, teacher, theta, strict, positive_below)
    assert abs(loss - expected) < 1e-12


def test_info_nce_of_a_lone_positive_is_zero(scores):
    _, own, teacher = scores
    assert abs(info_nce(own[:1], teacher[:1], 1e9)) < 1e-12


@pytest.fixture
def student(tmp_path):
    """A tiny TITE as a bi-encoder; its vocabulary is w0 ... w59."""
    torch.manual_seed(12)
    vocabulary = ['[PAD]', '[UNK]', '[SEP]', '[MASK]', *(f'w{i}' for i in range(60))]
    config = TiteConfig(
        vocab_size=len(vocabulary),
        num_hidden_layers=3,
        hidden_size=48,
        num_attention_heads=4,
        intermediate_size=96,
        kernel_size=2,
        stride=2,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
    )
    save_bi_encoder(TiteModel(config), tite_tokenizer(vocabulary, 8), tmp_path / 'student')
    return SentenceTransformer(str(tmp_path / 'student'), device='cpu')


@pytest.fixture
def rows():
    """Rows of 120 topics of one word each; the teacher likes passages that hold the word."""
    g = np.random.default_rng(2)
    topics = {f't{i}': f'w{i % 60}' for i in range(120)}
    corpus = {}
    for i in range(600):
        words = [f'w{word}' for word in g.integers(0, 60, 6)]
        corpus[f'd{i}'] = ' '.join([*words, f'w{i % 60}'])
    docids = list(corpus)
    teacher = {}
    for i, (topic, word) in enumerate(topics.items()):
        others = docids[(i * 37) % 500 :][:8]
        scored = [*docids[i % 60 :: 60][:4], *others]
        teacher[topic] = {
            docid: 6.0 * (word in corpus[docid].split()) + 0.01 * (int(docid[1:]) % 7)
            for docid in scored
        }
    return distil_rows(topics, corpus, teacher, 8)


def mean_loss(loss, rows) -> float:
    columns = ['query', *(f'passage_{i}' for i in range(1, 9))]
    values = []
    for begin in range(0, 120, 24):
        features = [loss.model.preprocess(rows[c][begin : begin + 24]) for c in columns]
        labels = torch.tensor(rows['label'][begin : begin + 24])
        values.append(float(loss(features, labels).detach()))
    return sum(values) / len(values)


def test_an_encoder_learns_the_teachers_order(student, rows, tmp_path):
    loss = DistilLoss(student)
    before = mean_loss(loss, rows)
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / 'trainer'),
        num_train_epochs=6,
        per_device_train_batch_size=24,
        learning_rate=3e-3,
        report_to='none',
        save_strategy='no',
        logging_strategy='no',
        disable_tqdm=True,
        use_cpu=True,
        seed=12,
    )
    data = Dataset.from_dict(rows)
    SentenceTransformerTrainer(student, arguments, train_dataset=data, loss=loss).train()
    assert mean_loss(loss, rows) < 0.8 * before
