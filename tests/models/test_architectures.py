"""Any encoder that transformers loads as a classifier is a backbone, described in a file of a study."""

import numpy as np
import pytest
import torch
import transformers
import yaml
from small_encoders import ARCHITECTURES, save_backbone

from reproduce_kit.config.backbones import BACKBONES
from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError
from reproduce_kit.evaluation.pair_scoring import score_pairs
from reproduce_kit.models.backbone import load_backbone, sources
from reproduce_kit.testing.fake_hub import fake_words


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A clone with one study, whose `backbones.yaml` the test writes."""
    (tmp_path / 'params/mine').mkdir(parents=True)
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    return tmp_path


def describe(study, **entries):
    (study / 'params/mine/backbones.yaml').write_text(yaml.safe_dump(entries))


def config_for(model_type, **changes):
    settings = dict(backbone=f'my-{model_type}', layers=2, dropout=None, max_length=48)
    return make_config(example_settings(**settings | changes))


def texts():
    rng = np.random.default_rng(3)
    words = fake_words()
    topics = {f'q{i}': ' '.join(rng.choice(words, 3)) for i in range(3)}
    passages = {f'd{i}': ' '.join(rng.choice(words, int(rng.integers(1, 60)))) for i in range(20)}
    return topics, passages, [(q, d) for q in topics for d in passages]


@pytest.mark.parametrize('model_type', ARCHITECTURES)
def test_an_architecture_scores_as_predict_does_with_each_kernel(study, model_type):
    """Cut to two layers, eagerly and with torch's own attention where the architecture has it."""
    describe(study, **{f'my-{model_type}': save_backbone(study, model_type)})
    topics, passages, pairs = texts()
    eager = load_backbone(config_for(model_type, attention='eager'))
    eager.eval()
    assert eager.model.config.num_hidden_layers == 2
    read = [(topics[q], passages[d]) for q, d in pairs]
    expected = eager.predict(read, show_progress_bar=False)
    assert expected.std() > 0
    assert np.abs(score_pairs(eager, topics, passages, pairs) - expected).max() < 1e-5
    if not type(eager.model)._supports_sdpa:
        return
    fast = load_backbone(config_for(model_type, attention='sdpa'))
    fast.eval()
    assert np.abs(score_pairs(fast, topics, passages, pairs) - expected).max() < 1e-5


@pytest.mark.parametrize('model_type', ARCHITECTURES)
def test_dropout_is_set_whatever_an_architecture_calls_it(study, model_type):
    describe(study, **{f'my-{model_type}': save_backbone(study, model_type)})
    config = config_for(model_type, dropout=0.0, attention='eager')
    model = load_backbone(config).train()
    dropouts = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts and set(map(float, dropouts)) == {0.0}


def test_the_seed_decides_the_head_and_a_run_has_the_hash_of_the_weights(study):
    describe(study, **{'my-roberta': save_backbone(study, 'roberta')})
    first, again, other = (
        load_backbone(config_for('roberta', seed=seed)).model.classifier.out_proj.weight.tolist()
        for seed in (12, 12, 13)
    )
    assert first == again != other
    assert len(sources(config_for('roberta'))['weights']) == 64


def test_a_saved_classifier_is_no_backbone(study):
    """Its head would be loaded instead of one that the seed decides."""
    entry = save_backbone(study, 'roberta')
    kind = transformers.RobertaForSequenceClassification
    model = kind.from_pretrained(str(study / 'models/roberta'), num_labels=1)
    model.save_pretrained(str(study / 'models/roberta'))
    describe(study, **{'my-roberta': entry})
    with pytest.raises(KitError, match='brings a head .classifier.out_proj'):
        load_backbone(config_for('roberta'))


@pytest.mark.parametrize(
    'change, problem',
    [
        (dict(folder='models/none'), 'models/none/config.json does not exist; save the model'),
        (dict(sha256='0' * 64), 'expected 000000000000...; correct sha256'),
        (dict(title=7), 'title'),
        (dict(package='numpy'), 'write one of repo, package, folder, encoders; found package and'),
    ],
)
def test_a_wrong_description_is_told(study, change, problem):
    describe(study, **{'my-bert': save_backbone(study, 'bert') | change})
    with pytest.raises(KitError, match=problem):
        load_backbone(config_for('bert'))


def test_another_shape_than_described_is_told(study):
    entry = save_backbone(study, 'bert')
    entry['shape']['hidden_size'] = 64
    describe(study, **{'my-bert': entry})
    with pytest.raises(KitError, match='hidden_size is 32, expected 64'):
        load_backbone(config_for('bert'))


def test_one_name_means_one_backbone(study):
    entry = save_backbone(study, 'bert')
    describe(study, **{'my-bert': entry})
    (study / 'params/other').mkdir()
    (study / 'params/other/backbones.yaml').write_text(yaml.safe_dump({'my-bert': entry}))
    with pytest.raises(KitError, match='my-bert is described in .*/mine/backbones.yaml already'):
        list(BACKBONES)


def test_a_changed_file_is_read_again(study):
    entry = save_backbone(study, 'bert')
    describe(study, **{'my-bert': entry})
    assert list(BACKBONES) == ['my-bert']
    describe(study, **{'my-bert': entry, 'your-bert': entry})
    assert list(BACKBONES) == ['my-bert', 'your-bert']
