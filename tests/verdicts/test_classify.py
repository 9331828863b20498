"""The verdict on one number, without runs: tolerances, edges, disagreeing references."""

from types import SimpleNamespace

import numpy as np
import pytest

from reproduce_kit.core import KitError
from reproduce_kit.data.published import read_paper
from reproduce_kit.verdicts.cells import (
    CellVerdict,
    cells_to_check,
    exit_code,
    mark_outside,
    printed_cells,
)
from reproduce_kit.verdicts.states import classify, compare_values
from reproduce_kit.verdicts.tolerances import Tolerance, by_rounding, by_seeds, pooled_spread

PAPER = read_paper('lion-vs-adamw')
TOLERANCE = Tolerance(0.01, 0.02, 'seeds', 4)
MARGIN = 0.005


def state(ours, tolerance=TOLERANCE, **others):
    return classify(ours, '0.7000', tolerance, MARGIN, **others)[0]


# Tolerances and margins


@pytest.mark.parametrize('ours', [0.7, 0.71005, 0.67995])
def test_the_edges_of_the_tolerance_are_compatible(ours):
    """Ours may be 0.01 above and 0.02 below, and half a digit."""
    assert state(ours) == 'compatible'


@pytest.mark.parametrize('ours', [0.71006, 0.67994])
def test_past_an_edge_it_differs(ours):
    assert state(ours) == 'differs'


@pytest.mark.parametrize(
    'ours, half, expected',
    [
        (0.7000, 0.005, 'reproduced'),
        (0.7000, 0.0052, 'compatible'),  # the interval is wider than the margin
        (0.7030, 0.002, 'reproduced'),  # outside our interval, but all of it is near enough
        (0.7060, 0.002, 'differs'),
        (0.7100, 0.200, 'compatible'),  # to know little is not to reproduce
    ],
)
def test_reproduced_is_the_whole_interval_within_the_margin(ours, half, expected):
    assert state(ours, Tolerance(half, half, 'seeds', 4)) == expected


def test_rounding_accepts_half_a_unit_of_the_last_digit_and_knows_no_margin():
    states = [
        classify(ours, '0.506', by_rounding(), MARGIN)[0]
        for ours in (0.5058, 0.5055, 0.5065, 0.50549, 0.50651)
    ]
    assert states == ['reproduced'] * 3 + ['differs'] * 2


def test_higher_than_printed_is_not_a_pass():
    verdict, why = classify(0.9, '0.7000', TOLERANCE, MARGIN)
    assert verdict == 'differs'
    assert why.endswith('above what is printed')


def test_a_band_for_many_cells_is_wider_and_for_one_the_same():
    one, many = TOLERANCE.simultaneous(1), TOLERANCE.simultaneous(108)
    assert (one.low, one.high) == (TOLERANCE.low, TOLERANCE.high)
    assert many.low > 2 * one.low
    assert by_rounding().simultaneous(108) == by_rounding()


# Obstacles


def test_without_a_run_there_is_no_verdict():
    assert state(None) == 'not-run'


def test_an_obstacle_comes_first():
    assert state(0.7, obstacle='another collection') == 'not-comparable'
    assert state(None, obstacle='another collection') == 'not-comparable'


def test_a_missing_value_is_an_error():
    with pytest.raises(KitError, match='our value is nan'):
        state(float('nan'))


# References that disagree


@pytest.mark.parametrize('raw', ['0.7000', '0.69995', '0.7001'])
def test_references_agree_up_to_their_digits(raw):
    """The same number with more digits; a last digit that was rounded twice."""
    assert state(0.7, others={'raw': raw}) == 'compatible'


def test_the_state_depends_on_the_source_if_the_references_give_two():
    assert state(0.7, others={'raw': '0.6571'}) == 'depends on the source'
    assert state(0.7, others={'raw': '0.7002'}) == 'compatible'  # with both
    assert state(0.5, others={'raw': '0.7002'}) == 'differs'  # from both


def test_every_reference_is_named_with_its_state():
    why = classify(0.7, '0.7000', TOLERANCE, MARGIN, {'raw': '0.6571'})[1]
    assert 'this reference reads 0.7000 (compatible), raw reads 0.6571 (differs)' in why


# Printed cells


def test_every_reference_has_its_cells():
    counts = {source: len(printed_cells(PAPER, source)) for source in PAPER.sources}
    rows, abstract = dict(draft=108, raw=108, appendix=90, thesis=30, second=60), {'arxiv-v1': 4}
    assert counts == rows | abstract
    thesis = printed_cells(PAPER, 'thesis')
    assert thesis['answerdotai/ModernBERT-base', 'Lion', '2', 'nDCG@10'] == '0.7225'
    raw = printed_cells(PAPER, 'raw')
    minilm = 'microsoft/MiniLM-L12-H384-uncased'
    assert raw[minilm, 'Lion', '3', 'mrr10_qa_v11'] == '0.5988'


def test_a_cell_knows_the_other_references_and_rows():
    cells = cells_to_check(PAPER, 'draft')
    assert len(cells) == 108
    assert {len(cell.peers) for cell in cells} == {17}
    others = {name for cell in cells for name in cell.others}
    assert others == {'raw', 'appendix', 'thesis', 'arxiv-v1'}
    assert all('raw' in cell.others for cell in cells)


def test_other_runs_contest_no_cell():
    """The second result table is of other runs: a reference of its own."""
    cells = cells_to_check(PAPER, 'second')
    assert len(cells) == 60
    assert all(cell.others == {} for cell in cells)


# Exit code


@pytest.mark.parametrize(
    'states, code',
    [
        ([], 0),
        (['depends on the source'], 0),
        (['reproduced', 'compatible'], 0),
        (['reproduced', 'differs'], 0),  # by chance, inside the band of all cells
        (['reproduced', 'outside'], 1),
        (['not-run', 'outside'], 1),
        (['not-run'], 3),
        (['reproduced', 'not-run'], 3),
        (['not-comparable'], 3),
    ],
)
def test_exit_codes(states, code):
    cells = [SimpleNamespace(state=state, is_outside=state == 'outside') for state in states]
    assert exit_code(cells) == code


# Whole tables


MODELS, ROWS, EPOCHS, MEASURES, SEEDS = 3, 6, 3, 6, 5


def simulated_runs(rng, levels, size):
    """Means of runs, rows x epochs x measures x size: the seed moves all cells of a run."""
    shared = rng.normal(0, 0.004, (ROWS, 1, 1, size))
    own = rng.normal(0, 0.003, (ROWS, EPOCHS, MEASURES, size))
    return levels[..., None] + shared + own


def judged_table(rng, shift=0.0):
    """The verdicts on 108 printed cells, from five seeds a row; one model moved by `shift`."""
    levels = rng.uniform(0.2, 0.8, (ROWS, EPOCHS, MEASURES))
    printed = simulated_runs(rng, levels, 1)[..., 0]
    levels[:2] += shift
    ours = simulated_runs(rng, levels, SEEDS)
    verdicts = []
    for measure in range(MEASURES):
        spread = pooled_spread(list(ours[:, :, measure]))
        for row in range(ROWS):
            for epoch in range(EPOCHS):
                seeds, text = ours[row, epoch, measure], f'{printed[row, epoch, measure]:.4f}'
                tolerance = by_seeds(seeds, spread)
                mean = float(seeds.mean())
                outcome = compare_values(mean, text, tolerance, 0.01)
                cell = SimpleNamespace(printed=text)
                verdicts.append(CellVerdict('r', cell, mean, tolerance, outcome, '', []))
    return mark_outside(verdicts)


def share_of_failures(simulations, **options):
    rng = np.random.default_rng(12)
    codes = [exit_code(judged_table(rng, **options)) for _ in range(simulations)]
    return sum(code == 1 for code in codes) / simulations


def test_a_perfect_re_run_fails_in_at_most_one_of_twenty_cases():
    assert share_of_failures(400) <= 0.05


def test_a_re_run_that_is_off_in_one_model_fails():
    """By 0.02, four standard deviations of a run."""
    assert share_of_failures(100, shift=0.02) >= 0.8


def test_without_the_band_nearly_every_perfect_re_run_would_fail():
    rng = np.random.default_rng(12)
    tables = [judged_table(rng) for _ in range(50)]
    assert sum(any(v.state == 'differs' for v in table) for table in tables) > 25
