"""All gaps of all sources in one figure."""

import copy

import pytest

from reproduce_kit.data.published import read_paper
from reproduce_kit.verdicts.effects import compare_effects
from reproduce_kit.verdicts.evidence import collect_evidence
from reproduce_kit.verdicts.forest import Gap, forest_figure, own_gaps, printed_gaps

PAPER = read_paper('lion-vs-adamw')
EVIDENCE = collect_evidence('lion-vs-adamw')
SOURCES = ('draft', 'raw', 'second')


def test_gaps_are_the_effects_of_the_sources():
    effects = compare_effects(PAPER, 'draft', 'raw')
    for gap in printed_gaps(EVIDENCE, 'nDCG@10', SOURCES):
        if gap.source in ('draft', 'raw'):
            column = 'first' if gap.source == 'draft' else 'second'
            expected = effects.loc[gap.model, 'nDCG@10', gap.epoch][column]
            assert gap.value == pytest.approx(expected)


def test_only_a_source_with_values_by_topic_has_intervals():
    gaps = printed_gaps(EVIDENCE, 'MAP', SOURCES)
    with_interval = {(gap.source, gap.model) for gap in gaps if gap.low is not None}
    assert with_interval == {('raw', 'MiniLM'), ('raw', 'GTE')}


def test_runs_of_our_own_are_a_source_of_their_own():
    ours = copy.deepcopy(EVIDENCE)
    ours.tables['our runs (as-run)'] = ours.tables['raw outputs']
    ours.topics['our runs (as-run)'] = ours.topics['raw outputs']
    gaps = own_gaps(ours, 'MAP')
    assert {gap.source for gap in gaps} == {'our runs (as-run)'}
    assert len(gaps) == 9


def test_the_figure_has_a_line_per_model_and_epoch():
    gaps = {name: printed_gaps(EVIDENCE, name, SOURCES) for name in ('nDCG@10', 'MAP')}
    figure = forest_figure(PAPER, gaps)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 9
    assert 'GTE, epoch 3' in labels


def test_an_interval_without_width_is_drawn():
    """Two runs that differ by the same amount on every topic: the mean differs by a rounding."""
    gap = Gap('draft', 'GTE', 3, 0.1, 0.1 + 1e-16, 0.1 - 1e-16)
    assert gap.high < gap.value < gap.low
    figure = forest_figure(PAPER, {'nDCG@10': [gap], 'MAP': [gap]})
    assert len(figure.axes) == 2


def test_a_paper_with_one_measure_has_one_panel():
    figure = forest_figure(PAPER, {'MAP': printed_gaps(EVIDENCE, 'MAP', SOURCES)})
    (panel,) = figure.axes
    assert len(panel.get_yticklabels()) == 9


def test_any_number_of_sources_can_be_told_apart():
    gaps = [Gap(f'recipe {i}', 'GTE', 3, 0.1) for i in range(12)]
    figure = forest_figure(PAPER, {'nDCG@10': gaps, 'MAP': gaps})
    looks = {(line.get_marker(), line.get_color()) for line in figure.legends[0].get_lines()}
    assert len(looks) == 12
