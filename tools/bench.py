"""Execute the benchmark notebooks one after the other (`make bench`).

Each writes its CSV into paper/performance. Names on the command line choose some of them:
`make bench ONLY=bench_lion`. `make bench DL2019=FOLDER` takes texts from that collection."""

import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from reproduce_kit.core import did_you_mean, project_root
from reproduce_kit.engines.papermill import execute_notebook

RUNTIMES = ('onnx', 'onnxscript', 'onnxruntime', 'openvino')
SIZES = [10, 1000, 10_000, 100_000]


def texts() -> dict:
    """Return the parameters that say which texts are trained on and reranked."""
    collection = os.environ.get('BENCH', '')
    if not collection:
        return dict(max_length=64)
    return dict(collection=str(Path(collection).resolve()), split='dl19', max_length=256)


def benchmarks() -> dict:
    """Return the parameters of each notebook of nbs/experiments, by its name."""
    has_runtimes = all(map(find_spec, RUNTIMES))
    rerank = dict(layers=6, topics=8, depth=100, rounds=3, runtimes=has_runtimes)
    growth = dict(pairs=[1000, 10_000, 100_000, 1_000_000], topics=SIZES, candidates=SIZES)
    return dict(
        bench_lion=dict(backbones={'minilm-l12-h384': 12}, rounds=15, gib=0.5),
        bench_train=texts() | dict(layers=6, batch=64, updates=4, rounds=3),
        bench_rerank=texts() | rerank,
        bench_metrics=dict(topics=7000, candidates=1000, rounds=3),
        bench_kit=dict(runs=1000, some=200, topics=150, rounds=3, pages=[], train=True),
        bench_growth=growth | dict(runs=[1, 30, 300, 1000], rounds=3),
    )


def execute(page: str, parameters: dict):
    """Execute a notebook of the clone; the executed copy is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(page).name
        execute_notebook(project_root() / page, copy, parameters)


def main(names: list):
    known = benchmarks()
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f'no benchmark {unknown[0]!r}{did_you_mean(unknown[0], known)}')
    for name in [name for name in known if name in names or not names]:
        start = time.time()
        execute(f'nbs/experiments/{name}.ipynb', known[name] | dict(keep=True))
        print(f'{name}: {time.time() - start:.0f} s', flush=True)
    execute('nbs/analysis/performance.ipynb', {})
    print('\nwrote paper/tables/performance.tex, figures/performance.pdf and figures/growth.pdf')
    print('\nnext: reproduce paper')


if __name__ == '__main__':
    main(sys.argv[1:])
