"""Mistakes in a parameter file, and the messages that name them."""

import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError

MSMARCO = dict(
    collection='msmarco',
    passage_words=None,
    test_topics=None,
    hard_share=None,
    train_triplets=100,
    train_pairs=180,
    dev_pairs=20,
    test_sets=['dl19', 'qa'],
)


@pytest.mark.parametrize(
    'message, changes',
    [
        ("unknown key 'learning_rat'; did you mean 'learning_rate'?", dict(learning_rat=1.0e-3)),
        ("learning_rate: expected greater than 0; found -0.1", dict(learning_rate=-0.1)),
        ("did you mean 'lion'?", dict(optimizer='lio')),
        ("'minilm-l6' is unknown; did you mean 'minilm-l6-h384'?", dict(backbone='minilm-l6')),
        ("layers: 7 asked of minilm-l6-h384, which has 6", dict(layers=7)),
        ("layers: 2 asked of bert-docs, whose 6 belong", dict(backbone='bert-docs', layers=2)),
        ("epochs: expected an integer; found 2.5", dict(epochs=2.5)),
        ("YAML reads 4e3 as text, write 4000;", dict(train_pairs='4e3')),
        ("max_grad_norm", dict(max_grad_norm=float('inf'))),
        ("must be a multiple of log_steps (2)", dict(save_steps=3, log_steps=2)),
        ("passage_words: needed, since the collection is 'docs'", dict(passage_words=None)),
        ("hard_share: write null, since the collection", MSMARCO | dict(hard_share=0.5)),
        ("are more than 100 triplets give (200 pairs)", MSMARCO | dict(train_pairs=190)),
        ("'nanobeir' does not go with 'docs'; write 'dev' or", dict(select_on='nanobeir')),
        ("device_batch: 6 does not divide global_batch (16)", dict(device_batch=6)),
        ("128 is more than an epoch's 64 train_pairs", dict(global_batch=128)),
        ("schedule_updates: write null", dict(schedule_updates=100, schedule='none')),
        ("gpu_fallbacks: write [] where gpu is null", dict(gpu_fallbacks=['H100'])),
        ("'pairs' is for msmarco", dict(holdout='pairs')),
        ("final_test_sets: 'test' is measured already", dict(final_test_sets=['test'])),
        ("final_test_sets: 'dev' is measured already", dict(final_test_sets=['dev', 'dev'])),
        ("'held-out' is for msmarco with", dict(final_test_sets=['held-out'])),
        ("score_precision: expected 'fp32', 'tf32' or 'bf16'", dict(score_precision='fp16')),
        (
            "computes in bf16 only",
            dict(attention='flash_attention_2', precision='fp32'),
        ),
    ],
)
def test_an_impossible_value_is_named_with_its_remedy(message, changes):
    with pytest.raises(KitError) as error:
        make_config(example_settings(**changes))
    assert message in str(error.value)


def test_a_missing_key_is_named_with_its_meaning():
    settings = example_settings()
    del settings['seed']
    with pytest.raises(KitError, match=r"key 'seed' is missing \(source of every random choice\)"):
        make_config(settings)


def test_msmarco_settings_fit_together():
    assert make_config(example_settings(**MSMARCO)).updates == 22


def test_every_setting_but_placement_changes_the_identity():
    identity = make_config(example_settings()).identity
    assert identity == make_config(example_settings(workers=4, gpus=2, cpus=2)).identity
    for change in (dict(seed=13), dict(name='other'), dict(epochs=1), dict(beta2=0.98)):
        assert make_config(example_settings(**change)).identity != identity


@pytest.mark.parametrize(
    'default, other',
    [
        (dict(final_test_sets=[]), dict(final_test_sets=['unseen'])),
        (dict(score_precision=None), dict(score_precision='bf16')),
    ],
)
def test_a_key_of_the_evaluation_is_part_of_the_identity_where_it_is_no_default(default, other):
    plain = make_config(example_settings())
    assert plain.identity == make_config(example_settings(**default)).identity
    assert plain.identity != make_config(example_settings(**other)).identity
