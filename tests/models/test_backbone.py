"""Backbones: the right weights, cut to depth, under a head that only the seed decides."""

import json
import shutil

import pytest
import torch
from transformers import AutoModel

from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, read_json
from reproduce_kit.data.hub import fetch, install_repository
from reproduce_kit.models.backbone import (
    architecture,
    count_parameters,
    load_backbone,
    load_checkpoint,
    sources,
    weights_folder,
)
from reproduce_kit.testing.fake_hub import fake_model

TINY = ('tiny-bert', 'tiny-gte', 'tiny-modernbert')
PAIRS = [('sort an array', 'Return a sorted copy of an array.'), ('sort an array', 'Open a file.')]


def tiny(backbone, **changes):
    settings = dict(backbone=backbone, layers=2, dropout=None, max_length=64)
    return make_config(example_settings(**settings | changes))


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """The three architectures of the study, tiny, in the hub's cache."""
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path))
    for backbone in TINY:
        fake_model(backbone)


def head(model):
    return model.model.classifier.weight.tolist()


def test_a_cut_encoder_keeps_its_pretrained_layers():
    model = load_backbone(make_config(example_settings(layers=2))).model
    full = AutoModel.from_pretrained(weights_folder('minilm-l6-h384'))
    kept, pretrained = (
        encoder.layer[1].output.dense for encoder in (model.bert.encoder, full.encoder)
    )
    assert model.config.num_hidden_layers == 2
    assert kept.weight.tolist() == pretrained.weight.tolist()


def test_a_matching_head_starts_above_the_same_encoder():
    plain, matching = (
        load_backbone(make_config(example_settings(layers=2, head=head)))
        for head in ('own', 'matching')
    )
    encoders = [model.model.bert.encoder.state_dict() for model in (plain, matching)]
    assert all(torch.equal(encoders[0][name], encoders[1][name]) for name in encoders[0])
    alike, unlike = matching.predict(
        [('sort an array', 'sort an array'), ('sort an array', 'Open a file for reading.')]
    )
    assert alike > unlike


def test_a_matching_head_is_saved_and_loaded(tmp_path):
    model = load_backbone(make_config(example_settings(layers=2, head='matching')))
    model.save_pretrained(str(tmp_path), create_model_card=False)
    again = load_checkpoint(tmp_path)
    assert again.predict(PAIRS).tolist() == model.predict(PAIRS).tolist()


def test_a_matching_head_is_for_bert_alone():
    with pytest.raises(KitError, match="head: 'matching' is for BERT"):
        tiny('tiny-modernbert', head='matching')


def test_parameters_are_counted_without_weights():
    model = load_backbone(make_config(example_settings(layers=2)))
    assert count_parameters(architecture('minilm-l6-h384', 2)) == count_parameters(model)


@pytest.mark.parametrize('backbone', ['minilm-l6-h384', *TINY])
def test_the_seed_decides_the_head(fake_hub, backbone):
    first, again, other = (load_backbone(tiny(backbone, seed=seed)) for seed in (12, 12, 13))
    assert head(first) == head(again) != head(other)


@pytest.mark.parametrize('backbone', TINY)
def test_every_architecture_scores_pairs_in_fp32(fake_hub, backbone):
    model = load_backbone(tiny(backbone))
    ids = model.tokenizer(*PAIRS[0])['input_ids']
    assert model.model.dtype == torch.float32
    assert model.num_labels == 1
    assert model.tokenizer.unk_token_id not in ids
    assert (model.predict(PAIRS) != model.predict(PAIRS[:1] * 2)).any()


def test_a_run_names_the_commit_of_its_model(fake_hub):
    cfg = tiny('tiny-gte')
    repository = BACKBONES['tiny-gte'].repo
    assert sources(cfg)[repository] == BACKBONES['tiny-gte'].revision
    assert len(sources(cfg)['weights']) == 64


def test_another_models_configuration_is_an_error(fake_hub, tmp_path):
    spec = BACKBONES['tiny-bert']
    other = tmp_path / 'other'
    shutil.copytree(fetch(spec.repo, spec.revision, ['*']), other)
    config = read_json(other / 'config.json') | dict(hidden_size=32)
    (other / 'config.json').write_text(json.dumps(config))
    install_repository(spec.repo, spec.revision, other)
    with pytest.raises(KitError, match='hidden_size is 32, expected 64'):
        load_backbone(tiny('tiny-bert'))
