"""One of the processes that score a released reranker's candidates.

The processes find each other through torchrun's variables. Each one gets all scores; each writes
its own file."""

import json
import os
from pathlib import Path

import torch.distributed as dist

from reproduce_kit.data.collection import read_collection
from reproduce_kit.evaluation.pair_scoring import process_share
from reproduce_kit.evaluation.rerank import rerank
from reproduce_kit.models.backbone import load_checkpoint


def score_share(variables: dict, model: str, collection: str, out: str):
    os.environ.update(variables)
    world = int(os.environ.get('WORLD_SIZE', 1))
    if world > 1:
        dist.init_process_group('gloo')
    share = process_share()
    texts = read_collection(collection)
    topics, candidates = texts.topics['test'], texts.candidates['test']
    seen = []
    encoder = load_checkpoint(model)
    forward = encoder.model.forward
    encoder.model.forward = lambda **inputs: seen.append(1) or forward(**inputs)
    run = rerank(encoder, topics, texts.corpus, candidates, share=share)
    Path(out, f'{share.rank}.json').write_text(json.dumps(dict(run=run, batches=len(seen))))
    if world > 1:
        dist.barrier()
