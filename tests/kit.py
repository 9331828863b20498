"""What several tests need: the smoke config, a command line, real data or a reason to skip."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import DATA, ROOT

SMOKE = dict(
    study='smoke', recipe='smoke', name='smoke', collection='docs', passage_words=32, test_topics=150, dev_topics=100, train_pairs=64,
    hard_share=0.5, bm25_k1=0.9, bm25_b=0.4, depth=2, backbone='minilm-l6-h384', layers=1, dropout=0.1, max_length=48, optimizer='lion',
    learning_rate=2.0e-5, beta1=0.9, beta2=0.99, weight_decay=0.01, decay_on='matrices', schedule='cosine', warmup=0.1,
    max_grad_norm=1.0, epochs=2, batch_size=16, accumulation=1, precision='auto', seed=12, log_steps=1, save_steps=2)


def write_yaml(folder: Path, name: str, **changes) -> Path:
    path = folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump(SMOKE | dict(name=name) | changes, sort_keys=False))
    return path


def reproduce(*args, env=None, cwd=ROOT, timeout=900):
    """The console script, as a user types it."""
    return subprocess.run([str(Path(sys.executable).parent / 'reproduce'), *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=timeout,
                          env=os.environ | {k: str(v) for k, v in (env or {}).items()})


def run_dir(runs: Path, name: str) -> Path:
    (found,) = runs.glob(f'smoke/smoke/{name}-*')
    return found


def metrics(folder: Path) -> dict:
    return {n: e['means'] for n, e in json.loads((folder / 'done.json').read_text())['epochs'].items()}


def need(*parts) -> Path:
    path = DATA.joinpath(*parts)
    if not path.exists(): pytest.skip(f'real data absent: {"/".join(parts)} is not in ../shared/data beside this clone')
    return path
