"""Precisions of scores: what is asked for is computed, seen in the manifest, and undone."""

import importlib.util

import numpy as np
import pytest
import torch
from conftest import ROOT
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.core import KitError, atomic_write
from reproduce_kit.evaluation.precision import (
    computing_in,
    note_precision,
    scoring_precision,
)
from reproduce_kit.evaluation.precision_effect import EFFECTS_FILE, effect_line, read_effects
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.store.run import open_run
from reproduce_kit.testing.fake_hub import fake_model, fake_words

spec = importlib.util.spec_from_file_location('precision_tool', ROOT / 'tools/precision.py')
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture(params=['tiny-bert', 'tiny-gte', 'tiny-modernbert'])
def model(request):
    fake_model(request.param)
    settings = SMOKE | dict(backbone=request.param, layers=2, max_length=48, attention='eager')
    return load_backbone(make_config(settings)).eval()


def pairs(count=200):
    rng, words = np.random.default_rng(4), fake_words()
    return [tuple(' '.join(rng.choice(words, n)) for n in (3, 20)) for _ in range(count)]


def scores(model, context=None):
    texts = pairs()
    if context is None:
        return model.predict(texts, show_progress_bar=False)
    with context:
        return model.predict(texts, show_progress_bar=False)


def test_logits_stay_fp32_in_bf16_so_scores_do_not_tie(model):
    before, after = scores(model), scores(model, computing_in('bf16', model))
    assert 0 < np.abs(before - after).max() < 0.02
    assert len(set(after.tolist())) > 0.9 * len(set(before.tolist()))
    assert np.array_equal(scores(model), before)  # nothing of it is left


def test_a_failure_leaves_the_model_and_the_process_as_they_were(model):
    before, mode = scores(model), torch.get_float32_matmul_precision()
    for precision in ('fp32', 'bf16', 'tf32'):
        with pytest.raises(ZeroDivisionError), computing_in(precision, model):
            raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == mode
    assert np.array_equal(scores(model), before)


class Gpu:
    """A device of which only the capability is asked."""

    type = 'cuda'

    def __init__(self, monkeypatch, major):
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (major, 0))
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Tesla')


def test_tf32_is_taken_where_it_is_there(monkeypatch):
    asked = (None, 'fp32', 'tf32', 'bf16')
    new = Gpu(monkeypatch, 8)
    assert [scoring_precision(a, new) for a in asked] == ['tf32', 'fp32', 'tf32', 'bf16']
    old = Gpu(monkeypatch, 7)
    assert [scoring_precision(a, old) for a in asked[:2]] == ['fp32', 'fp32']
    for precision in asked[2:]:
        with pytest.raises(KitError, match=f'{precision} is asked for, but Tesla'):
            scoring_precision(precision, old)


def test_a_manifest_lists_every_precision(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    run = open_run(make_config(SMOKE))
    for precision in ('tf32', 'fp32', 'tf32'):
        note_precision(run, precision)
    assert run.manifest['score_precision'] == ['fp32', 'tf32']


# --- the tool that measures their effect ---


def test_emulated_tf32_rounds_to_ten_bits_ties_to_even():
    numbers = [1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-12, -3.0, 0.0, 1e-20]
    rounded = tool.to_tf32(torch.tensor(numbers)).tolist()
    assert rounded[:7] == [1.0, 1 + 2**-10, 1.0, 1 + 2**-9, 1.0, -3.0, 0.0]
    assert rounded[7] == pytest.approx(1e-20, rel=2**-11)
    values = torch.randn(10_000)
    assert ((tool.to_tf32(values) - values).abs() <= values.abs() * 2**-11).all()


def test_emulated_tf32_lies_between_fp32_and_bf16(model):
    before = scores(model)
    with torch.inference_mode():
        emulated = scores(model, tool.emulated_tf32())
    in_bf16 = scores(model, computing_in('bf16', model))
    off = [np.abs(other - before).max() for other in (emulated, in_bf16)]
    assert 0 < off[0] < off[1]


def test_swaps_are_counted_in_the_top_ten():
    before = {'q': {f'd{i:02}': 20.0 - i for i in range(12)}}
    assert tool.swaps_and_losses(before, before) == (0, 0)
    after = {'q': before['q'] | dict(d00=18.5)}  # behind d01
    assert tool.swaps_and_losses(before, after) == (1, 0)
    after = {'q': before['q'] | dict(d09=0.0)}
    assert tool.swaps_and_losses(before, after) == (0, 1)


def test_a_plan_tells_the_largest_effect_of_all_models(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path))
    assert effect_line('tf32') == ''
    columns = 'model,precision,how,topics,pairs,ndcg,change,low,high,largest,changed_topics,'
    lines = [columns + 'swaps,left,largest_score']
    lines.append('a,tf32,emulated,43,4300,0.5,-0.0002,-0.001,0.001,0.004,2,3,0,0.0001')
    lines.append('b,tf32,emulated,43,4300,0.4,0.0001,-0.001,0.001,0.01,2,3,0,0.0001')
    with atomic_write(tmp_path / EFFECTS_FILE) as file:
        file.write('\n'.join(lines) + '\n')
    assert [effect.change for effect in read_effects('tf32')] == [-0.0002, 0.0001]
    assert read_effects('bf16') == []
    line = effect_line('tf32')
    assert 'at most 0.0002' in line and 'more than 0.0100' in line
    assert 'models: 2, 43 topics x 100 passages' in line
