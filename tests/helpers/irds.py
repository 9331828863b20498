"""A data set of ir-datasets, registered from files of ours, to be read by the real code."""

import itertools

import ir_datasets
from ir_datasets.formats import (
    BaseScoredDocs,
    GenericScoredDoc,
    TrecQrels,
    TsvDocPairs,
    TsvDocs,
    TsvQueries,
)
from ir_datasets.util import LocalDownload

_NUMBERS = itertools.count()
GRADES = {0: 'no', 1: 'yes', 2: 'highly'}


class ScoredDocs(BaseScoredDocs):
    """Candidates of a split, as TREC Deep Learning's."""

    def __init__(self, rows):
        self.rows = rows

    def scoreddocs_iter(self):
        return (GenericScoredDoc(*row) for row in self.rows)

    def scoreddocs_path(self):
        return None


def write_tsv(path, rows):
    path.write_text(''.join('\t'.join(map(str, row)) + '\n' for row in rows))
    return LocalDownload(path)


def register(folder, passages: dict, splits: dict) -> str:
    """Register passages and {subset: dict(topics, qrels, pairs, scored)}; return the id."""
    name = f'kit-{next(_NUMBERS)}'
    docs = TsvDocs(write_tsv(folder / 'docs.tsv', passages.items()))
    ir_datasets.registry.register(name, ir_datasets.Dataset(docs))
    for subset, part in splits.items():
        file = folder / subset.replace('/', '-')
        parts = [docs, TsvQueries(write_tsv(file.with_suffix('.topics'), part['topics'].items()))]
        if 'qrels' in part:
            rows = [(t, 0, d, g) for t, judged in part['qrels'].items() for d, g in judged.items()]
            parts.append(TrecQrels(write_tsv(file.with_suffix('.qrels'), rows), GRADES))
        if 'pairs' in part:
            parts.append(TsvDocPairs(write_tsv(file.with_suffix('.pairs'), part['pairs'])))
        if 'scored' in part:
            parts.append(ScoredDocs(part['scored']))
        ir_datasets.registry.register(f'{name}/{subset}', ir_datasets.Dataset(*parts))
    return name
