"""The parts of `make gpu-bars`: what each measures, in full or tiny sizes.

A part yields bars (`speed.gpu_bars`) one by one; whoever runs it writes each down at once. Parts
import what they need themselves, so that none dies of a package that only another one needs."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from reproduce_kit.core import KitError, did_you_mean

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    batches: dict  # {backbone that is trained and scored: pairs of an update}
    memory: tuple  # backbones whose memory is measured
    trained: int = 25_600  # pairs of a round at most
    scored: int = 43_000  # pairs
    words: int = 20_000  # of the made-up language
    workers: int = 4  # of our data loader
    rows: int = 0  # of the matrices whose product is a limit; 0: what fills the GPU
    gib: float = 2.0  # of the array that is copied
    memory_batch: tuple = (64, 256)  # pairs, and tokens of each
    width: int = 768  # of the rows that are pooled
    launches: int = 20  # of the pooling in a round
    sequences: int = 1433  # that are pooled or encoded
    longest: int = 512  # tokens of a sequence of the longest kind
    is_base: bool = True  # encoders of BERT-base shape; else tiny ones
    seconds: float = math.inf  # for what a part measures, at most


# The batches are those of the paper's runs on one device.
FULL = Sizes(
    batches={'minilm-l12-h384': 256, 'modernbert-base': 64},
    memory=('minilm-l12-h384', 'modernbert-base', 'gte-multilingual-base'),
)
TINY = Sizes(
    batches={'tiny-bert': 8, 'tiny-modernbert': 8},
    memory=('tiny-bert', 'tiny-gte'),
    trained=16,
    scored=86,
    words=1500,
    workers=1,
    rows=256,
    gib=0.005,
    memory_batch=(2, 16),
    width=32,
    launches=1,
    sequences=4,
    longest=32,
    is_base=False,
    seconds=0.2,
)


def shape_of(backbone: str) -> dict:
    """Return the shape in a study's `backbones.yaml`; pydantic is missing where this runs."""
    files = sorted((ROOT / 'params').glob('*/backbones.yaml'))
    shapes = {
        name: entry['shape']
        for file in files
        for name, entry in yaml.safe_load(file.read_text('utf-8')).items()
    }
    if backbone not in shapes:
        raise KitError(f'no backbone {backbone!r}{did_you_mean(backbone, shapes)}')
    return shapes[backbone]


def training(backbone: str, sizes: Sizes, left: Callable) -> Iterator:
    """Pairs a second of the stock trainer and ours."""
    from reproduce_kit.speed.pair_training import training_bars, training_work
    from reproduce_kit.speed.random_models import dl19_lengths, made_up_words, random_pairs

    shape, words = shape_of(backbone), made_up_words(sizes.words)
    pairs = random_pairs(sizes.trained, dl19_lengths(), words)
    work = training_work(shape, pairs, words, sizes.batches[backbone], sizes.workers)
    yield from training_bars(backbone, work, pairs.tokens, left(), sizes.rows)


def scoring(backbone: str, sizes: Sizes, left: Callable) -> Iterator:
    """Pairs a second and error of each precision."""
    import tempfile

    from reproduce_kit.speed.random_models import (
        dl19_lengths,
        made_up_words,
        random_cross_encoder,
        random_pairs,
    )
    from reproduce_kit.speed.scoring_precision import scoring_bars

    shape, words = shape_of(backbone), made_up_words(sizes.words)
    pairs = random_pairs(sizes.scored, dl19_lengths(), words)
    with tempfile.TemporaryDirectory() as folder:
        model = random_cross_encoder(shape, words, folder)
    yield from scoring_bars(backbone, model, pairs, left(), sizes.rows)


def steps(backbone: str, sizes: Sizes, left: Callable) -> Iterator:
    """Seconds of an optimizer's step, against the bandwidth of memory."""
    from reproduce_kit.speed.optimizer_steps import step_bars

    for i, name in enumerate(sizes.batches):
        seconds = left() / (len(sizes.batches) - i)
        yield from step_bars(name, shape_of(name), sizes.gib, seconds)


def memory(backbone: str, sizes: Sizes, left: Callable) -> Iterator:
    """Peak memory of training with each optimizer."""
    from reproduce_kit.speed.gpu_bars import Bar
    from reproduce_kit.speed.optimizer_steps import memory_bar

    for name, side in product(sizes.memory, ('AdamW, fused', 'ours')):
        try:
            yield memory_bar(name, shape_of(name), side, *sizes.memory_batch)
        except KitError as error:  # an architecture that this transformers lacks
            yield Bar('memory', side, name, problem=str(error))


def sequence_lengths(sizes: Sizes) -> dict:  # {label: tokens of each sequence}
    """Return DL 2019's lengths, every third passage, and as many tokens in equal sequences."""
    from reproduce_kit.speed.random_models import dl19_lengths

    passages = dl19_lengths().passages
    ragged = passages[:: max(1, len(passages) // sizes.sequences)][: sizes.sequences]
    equal = [sizes.longest] * max(1, int(ragged.sum()) // sizes.longest)
    return {'DL 2019': ragged, f'{sizes.longest} tokens each': equal}


def pooling(backbone: str, sizes: Sizes, left: Callable) -> Iterator:
    """The Triton kernels of pooling against torch, forwards and backwards."""
    from reproduce_kit.speed.pooling_kernels import pooling_bars

    cases = [(k, *labelled) for k in (2, 3) for labelled in sequence_lengths(sizes).items()]
    for i, (kernel, label, lengths) in enumerate(cases):
        seconds = left() / (len(cases) - i) / 2  # two directions
        yield from pooling_bars(
            lengths, label, kernel, sizes.width, sizes.launches, sizes.gib, seconds
        )


def encoding(backbone: str, sizes: Sizes, left: Callable) -> Iterator:
    """TITE 1 and 2 against the same encoder with pooling off."""
    from reproduce_kit.models.tite_config import PUBLISHED, published_config, tiny_tite
    from reproduce_kit.speed.pooling_kernels import encoding_bars

    configs = {
        f'TITE {n}': published_config(**PUBLISHED[n]) if sizes.is_base else tiny_tite(n)
        for n in (1, 2)
    }
    ways = ('sdpa', 'flash_attention_2')
    cases = [(how, *labelled) for how in ways for labelled in sequence_lengths(sizes).items()]
    for i, (how, label, lengths) in enumerate(cases):
        seconds = left() / (len(cases) - i)
        yield from encoding_bars(configs, how, lengths, label, seconds=seconds)


MEASURES = {f.__name__: f for f in (training, scoring, steps, memory, pooling, encoding)}


@dataclass(frozen=True)
class Part:
    """A process of its own."""

    name: str  # a key of MEASURES
    seconds: float  # when it is ended, its start counted
    backbone: str = ''  # '': several, or none

    def __str__(self):
        return f'{self.name} {self.backbone}'.strip()


def parts_of(sizes: Sizes) -> list:
    """Return the parts; what plans read comes first."""
    backbones = list(sizes.batches)
    return [
        *(Part('training', 80, name) for name in backbones),
        *(Part('scoring', 85, name) for name in backbones),
        Part('steps', 35),
        Part('memory', 40),
        Part('pooling', 35),
        Part('encoding', 40),
    ]
