"""The verdict on one number, without runs: tolerances, edges, disagreeing references."""

from types import SimpleNamespace

import pytest

from reproduce_kit.core import KitError
from reproduce_kit.data.published import read_paper
from reproduce_kit.verdicts.cells import cells_to_check, classify, exit_code, printed_cells
from reproduce_kit.verdicts.tolerances import Tolerance, by_rounding

PAPER = read_paper('lion-vs-adamw')
TOLERANCE = Tolerance(0.01, 0.02, 'seeds')


def state(ours, **others):
    return classify(ours, '0.7000', TOLERANCE, **others)[0]


# Tolerances


@pytest.mark.parametrize('ours', [0.7, 0.71005, 0.67995])
def test_the_edges_are_reproduced(ours):
    """Ours may be 0.01 above and 0.02 below, and half a digit."""
    assert state(ours) == 'reproduced'


@pytest.mark.parametrize('ours', [0.71006, 0.67994])
def test_past_an_edge_it_differs(ours):
    assert state(ours) == 'differs'


def test_rounding_accepts_half_a_unit_of_the_last_digit():
    states = [
        classify(ours, '0.506', by_rounding())[0]
        for ours in (0.5058, 0.5055, 0.5065, 0.50549, 0.50651)
    ]
    assert states == ['reproduced'] * 3 + ['differs'] * 2


def test_higher_than_printed_is_not_a_pass():
    verdict, why = classify(0.9, '0.7000', TOLERANCE)
    assert verdict == 'differs'
    assert why.endswith('above what is printed')


# States


def test_without_a_run_it_is_not_run():
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
    assert state(0.7, others={'raw': raw}) == 'reproduced'


def test_a_cell_is_contested_if_ours_is_near_one_reference():
    assert state(0.7, others={'raw': '0.7002'}) == 'contested'
    assert state(0.5, others={'raw': '0.5000'}) == 'contested'
    assert state(0.5, others={'raw': '0.7002'}) == 'differs'


def test_a_contested_cell_names_every_reference():
    why = classify(0.7, '0.7000', TOLERANCE, {'raw': '0.6571'})[1]
    references = 'this reference reads 0.7000 (near ours), raw reads 0.6571 (not near ours)'
    assert references in why


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
        (['contested'], 0),
        (['reproduced', 'differs'], 1),
        (['not-run'], 3),
        (['reproduced', 'not-run'], 3),
        (['not-comparable'], 3),
    ],
)
def test_exit_codes(states, code):
    cells = [SimpleNamespace(state=state) for state in states]
    assert exit_code(cells) == code
