"""Measure what tf32 and bf16 do to rankings, against fp32, on this processor.

    python tools/precision.py COLLECTION SPLIT CHECKPOINT...

Each checkpoint scores the candidates of a split in fp32, in bf16 (autocast, the logit in fp32) and
in tf32. No processor computes in tf32, so it is emulated: both operands of each matrix product are
rounded to the 10 bits of mantissa that tf32 has; products and sums are fp32, as on a GPU. The
results go to paper/performance/precision-cpu.csv."""

import sys
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reproduce_kit.data.irds import any_collection
from reproduce_kit.data.trec import ranking
from reproduce_kit.evaluation.metrics import evaluate, paired_interval
from reproduce_kit.evaluation.precision import computing_in
from reproduce_kit.evaluation.rerank import rerank
from reproduce_kit.models.backbone import load_checkpoint
from reproduce_kit.speed.timing import save_benchmark

MAX_LENGTH = 256  # tokens of a pair
TOP = 10  # the ranks that nDCG@10 reads
DROPPED_BITS = 13  # fp32 has 23 bits of mantissa, tf32 has 10

aten = torch.ops.aten
OPERANDS = {  # {matrix product: which of its arguments are multiplied}
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.baddbmm.default: (1, 2),
    aten.matmul.default: (0, 1),
    aten.linear.default: (0, 1),
}


def to_tf32(tensor):
    """Round fp32 numbers to tf32's mantissa, ties to even."""
    if tensor.dtype != torch.float32:
        return tensor
    bits = tensor.contiguous().view(torch.int32)
    is_odd = (bits >> DROPPED_BITS) & 1
    rounded = (bits + (1 << (DROPPED_BITS - 1)) - 1 + is_odd) >> DROPPED_BITS << DROPPED_BITS
    return rounded.view(torch.float32)


class EmulatedTf32(TorchDispatchMode):
    """Round the operands of every matrix product."""

    products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        args = list(args)
        for position in OPERANDS.get(function, ()):
            args[position] = to_tf32(args[position])
            self.products += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def emulated_tf32():
    """Compute as a GPU does in tf32; fail if no matrix product was seen."""
    with EmulatedTf32() as mode:
        yield
    assert mode.products, 'no matrix product was rounded'


def load(checkpoint):
    """Return a model whose attention is made of matrix products that can be rounded."""
    model = load_checkpoint(checkpoint, MAX_LENGTH)
    model.model.set_attn_implementation('eager')
    return model


def swaps_and_losses(before: dict, after: dict) -> tuple:
    """Count pairs of a top ten whose order changed, and passages that left it; over all topics."""
    swaps = losses = 0
    for topic, scores in before.items():
        top, rank = ranking(scores)[:TOP], {d: i for i, d in enumerate(ranking(after[topic]))}
        swaps += sum(rank[first] > rank[second] for first, second in combinations(top, 2))
        losses += sum(rank[docid] >= TOP for docid in top)
    return swaps, losses


def effect(before: dict, after: dict, qrels: dict) -> dict:
    """Compare two rankings of the same candidates."""
    ndcg, other = (evaluate(run, qrels)['nDCG@10'] for run in (before, after))
    by_topic = other - ndcg
    change, low, high = paired_interval(other, ndcg)
    swaps, losses = swaps_and_losses(before, after)
    return dict(
        topics=len(ndcg),
        pairs=sum(map(len, before.values())),
        ndcg=float(ndcg.mean()),
        change=change,
        low=low,
        high=high,
        largest=float(by_topic.abs().max()),
        changed_topics=int((by_topic != 0).sum()),
        swaps=swaps,
        left=losses,
        largest_score=max(
            abs(score - after[topic][docid])
            for topic, scores in before.items()
            for docid, score in scores.items()
        ),
    )


def effects(checkpoint, texts, split: str):
    """Yield a row for each precision."""
    epoch, model = Path(checkpoint).resolve().parent, load(checkpoint)
    name = f'{epoch.parent.name}, {epoch.name}'
    topics, candidates = texts.topics[split], texts.candidates[split]

    def scored_in(precision, context):
        with context:
            return rerank(model, topics, texts.corpus, candidates, progress=precision)

    before = scored_in('fp32', computing_in('fp32', model))
    for precision, how, context in (
        ('tf32', 'emulated', emulated_tf32()),
        ('bf16', 'computed', computing_in('bf16', model)),
    ):
        measured = effect(before, scored_in(precision, context), texts.qrels[split])
        yield dict(model=name, precision=precision, how=how) | measured


def main(collection: str, split: str, *checkpoints: str):
    """Measure all checkpoints, and keep every row at once."""
    texts, rows = any_collection(collection, [split]), []
    for checkpoint in checkpoints:
        for row in effects(checkpoint, texts, split):
            rows.append(row)
            table = pd.DataFrame(rows).set_index('model')
            path = save_benchmark('precision', table, texts=split, max_length=MAX_LENGTH)
            print(f'{row}\nwrote {path}', flush=True)


if __name__ == '__main__':
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
