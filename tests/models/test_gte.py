"""GTE's native encoder against the original's arithmetic, written out from its published weights' names."""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.config.files import example_settings, make_config
from reproduce_kit.core import read_json
from reproduce_kit.data.hub import fetch
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.testing.fake_hub import fake_model


def original(w, cfg, ids):
    """The encoder as the hub's own code computes it: embeddings, rotary attention with NTK scaling, post-norm, gated MLP."""
    n, heads = ids.shape[1], cfg['num_attention_heads']
    d = cfg['hidden_size'] // heads
    norm = lambda x, name: F.layer_norm(
        x, (cfg['hidden_size'],), w[name + '.weight'], w[name + '.bias'], cfg['layer_norm_eps']
    )
    x = norm(
        w['new.embeddings.word_embeddings.weight'][ids]
        + w['new.embeddings.token_type_embeddings.weight'][0],
        'new.embeddings.LayerNorm',
    )
    s = cfg['rope_scaling']['factor']
    omega = 1 / (cfg['rope_theta'] * s) ** (torch.arange(0, d, 2).float() / d) / s ** (2 / d)
    angle = torch.arange(n).float()[:, None] * omega
    cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
    turn = lambda v: v * cos + torch.cat([-v[..., d // 2 :], v[..., : d // 2]], -1) * sin
    for i in range(cfg['num_hidden_layers']):
        p = f'new.encoder.layer.{i}.'
        q, k, v = (
            F.linear(x, w[p + 'attention.qkv_proj.weight'], w[p + 'attention.qkv_proj.bias'])
            .view(1, n, 3, heads, d)
            .permute(2, 0, 3, 1, 4)
        )
        a = torch.softmax(turn(q) @ turn(k).transpose(-1, -2) / math.sqrt(d), -1) @ v
        x = norm(
            x
            + F.linear(
                a.transpose(1, 2).reshape(1, n, -1),
                w[p + 'attention.o_proj.weight'],
                w[p + 'attention.o_proj.bias'],
            ),
            p + 'attn_ln',
        )
        up, gate = F.linear(x, w[p + 'mlp.up_gate_proj.weight']).split(cfg['intermediate_size'], -1)
        x = norm(
            x
            + F.linear(
                F.gelu(gate) * up, w[p + 'mlp.down_proj.weight'], w[p + 'mlp.down_proj.bias']
            ),
            p + 'mlp_ln',
        )
    return x


def test_native_equals_original(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path))
    fake_model('tiny-gte')
    spec = BACKBONES['tiny-gte']
    folder = fetch(spec.repo, spec.revision, ['*'])
    stored = load_file(folder / 'model.safetensors')
    assert {t.dtype for t in stored.values()} == {torch.float16}
    w = {k: v.float() for k, v in stored.items()}
    cfg = read_json(folder / 'config.json')
    model = load_backbone(
        make_config(example_settings(backbone='tiny-gte', layers=2, dropout=0.0, max_length=512))
    ).model.eval()
    for i in range(2):  # fresh weights attend to everything alike: make positions matter
        w[f'new.encoder.layer.{i}.attention.qkv_proj.weight'] *= 25
        for part in 'qkv':
            getattr(model.gte.layers[i].self_attn, f'{part}_proj').weight.data *= 25
    ids = torch.randint(4, 1900, (1, 400), generator=torch.Generator().manual_seed(12))
    with torch.no_grad():
        got, want = model.gte(ids.to(model.device)).last_hidden_state.cpu(), original(w, cfg, ids)
        model.gte.rotary_emb.inv_freq.copy_(
            1 / 160_000.0 ** (torch.arange(0, 16, 2).float() / 16)
        )  # transformers' default for this class
        off = model.gte(ids.to(model.device)).last_hidden_state.cpu()
    assert (got - want).abs().max() < 2e-4, (got - want).abs().max()
    assert (off - want).abs().max() > 0.1, (off - want).abs().max()  # the test would notice
