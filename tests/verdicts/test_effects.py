"""Lion minus AdamW in the printed sources."""

import pytest

from reproduce_kit.data.published import read_paper
from reproduce_kit.verdicts.effects import compare_effects, effects_table, printed_means

PAPER = read_paper('lion-vs-adamw')
ROW = ('GTE', 'nDCG@10', 1)


def test_every_source_has_the_rows_that_it_prints():
    counts = {source: len(printed_means(PAPER, source)) for source in PAPER.sources}
    assert counts['draft'] == counts['raw'] == 54
    assert counts['second'] == 30
    assert counts['arxiv-v1'] == 0  # no row has both optimizers


def test_a_source_compared_with_itself_has_the_same_effects():
    effects = compare_effects(PAPER, 'raw', 'raw')
    assert set(effects.ratio.dropna()) == {1}
    assert set(effects.delta) == {0}


def test_effects_follow_from_the_printed_means():
    effects = compare_effects(PAPER, 'draft', 'second').loc[ROW]
    assert effects['first'] == pytest.approx(0.6785 - 0.7224)
    assert effects['second'] == pytest.approx(0.6785 - 0.6912)
    assert effects['ratio'] == pytest.approx((0.6785 - 0.6912) / (0.6785 - 0.7224))
    delta = (0.6785 - 0.7224) / 0.7224 - (0.6785 - 0.6912) / 0.6912
    assert effects['delta'] == pytest.approx(delta)


def test_an_effect_of_almost_nothing_is_not_divided_by():
    ratio = compare_effects(PAPER, 'draft', 'raw').loc['GTE', 'nDCG@10', 3].ratio
    assert ratio != ratio


def test_the_table_has_three_sources_and_their_pairs():
    table = effects_table(PAPER, ('draft', 'raw', 'second'))
    assert table.frame.shape == (18, 9)
    assert 'draft: Table I of the draft of April 2025' in table.caption
