"""The kit's rerankers in PyTerrier and MTEB: the same scores, rankings and measures."""

import pandas as pd
import pytest
import torch

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import write_json
from reproduce_kit.data.trec import ranking
from reproduce_kit.doors.reranker import load_reranker
from reproduce_kit.evaluation.metrics import evaluate
from reproduce_kit.evaluation.rerank import rerank
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.store.run import open_run

TOPICS = {'q1': 'how long do fleas live', 'q2': 'which fish is orange', 'q3': 'do ants sleep'}
CORPUS = {
    'd1': 'Fleas live up to a year.',
    'd2': 'Goldfish are orange, and they grow for as long as they live in a pond.',
    'd3': 'A flea bite itches.',
    'd4': 'Ants sleep for a minute at a time, two hundred and fifty times a day.',
    'd5': 'Ants sleep.',
    'd6': 'Ants sleep.',  # the same text: a tie
}
CANDIDATES = {
    'q1': {'d3': 3.0, 'd1': 2.0, 'd2': 1.0},
    'q2': {'d1': 2.0, 'd2': 1.0},
    'q3': {'d5': 4.0, 'd6': 3.0, 'd4': 2.0, 'd1': 1.0},
}
QRELS = {'q1': {'d1': 2, 'd3': 1}, 'q2': {'d2': 1}, 'q3': {'d6': 2, 'd4': 1}}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run with a pretrained encoder and a head of large random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_RUNS', str(tmp_path_factory.mktemp('runs')))
        run = open_run(make_config(example_settings(epochs=1, max_length=20)))
    model = load_backbone(run.cfg)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in (model.model.bert.pooler.dense, model.model.classifier):
            layer.weight.normal_(std=0.5, generator=generator)
    model.save_pretrained(str(run.epoch(1) / 'model'), create_model_card=False)
    write_json(run.folder / 'done.json', dict(selected=None))
    return run


@pytest.fixture(scope='module')
def ours(run):
    """What the kit's own reranking gives."""
    return rerank(load_reranker(run).model, TOPICS, CORPUS, CANDIDATES)


def test_the_scores_of_the_example_are_not_all_alike(ours):
    scores = [score for docs in ours.values() for score in docs.values()]
    assert max(scores) - min(scores) > 0.01


# --- PyTerrier ---


@pytest.fixture(scope='module')
def pt():
    return pytest.importorskip('pyterrier', reason="`pip install 'reproduce-kit[pyterrier]'`")


@pytest.fixture(scope='module')
def transformer(pt, run):
    from reproduce_kit.doors.pyterrier import KitReranker

    return KitReranker(run)


def first_stage():
    return pd.DataFrame(
        [
            dict(qid=qid, query=TOPICS[qid], docno=docno, text=CORPUS[docno], score=score)
            for qid, docs in CANDIDATES.items()
            for docno, score in docs.items()
        ]
    )


def by_topic(frame, column):
    rows = frame.groupby('qid')
    return {qid: dict(zip(part['docno'], part[column])) for qid, part in rows}


def test_pyterrier_gets_the_scores_of_rerank(transformer, ours):
    scores = by_topic(transformer(first_stage()), 'score')
    assert scores == {qid: pytest.approx(docs, abs=1e-5) for qid, docs in ours.items()}


def test_pyterrier_gets_the_ranks_of_trec_eval_ties_included(transformer):
    ranked = transformer(first_stage())
    scores = by_topic(ranked, 'score')
    assert scores['q3']['d5'] == scores['q3']['d6']
    ranks = by_topic(ranked, 'rank')
    assert {q: sorted(docs, key=docs.get) for q, docs in ranks.items()} == {
        q: ranking(docs) for q, docs in scores.items()
    }


def test_a_pyterrier_experiment_measures_what_the_kit_measures(pt, transformer, ours):
    topics = pd.DataFrame([dict(qid=qid, query=query) for qid, query in TOPICS.items()])
    qrels = pd.DataFrame(
        [
            dict(qid=q, docno=d, label=grade)
            for q, docs in QRELS.items()
            for d, grade in docs.items()
        ]
    )
    pipeline = pt.Transformer.from_df(first_stage()) >> transformer
    table = pt.Experiment([pipeline], topics, qrels, ['ndcg_cut_10'], round=6)
    expected = evaluate(ours, QRELS)['nDCG@10'].mean()
    assert table['ndcg_cut_10'][0] == pytest.approx(expected, abs=1e-5)


def test_the_order_of_pyterriers_rows_changes_nothing(transformer):
    frame = first_stage()
    one = transformer(frame)
    other = transformer(frame.sample(frac=1, random_state=1))
    assert one['docno'].tolist() == other['docno'].tolist()


def test_pyterrier_sees_another_name_after_other_weights(transformer, run, tmp_path):
    from reproduce_kit.doors.pyterrier import KitReranker

    folder = tmp_path / run.folder.name / 'model'
    model = load_reranker(run).model
    with torch.no_grad():
        model.model.classifier.weight.mul_(2)
    model.save_pretrained(str(folder), create_model_card=False)
    assert repr(KitReranker(folder)).split('-')[-1] != repr(transformer).split('-')[-1]


def test_what_pyterrier_knows_of_the_transformer_is_its_columns(pt, transformer):
    columns = ['qid', 'query', 'docno', 'text']
    assert pt.inspect.transformer_outputs(transformer, columns) == [*columns, 'score', 'rank']


# --- MTEB ---


@pytest.fixture(scope='module')
def mteb():
    return pytest.importorskip('mteb', reason="`pip install 'reproduce-kit[mteb]'`")


@pytest.fixture(scope='module')
def task(mteb):
    """A reranking task of our own, as MTEB's tasks are written."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class AnimalReranking(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name='AnimalReranking',
            description='Three topics.',
            dataset=dict(path='nowhere/animals', revision='1'),
            type='Reranking',
            eval_splits=['test'],
            eval_langs=['eng-Latn'],
            main_score='ndcg_at_10',
        )

        def load_data(self, **options):
            corpus = [dict(id=key, title='', text=text) for key, text in CORPUS.items()]
            queries = [dict(id=key, text=text) for key, text in TOPICS.items()]
            split = dict(
                corpus=Dataset.from_list(corpus),
                queries=Dataset.from_list(queries),
                relevant_docs=QRELS,
                top_ranked={topic: list(docs) for topic, docs in CANDIDATES.items()},
            )
            self.dataset, self.data_loaded = {'default': {'test': split}}, True

    return AnimalReranking()


@pytest.fixture(scope='module')
def wrapped(mteb, run):
    from reproduce_kit.doors.mteb import MtebReranker

    class Recording(MtebReranker):
        """Keeps what it answered."""

        def predict(self, inputs1, inputs2, **about):
            self.answer = super().predict(inputs1, inputs2, **about)
            return self.answer

    return Recording(run)


@pytest.fixture(scope='module')
def result(mteb, wrapped, task):
    return mteb.evaluate(wrapped, task, cache=None, show_progress_bar=False).task_results[0]


def test_mteb_gets_the_scores_of_rerank(result, wrapped, ours):
    expected = [ours[topic][docid] for topic, docs in CANDIDATES.items() for docid in docs]
    assert wrapped.answer == pytest.approx(expected, abs=1e-5)


def test_mteb_measures_what_the_kit_measures(result, ours):
    expected = evaluate(ours, QRELS)['nDCG@10'].mean()
    (scores,) = result.scores['test']
    assert scores['ndcg_at_10'] == pytest.approx(expected, abs=1e-4)  # MTEB rounds


def test_mtebs_own_wrapper_gives_the_same_scores(wrapped, run):
    from datasets import Dataset
    from mteb.models.sentence_transformer_wrapper import CrossEncoderWrapper
    from torch.utils.data import DataLoader

    loaders = [
        DataLoader(Dataset.from_list([dict(text=text) for text in texts]), batch_size=2)
        for texts in (list(TOPICS.values()), list(CORPUS.values())[:3])
    ]
    about = dict(task_metadata=None, hf_split='test', hf_subset='default')
    theirs = CrossEncoderWrapper(load_reranker(run).model).predict(*loaders, **about)
    assert wrapped.predict(*loaders, **about) == pytest.approx(theirs, abs=1e-5)


def test_mteb_keeps_results_under_the_hash_of_the_weights(wrapped):
    meta = wrapped.mteb_model_meta
    assert meta.revision == wrapped.reranker.weights and meta.is_cross_encoder
