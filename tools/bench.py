"""Execute the benchmark notebooks one after the other (`make bench`); each writes its CSV into paper/performance. Names after it, or `make bench ONLY=bench_lion`, choose some."""

import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from reproduce_kit.core import did_you_mean, project_root
from reproduce_kit.engines.papermill import execute_notebook

real = os.environ.get('BENCH', '')
texts = (
    dict(collection=str(Path(real).resolve()), split='dl19', max_length=256)
    if real
    else dict(max_length=64)
)
BENCHES = dict(
    bench_lion=dict(backbones={'minilm-l12-h384': 12}, rounds=15, gib=0.5),
    bench_train=dict(texts, layers=6, batch=64, updates=4, rounds=3),
    bench_rerank=dict(
        texts,
        layers=6,
        topics=8,
        depth=100,
        rounds=3,
        runtimes=all(map(find_spec, ('onnx', 'onnxscript', 'onnxruntime', 'openvino'))),
    ),
    bench_metrics=dict(topics=7000, candidates=1000, rounds=3),
    bench_kit=dict(runs=1000, some=200, topics=150, rounds=3, pages=[], train=True),
    bench_growth=dict(
        pairs=[1000, 10_000, 100_000, 1_000_000],
        topics=[10, 1000, 10_000, 100_000],
        candidates=[10, 1000, 10_000, 100_000],
        runs=[1, 30, 300, 1000],
        rounds=3,
    ),
)

if __name__ == '__main__':
    if unknown := [n for n in sys.argv[1:] if n not in BENCHES]:
        sys.exit(f'no benchmark {unknown[0]!r}{did_you_mean(unknown[0], BENCHES)}')
    for name, values in BENCHES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        start = time.time()
        execute_notebook(
            project_root() / f'nbs/experiments/{name}.ipynb',
            Path(tempfile.mkdtemp()) / f'{name}.ipynb',
            values | dict(keep=True),
        )
        print(f'{name}: {time.time() - start:.0f} s', flush=True)
    execute_notebook(
        project_root() / 'nbs/analysis/performance.ipynb',
        Path(tempfile.mkdtemp()) / 'performance.ipynb',
        {},
    )
    print(
        '\nwrote paper/tables/performance.tex, figures/performance.pdf and figures/growth.pdf\n\nnext: reproduce paper'
    )
