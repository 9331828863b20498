"""Mistakes in the file of an encoder, and the messages that name them."""

import pytest
from conftest import ROOT

from reproduce_kit.config.encoders import BiEncoderSettings, EncoderSettings, read_settings
from reproduce_kit.core import KitError

CORRECT = (ROOT / 'params/tite/encoders/tite-k2-docs.yaml').read_text()


@pytest.mark.parametrize(
    'old, new, message',
    [
        ('arrangement: 1', 'arrangement: 8', 'expected less than or equal to 7'),
        ('seed: 12', 'sed: 12', "unknown key 'sed'; did you mean 'seed'"),
        ('text: docs', 'text: fineweb-edu', 'words: write null'),
        ('[bow, mae]', '[bow, bow]', 'twice'),
        ('[bow, mae]', '[]', 'objectives'),
        ('[bow, mae]', '[bow, mlm]', 'mlm needs a vector for each token'),
        ('width: 192', 'width: 200', 'not a multiple of 64'),
        ('learning_rate: 5.0e-4', 'learning_rate: 5e-4', 'write 0.0005'),
    ],
)
def test_an_impossible_value_is_named_with_its_remedy(tmp_path, old, new, message):
    folder = tmp_path / 'encoders'
    folder.mkdir()
    assert old in CORRECT
    (folder / 'tite-k2-docs.yaml').write_text(CORRECT.replace(old, new))
    with pytest.raises(KitError) as error:
        read_settings(EncoderSettings, [folder])
    assert message in str(error.value)


def test_files_of_another_kind_are_skipped(tmp_path):
    folder = tmp_path / 'encoders'
    folder.mkdir()
    (folder / 'tite-k2-docs.yaml').write_text(CORRECT)
    assert read_settings(BiEncoderSettings, [folder]) == []
