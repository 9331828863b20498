"""GTE's native encoder against the original's arithmetic, written out with its published
weights' names."""

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import read_json
from reproduce_kit.data.hub import fetch
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.testing.fake_hub import fake_model


def ntk_frequencies(config) -> torch.Tensor:
    """Frequencies of the rotary pairs after NTK scaling, as in the original's code."""
    d = config['hidden_size'] // config['num_attention_heads']
    factor = config['rope_scaling']['factor']
    exponents = torch.arange(0, d, 2).double() / d
    return 1 / (config['rope_theta'] * factor) ** exponents / factor ** (2 / d)


def rotate(x, angle):
    cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def original(weights, config, ids):
    """The encoder as the hub's own code computes it.

    Embeddings, rotary attention, post-norm, gated MLP."""
    n, heads, size = ids.shape[1], config['num_attention_heads'], config['hidden_size']
    d = size // heads

    def norm(x, name):
        scale, shift = weights[f'{name}.weight'], weights[f'{name}.bias']
        return F.layer_norm(x, (size,), scale, shift, config['layer_norm_eps'])

    words = weights['new.embeddings.word_embeddings.weight'][ids]
    types = weights['new.embeddings.token_type_embeddings.weight'][0]
    x = norm(words + types, 'new.embeddings.LayerNorm')
    angle = torch.arange(n).float()[:, None] * ntk_frequencies(config).float()
    for i in range(config['num_hidden_layers']):
        layer = f'new.encoder.layer.{i}'

        def linear(x, name, layer=layer):
            bias = weights.get(f'{layer}.{name}.bias')
            return F.linear(x, weights[f'{layer}.{name}.weight'], bias)

        qkv = linear(x, 'attention.qkv_proj').view(1, n, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = rotate(q, angle) @ rotate(k, angle).transpose(-1, -2) / math.sqrt(d)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, n, -1)
        x = norm(x + linear(attended, 'attention.o_proj'), f'{layer}.attn_ln')
        up, gate = linear(x, 'mlp.up_gate_proj').split(config['intermediate_size'], -1)
        x = norm(x + linear(F.gelu(gate) * up, 'mlp.down_proj'), f'{layer}.mlp_ln')
    return x


@pytest.fixture
def gte(tmp_path, monkeypatch):
    """(the loaded model, the repository's folder) of the tiny GTE."""
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path))
    fake_model('tiny-gte')
    spec = BACKBONES['tiny-gte']
    settings = example_settings(backbone='tiny-gte', layers=2, dropout=0.0, max_length=512)
    return load_backbone(make_config(settings)).model.eval(), fetch(spec.repo, spec.revision, ['*'])


def test_native_equals_original(gte):
    model, folder = gte
    stored = load_file(folder / 'model.safetensors')
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    weights = {name: tensor.float() for name, tensor in stored.items()}
    for i in range(2):  # fresh weights attend to everything alike: make positions matter
        weights[f'new.encoder.layer.{i}.attention.qkv_proj.weight'] *= 25
        for part in 'qkv':
            getattr(model.gte.layers[i].self_attn, f'{part}_proj').weight.data *= 25
    ids = torch.randint(4, 1900, (1, 400), generator=torch.Generator().manual_seed(12))
    with torch.no_grad():
        native = model.gte(ids.to(model.device)).last_hidden_state.cpu()
        expected = original(weights, read_json(folder / 'config.json'), ids)
        default_of_the_class = 1 / 160_000.0 ** (torch.arange(0, 16, 2).float() / 16)
        model.gte.rotary_emb.inv_freq.copy_(default_of_the_class)
        unscaled = model.gte(ids.to(model.device)).last_hidden_state.cpu()
    assert (native - expected).abs().max() < 2e-4
    assert (unscaled - expected).abs().max() > 0.1  # the test would notice


def test_frequencies_are_those_of_ntk_scaling(gte):
    """Also far away, at position 5,000."""
    model, folder = gte
    config = read_json(folder / 'config.json')
    frequencies = ntk_frequencies(config)
    rotary = model.gte.rotary_emb
    cos, _ = rotary(torch.zeros(1, 1, 64), torch.tensor([[5000]]))
    exponents = torch.arange(0, 16, 2).double() / 16
    unscaled = config['rope_theta'] ** -exponents
    assert torch.allclose(rotary.inv_freq.double().cpu(), frequencies, rtol=1e-6)
    assert torch.allclose(cos[0, 0, :8].double(), torch.cos(5000 * frequencies), atol=2e-3)
    assert not torch.allclose(rotary.inv_freq.double().cpu(), unscaled, rtol=0.1)


def test_the_encoder_is_the_files_and_the_head_is_not(gte):
    model, folder = gte
    stored = load_file(folder / 'model.safetensors')
    loaded = dict(model.named_parameters())
    qkv = stored['new.encoder.layer.1.attention.qkv_proj.weight'].float()
    for part, name in zip(qkv.chunk(3), 'qkv'):
        assert torch.equal(part, loaded[f'gte.layers.1.self_attn.{name}_proj.weight'].cpu())
    head = loaded['classifier.weight'].cpu()
    assert not torch.equal(stored['classifier.weight'].float(), head)
