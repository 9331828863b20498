"""The explorer without a browser: its size, its words, and what it writes."""

import html
import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from reproduce_kit.config.files import make_config, read_configs
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, one_reading
from reproduce_kit.data.collection import EvalSet
from reproduce_kit.data.trec import write_run
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.publish.explore import explore
from reproduce_kit.publish.ranking_menus import MANY_RUNS, RankingMenu, runs_by_place
from reproduce_kit.publish.topic_differences import Ranking, compare, document_ranks, read_tops
from reproduce_kit.publish.topic_html import missing_text, topic_html
from reproduce_kit.publish.topic_page import View, counts_html, page_html, static_html, write_page
from reproduce_kit.results.run_tables import run_epochs
from reproduce_kit.store.run import Run, run_folder
from reproduce_kit.testing.fake_runs import fake_run

HOSTILE = '</style></option><script>alert(1)</script><img src=x onerror="alert(1)">'
CORPUS = {f'd{i}': f'Passage {i} {HOSTILE}' for i in range(3)}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    return tmp_path / 'runs'


def finished_run(optimizer, count=8, has_text=True, query='topic', lost=0):
    """A run of the demo study on many topics, the last of which no candidate is relevant for."""
    (config,) = (
        config for config in read_configs([ROOT / 'params/demo']) if config.optimizer == optimizer
    )
    topics = {f'q{i}': f'{query} {i}' for i in range(count)}
    gap = np.linspace(0.2, -0.3, count) if optimizer == 'lion' else np.zeros(count)
    values = np.where(np.arange(count) < count - lost, 0.5 + gap, 0)
    index = pd.Index(list(topics), name='qid')
    frame = pd.DataFrame(dict.fromkeys(MEASURES, values), index=index)
    by_epoch = {n: dict.fromkeys(config.test_sets, frame) for n in config.measured_epochs}
    texts = {name: EvalSet(name, topics, {}, {}, CORPUS, 'made up') for name in config.test_sets}
    return fake_run(config, by_epoch, texts if has_text else None)


def comparison(**options):
    a, b = (Ranking(finished_run(name, **options), 1, name) for name in ('lion', 'adamw'))
    return compare(a, b, 'test', 'nDCG@10')


# --- size ---


def all_widgets(widget):
    return [
        widget,
        *(one for child in getattr(widget, 'children', ()) for one in all_widgets(child)),
    ]


def state_bytes(explorer):
    return sum(len(json.dumps(one.get_state(), default=str)) for one in all_widgets(explorer))


def explorer_of(count):
    finished_run('lion', count)
    finished_run('adamw', count)
    return explore('demo')


def test_a_thousand_topics_need_no_more_widgets_than_eight(tmp_path, monkeypatch):
    counts, sizes = [], []
    for count in (8, 1000):
        monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / str(count)))
        explorer = explorer_of(count)
        assert len(explorer.browser.topics.options) == count
        counts.append(len(all_widgets(explorer)))
        sizes.append(state_bytes(explorer))
    assert counts[0] == counts[1] < 40
    assert sizes[1] < 200_000


# --- what is compared ---


def test_a_topic_without_a_relevant_candidate_has_no_headroom(store):
    compared = comparison(lost=2)
    assert set(compared.table.index[compared.table.is_lost]) == {'q6', 'q7'}
    assert '2 have no headroom' in counts_html(compared)
    assert 'no reranker can score here' in topic_html(compared, 'q7')


def test_the_rank_in_the_other_ranking_is_known_below_the_first_ten(store):
    compared = comparison()
    scores = {f'x{i}': 1 - i / 100 for i in range(20)} | {'d0': 0.5}
    write_run(compared.b.folder('test') / 'test.run.gz', {'q0': scores, 'q01': {'d0': 1.0}})
    assert document_ranks(compared.b, 'test', 'q0')['d0'] == 21
    assert '▲ 21 in B' in topic_html(compared, 'q0')


def test_the_first_stage_is_a_ranking(store):
    run = finished_run('lion')
    compared = compare(Ranking(run, 1, 'Lion'), Ranking(run, None, 'BM25'), 'test', 'nDCG@10')
    assert np.allclose(compared.table.b, compared.table.a / 2)
    assert len(read_tops(compared.b, 'test')) == 8


def test_a_run_that_is_alone_is_compared_with_its_first_stage(store):
    finished_run('lion')
    explorer = explore('demo')
    assert explorer.choices.b.ranking.epoch is None


def test_other_topics_are_an_error(store):
    run, other = finished_run('lion', 8), finished_run('adamw', 9)
    with pytest.raises(KitError, match='measure both on the same topics'):
        compare(Ranking(run, 1, 'Lion'), Ranking(other, 1, 'AdamW'), 'test', 'nDCG@10')


def test_runs_of_other_candidates_are_compared_with_a_warning(store):
    run, other = finished_run('lion'), finished_run('adamw')
    other.note(data={'test': 'other'})
    compared = compare(Ranking(run, 1, 'Lion'), Ranking(other, 1, 'AdamW'), 'test', 'nDCG@10')
    assert 'different candidates' in counts_html(compared)


def test_a_study_without_finished_runs_names_those_that_have_some(store, capsys):
    finished_run('lion')
    assert explore('embedded') is None
    assert 'studies with finished runs: demo' in capsys.readouterr().out


def test_an_unknown_measure_is_an_error_with_the_nearest_one(store):
    finished_run('lion')
    with pytest.raises(KitError, match="did you mean 'nDCG@10'"):
        explore('demo', measure='nDCG10')


@pytest.fixture
def run_with_final_sets(store):
    """A run whose last epoch alone was measured on some of its sets."""
    (config,) = (
        config
        for config in read_configs([ROOT / 'params/lion-vs-adamw/as-run'])
        if config.name == 'minilm-lion'
    )
    frame = pd.DataFrame(dict.fromkeys(MEASURES, 0.5), index=pd.Index(['q1', 'q2'], name='qid'))
    sets = dict.fromkeys(config.all_test_sets, frame)
    return fake_run(config, dict.fromkeys(config.measured_epochs, sets))


def test_a_set_that_was_measured_once_is_no_part_of_what_tables_read(run_with_final_sets):
    run = run_with_final_sets
    with one_reading():
        before = {epoch: list(evidence) for epoch, evidence in run_epochs(run)}
        assert run.cfg.final_test_sets[0] in Ranking(run, run.cfg.epochs, '').frames
        assert {epoch: list(evidence) for epoch, evidence in run_epochs(run)} == before


def test_an_epoch_that_was_measured_on_more_sets_later_has_no_values_of_the_last(
    run_with_final_sets,
):
    run = run_with_final_sets
    (run.epoch(1) / f'also-{run.cfg.final_test_sets[0]}').mkdir()  # `reproduce evaluate`
    assert set(Ranking(run, 1, '').frames) == set(run.cfg.test_sets)
    assert set(Ranking(run, run.cfg.epochs, '').frames) == set(run.cfg.all_test_sets)


# --- menus ---


def many_runs(study):
    """More runs of a study than are listed without a search field."""
    configs = [
        make_config(example_settings(study=study, name=f's{seed}', seed=seed))
        for seed in range(MANY_RUNS + 1)
    ]
    return [Run(config, run_folder(config)) for config in configs]


def test_a_search_ends_where_another_study_is_chosen():
    runs = [*many_runs('one'), *many_runs('two')]
    menus = RankingMenu('A', runs_by_place(runs))
    menus.choose(Ranking(runs[0], 1, ''))
    menus.words.value = 'nothing has this name'
    menus.place.value = 'two/smoke'
    assert menus.words.value == '' and len(menus.run.options) == MANY_RUNS + 1
    assert menus.ranking.run.cfg.study == 'two'


def test_a_run_stays_chosen_after_the_search_for_it():
    runs = many_runs('one')
    menus = RankingMenu('A', runs_by_place(runs))
    menus.choose(Ranking(runs[0], 1, ''))
    menus.words.value = 'seed 7'
    menus.run.value = next(run for label, run in menus.run.options if label.endswith('seed 7'))
    menus.epoch.label = 'first stage'
    menus.words.value = ''
    assert len(menus.run.options) == MANY_RUNS + 1
    assert (menus.ranking.run.cfg.seed, menus.ranking.epoch) == (7, None)


# --- texts ---


def test_a_run_that_kept_no_text_shows_its_values_and_says_so(store):
    compared = comparison()
    (compared.b.folder('test') / 'top.jsonl').unlink()
    shown = topic_html(compared, 'q0')
    assert 'A 0.700, B 0.500' in shown and 'kept no text' in shown


def test_a_topic_beyond_those_with_text_says_so(store):
    compared = comparison(count=501)
    assert missing_text(compared, 'q0') == ''
    assert 'first topics of a test set only' in missing_text(compared, 'q500')


@pytest.mark.parametrize('write', [static_html, page_html])
def test_hostile_text_is_escaped_everywhere(store, write):
    compared = comparison(query=HOSTILE)
    page = write(View(compared, topic='q0'))
    assert '<script' not in page and '<img' not in page and page.count('</style>') == 1
    assert '&lt;/style&gt;' in page


def test_hostile_words_of_a_filter_are_escaped(store):
    page = page_html(View(comparison(), words=HOSTILE))
    assert '<script' not in page and '<img' not in page


def test_an_exported_page_says_what_is_left_out_and_loads_nothing(store):
    compared = comparison(count=120)
    path = write_page(View(compared, words='topic 1', topic='q1'))
    page = html.unescape(path.read_text())
    assert path.parent == store / 'demo/explorer' and path.name.endswith('all-topic-1.html')
    assert '39 of 120 topics' in page
    assert "default-src 'none'" in page and 'unsafe-inline' not in page
    assert page.count('<details>') == 39 and 'http' not in page.replace('http-equiv', '')


def test_a_large_page_opens_its_first_topics_only(store):
    page = page_html(View(comparison(count=150)))
    assert page.count('<details>') == 100 and page.count('<p class=line>') == 50
    assert 'the first 100 open to their passages' in page


def test_a_page_of_a_long_search_in_any_script_can_be_written(store):
    path = write_page(View(comparison(), words='検索' * 60))
    assert path.exists() and len(path.name.encode()) < 240
