"""Selection by a sweep: its rule, its results on disk, and that it cannot see test judgments."""

import ast
import shutil
from dataclasses import replace

import pytest
from conftest import ROOT

from reproduce_kit.config.files import make_config, read_configs, read_runs
from reproduce_kit.config.settings import example_settings
from reproduce_kit.config.sweep import read_sweep
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import Collection, read_collection, write_collection
from reproduce_kit.data.pairs import load_named_collection, load_pairs
from reproduce_kit.evaluation.test_sets import load_test_sets
from reproduce_kit.results.selection import (
    TrialResult,
    read_results,
    sweep_state,
    trial_result,
    untuned,
    winner,
    write_results,
)
from reproduce_kit.results.trial_budget import budget_sentence

SELECTION = 'reproduce_kit.results.selection'


def kit_imports(module: str) -> set:
    "The kit's modules that a module imports, directly."
    path = ROOT / (module.replace('.', '/') + '.py')
    package = module.split('.')[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.add('.'.join([*base, *([node.module] if node.module else [])]))
    return {name for name in names if name.startswith('reproduce_kit.')}


def all_kit_imports(module: str) -> set:
    "The kit's modules that a module imports, directly or not."
    found, todo = set(), [module]
    while todo:
        for name in kit_imports(todo.pop()) - found:
            found.add(name)
            todo.append(name)
    return found


def result(trial, score):
    "A made-up result of a trial."
    config = trial.config
    point = (config.learning_rate, config.weight_decay, config.warmup)
    left = None if trial.number == 3 else 20
    rest = (0.4, left, 168, 70.0, config.identity, 'dev-1', '2026-11-29')
    return TrialResult(trial.optimizer, trial.number, *point, score, *rest)


def test_selection_imports_no_collection_and_no_judgments():
    rooms = {name.split('.')[1] for name in all_kit_imports(SELECTION)}
    assert rooms <= {'core', 'config', 'store', 'results'}
    results = {n for n in all_kit_imports(SELECTION) if n.startswith('reproduce_kit.results')}
    assert not results


def test_a_trial_that_is_measured_on_test_topics_is_refused():
    sweep = read_sweep('embedded')
    trial = sweep_state('embedded', lambda trial, sweep: None).trials[0]
    seeing = trial.config.model_copy(update=dict(test_sets=['dev', 'test']))
    with pytest.raises(KitError, match='not on dev topics alone'):
        trial_result(replace(trial, config=seeing), sweep)


def small_collection(folder, test_grade):
    "A collection on disk whose test judgments have one grade."
    topics = {f't{i}': f'topic number {i} about word{i}' for i in range(12)}
    corpus = {f'd{i}': f'a passage on word{i} and on other things' for i in range(12)}
    names = list(topics)
    splits = dict(train=names[:6], dev=names[6:9], test=names[9:])
    texts = {split: {t: topics[t] for t in chosen} for split, chosen in splits.items()}
    qrels = {
        split: {t: {f'd{t[1:]}': test_grade if split == 'test' else 3} for t in chosen}
        for split, chosen in splits.items()
    }
    write_collection(Collection('small', corpus, texts, qrels), folder)
    return folder


def test_what_a_trial_reads_is_the_same_whatever_the_test_judgments_are(tmp_path):
    seen = []
    for name, grade in (('a', 3), ('b', 1)):
        folder = small_collection(tmp_path / name, grade)
        load_named_collection.cache_clear()
        config = make_config(
            example_settings(
                collection=str(folder),
                passage_words=None,
                test_topics=None,
                test_sets=['dev'],
                train_pairs=4,
                dev_pairs=4,
                global_batch=2,
                device_batch=2,
                depth=3,
            )
        )
        dev = load_test_sets(config)['dev']
        seen.append((load_pairs(config)['fingerprint'], dev.topics, dev.qrels, dev.candidates))
    a, b = (read_collection(tmp_path / name) for name in 'ab')
    assert a.qrels['test'] != b.qrels['test']
    assert seen[0] == seen[1]


def test_the_best_score_wins_and_of_equal_ones_the_smaller_rate():
    trials = sweep_state('embedded', lambda trial, sweep: None).trials
    adamw = [trial for trial in trials if trial.optimizer == 'adamw']
    rates = {trial.number: trial.config.learning_rate for trial in adamw}
    equal = [result(trial, 0.5) for trial in adamw]
    assert winner(equal, 'adamw').learning_rate == min(rates.values())
    better = [result(trial, 0.5 + (trial.number == 4) / 100) for trial in adamw]
    assert winner(better, 'adamw').number == 4


def test_a_given_point_does_not_win():
    trials = sweep_state('embedded', lambda trial, sweep: None).trials
    drawn = [result(trial, 0.5) for trial in trials]
    given = replace(drawn[0], number=99, score=0.9, is_given=True)
    best = winner([*drawn, given], drawn[0].optimizer)
    assert (best.score, best.is_given) == (0.5, False)


def test_results_are_read_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path))
    state = sweep_state('embedded', lambda trial, sweep: result(trial, 0.4 + trial.number / 100))
    write_results('embedded', state)
    assert read_results('embedded') == state.results


def test_trials_on_two_versions_of_the_dev_topics_are_refused():
    def result_of(trial, sweep):
        return replace(result(trial, 0.5), dev_set=f'dev-{trial.number % 2}')

    with pytest.raises(KitError, match='2 versions of the dev topics'):
        sweep_state('embedded', result_of)


def test_results_that_are_not_there_say_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path))
    with pytest.raises(KitError, match='reproduce sweep embedded'):
        read_results('embedded')


def test_curves_that_cross_say_that_the_budget_decides():
    lion, adamw = [0.49, 0.5, 0.5, 0.51], [0.3, 0.35, 0.4, 0.52]
    sentence = budget_sentence(dict(lion=lion, adamw=adamw))
    assert 'Lion is ahead below 4 trials, AdamW from 4 on' in sentence


def test_the_committed_rates_are_those_of_the_sweep(monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(ROOT / 'paper'))
    results = read_results('embedded')
    for optimizer in ('adamw', 'lion'):
        config = read_runs(ROOT / f'params/embedded/minilm-l4-{optimizer}.yaml')[0]
        best = winner(results, optimizer)
        chosen = (config.learning_rate, config.weight_decay, config.warmup)
        assert chosen == (best.learning_rate, best.weight_decay, best.warmup)


def test_seeds_of_the_study_are_not_those_of_its_sweep():
    seeds = {config.seed for config in read_configs([ROOT / 'params/embedded'])}
    assert read_sweep('embedded').seed not in seeds


def test_files_with_other_settings_than_the_winners_are_untuned(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(ROOT / 'paper'))
    assert untuned('embedded') == {}
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    shutil.copytree(ROOT / 'params/embedded', tmp_path / 'params/embedded')
    file = tmp_path / 'params/embedded/minilm-l4-lion.yaml'
    text = file.read_text()
    assert 'learning_rate: 1.4e-5' in text
    file.write_text(text.replace('learning_rate: 1.4e-5', 'learning_rate: 2.0e-5'))
    assert untuned('embedded') == {file.name: '`reproduce sweep embedded` found others'}
