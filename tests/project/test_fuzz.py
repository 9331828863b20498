"""No file makes a reader do anything but read right, or say what is wrong with the file."""

import csv
import ctypes
import gzip
import io
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from fuzz import BOMB, Reader, bounded, replace_file, spoiled, zip_bomb
from hypothesis import HealthCheck, Phase, given, settings
from irds import register
from kit import link_clone

from reproduce_kit.config.backbones import read_backbones, read_rerankers
from reproduce_kit.config.endpoint import read_endpoint
from reproduce_kit.config.files import make_config, read_runs
from reproduce_kit.config.settings import example_settings
from reproduce_kit.config.study import read_study
from reproduce_kit.config.sweep import read_sweep
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import Collection, read_collection, write_collection
from reproduce_kit.data.labelled import TrainingSource, labelled_collection
from reproduce_kit.data.published import published_table, read_cells
from reproduce_kit.data.trec import read_qrels, read_run, read_topics
from reproduce_kit.engines.slurm_script import batch_script, machine_of
from reproduce_kit.engines.slurm_settings import SlurmSettings, read_slurm_settings
from reproduce_kit.evaluation.metrics import evaluate, read_perquery, write_perquery
from reproduce_kit.store.events import Event, EventKind
from reproduce_kit.store.history import read_history
from reproduce_kit.store.progress import read_progress
from reproduce_kit.verdicts.claims import read_claims

FEW, MANY = 150, 10_000  # cases of each reader: in `make test`, and in `make soak`
PARAMS = ROOT / 'params'
csv.field_size_limit(10**9)
QUICK = dict(
    database=None,
    deadline=None,  # fuzz.bounded has one
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
TOPICS = {'1': 'what is a neuron', '2': 'who wrote emma', '3': 'größe der sonne'}
PASSAGES = {f'd{n}': f'passage {n} about {word}' for n, word in enumerate('abcde')}
QRELS = {topic: {'d0': 2, 'd1': 0, 'd3': 1} for topic in TOPICS}
RUN = {topic: {docid: 9.5 - n / 3 for n, docid in enumerate(PASSAGES)} for topic in TOPICS}


# Parsers that share nothing with the kit


def c_number(word: bytes) -> float:
    """Read a number as trec_eval does: with C's strtod, and to its last character."""
    end = ctypes.c_char_p()
    strtod = ctypes.CDLL(None).strtod
    strtod.restype = ctypes.c_double
    value = strtod(word, ctypes.byref(end))
    assert end.value == b'', word
    return value


def plain_lines(data: bytes) -> list:
    if data[:2] == b'\x1f\x8b':
        data = gzip.decompress(data)
    return data.removeprefix(b'\xef\xbb\xbf').split(b'\n')


def columns(data: bytes, topic: int, docid: int, value: int, number) -> dict:
    table = {}
    for words in (line.split() for line in plain_lines(data)):
        if words:
            assert b'\0' not in words[docid] + words[topic]
            row = table.setdefault(words[topic].decode(), {})
            assert words[docid].decode() not in row
            row[words[docid].decode()] = number(words[value])
    return table


def check_run(data, run):
    assert run == columns(data, 0, 2, 4, c_number)
    assert all(math.isfinite(value) for scores in run.values() for value in scores.values())
    evaluate(run, dict.fromkeys(run, {'d0': 1}))  # trec_eval takes it


def check_qrels(data, qrels):
    assert qrels == columns(data, 0, 2, 3, lambda word: int(c_number(word)))
    evaluate(dict.fromkeys(qrels, {'d0': 1.0}), qrels)


def check_topics(data, topics):
    texts = [line.decode() for line in plain_lines(data)]
    rows = [text.partition('\t')[::2] for text in texts if text.strip()]
    assert topics == {topic.strip(): text.strip() for topic, text in rows}
    assert len(topics) == len(rows)


def check_passages(data, read):
    corpus, fingerprint = read
    rows = [json.loads(line) for line in plain_lines(data)[: len(corpus)]]
    for row, (docid, text) in zip(rows, corpus.items(), strict=True):
        assert str(row.get('id', row.get('_id'))) == docid
        assert text == row.get(
            'contents', ' '.join(filter(None, (row.get('title'), row.get('text'))))
        )
    assert len(fingerprint) == 64


def titled_texts(lines: list) -> set:
    """The ids of Tevatron's passages that name none."""
    rows = [json.loads(line) for line in map(bytes.decode, lines) if line.strip()]
    groups = ('positive_passages', 'negative_passages')
    passages = [each for row in rows for group in groups for each in row.get(group, ())]
    return {f'{each.get("title")} {each.get("text")}' for each in passages}


def check_labels(data, read):
    _, labels = read
    lines = plain_lines(data)
    text, titled = b'\n'.join(lines).decode(), titled_texts(lines)
    for of_topic in labels.values():
        assert all(map(math.isfinite, of_topic.values()))
        assert all(
            json.dumps(docid)[1:-1] in text or docid in text or docid in titled
            for docid in of_topic
        )


def check_pairs(data, read):
    collection, labels = read
    rows = [line.split('\t') for line in data.decode().splitlines() if line.strip()]
    pairs = {(topic, docid): None for topic, *docids in rows for docid in docids}
    assert {(t, d) for t, of_topic in labels.items() for d in of_topic} <= set(pairs)


def yaml_of(data: bytes) -> dict:
    return yaml.load(data.decode('utf-8-sig'), yaml.CSafeLoader)


def as_number(value):
    """What a text means as a number: YAML 1.1 reads `1e-5` as text."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def check_yaml(data, read):
    """What libyaml says of the whole file: the kit reads it key by key."""
    values = yaml_of(data)
    plain = json.loads(json.dumps(values, default=str))
    for record in read if isinstance(read, list) else [read]:
        dumped = json.loads(record.model_dump_json())
        for key, value in plain.items():
            if key in dumped and not isinstance(value, (dict, list)) and key != 'name':
                assert dumped[key] in (value, as_number(value)), key


def check_runs(data, runs):
    for run in runs:
        assert make_config(run.model_dump()) == run
        assert len(run.identity) == 8
    assert len({run.identity for run in runs}) == len(runs)
    if len(runs) == 1:
        check_yaml(data, runs)


def check_named(data, read):
    """The entries of a file that describes several things."""
    assert set(read) <= {str(key) for key in yaml_of(data)}


def check_claims(data, files):
    document = yaml_of(data)
    words = [' '.join(str(entry['words']).split()) for entry in document.get('claims') or []]
    assert words == [claim.words for file in files for claim in file.claims]


def check_slurm(data, settings):
    try:
        script = batch_script(machine_of(CONFIG, settings), [CONFIG], Path('/jobs'), settings)
    except KitError:
        return  # explained when a script is made for a machine
    before = script.split('export ')[0].splitlines()
    assert all(line.startswith('#') or not line for line in before), before  # options, no commands


def check_csv(data, table: pd.DataFrame):
    rows = list(csv.reader(io.StringIO(data.decode('utf-8-sig'), newline='')))
    rows = [row for row in rows if row]
    assert list(table.columns) == rows[0]
    assert table.to_numpy().tolist() == rows[1:]


def check_cells(data, cells: pd.DataFrame):
    text = data.decode('utf-8-sig').lstrip('\r\n')
    rows = list(csv.DictReader(io.StringIO(text, newline=''), skipinitialspace=True))
    assert list(cells.printed) == [row['printed'] for row in rows]
    assert list(cells.backbone) == [row['backbone'] for row in rows]


def check_perquery(data, frames):
    rows = csv.DictReader(io.StringIO(data.decode('utf-8-sig'), newline=''))
    expected = {(row['name'], row['measure'], row['qid']): float(row['value']) for row in rows}
    read = {
        (name, measure, topic): value
        for name, frame in frames.items()
        for measure, column in frame.items()
        for topic, value in column.items()
        if not math.isnan(value)
    }
    assert read == expected


def check_history(data, lines):
    rows = [line for line in data.decode('utf-8-sig').split('\n') if line.strip()]
    assert len(rows) - 1 <= len(lines) <= len(rows)
    assert [line['step'] for line in lines] == [
        json.loads(row)['step'] for row in rows[: len(lines)]
    ]


def check_progress(data, progress):
    assert isinstance(progress.updates_done, int)
    assert math.isfinite(progress.work_seconds)
    assert progress.dollars is None or math.isfinite(progress.dollars)
    json.dumps(progress.manifest(), allow_nan=False)


# Valid files


CONFIG = make_config(example_settings())
HISTORY = [dict(step=step, loss=1 / step, grad_norm=0.5, learning_rate=1e-5) for step in (1, 2, 3)]
HISTORY.append(dict(step=3, epoch=1.0, eval_loss=0.25))
EVENTS = (
    Event(EventKind.OPENED, 1.7e9, facts=dict(threads=2, batch=CONFIG.batch())),
    Event(EventKind.STARTED, 1.7e9, 1, dict(where='local', devices=['L40S'], of=8, rates='july')),
    Event(EventKind.ALIVE, 1.7e9 + 5, 1, dict(step=2)),
    Event(EventKind.CHECKPOINT, 1.7e9 + 9, facts=dict(step=2, seconds=9.5)),
    Event(EventKind.SCORED, 1.7e9 + 9, facts=dict(pairs=20, seconds=2.5)),
    Event(EventKind.EVALUATED, 1.7e9 + 10, facts=dict(epoch=1, seconds=2.5)),
    Event(EventKind.ENDED, 1.7e9 + 11, 1, dict(how='done', step=8, message='')),
    Event(EventKind.COST, 1.7e9 + 12, facts=dict(dollars=0.5, seconds=11.0)),
    Event(EventKind.STARTED, 1.7e9 + 20, 2, dict(where='modal', devices=[], dollars_per_hour=2.0)),
    Event(EventKind.CUT_OFF, 1.7e9 + 30, 2),
)
GRADED = [
    dict(query=t, passage=p, label=n % 2)
    for t in TOPICS.values()
    for n, p in enumerate(PASSAGES.values())
]
TRIPLES = [
    dict(query=t, positive=PASSAGES['d0'], negative=PASSAGES['d1'], negative_2='x')
    for t in TOPICS.values()
]
TEVATRON = [
    dict(
        query_id=topic,
        query=text,
        positive_passages=[dict(docid='d0', title='neuron', text=PASSAGES['d0'])],
        negative_passages=[dict(docid=docid, text=PASSAGES[docid]) for docid in ('d1', 'd2')],
    )
    for topic, text in TOPICS.items()
]
BY_ID = [
    dict(query_id=topic, passage_id=docid, label=n / 4)
    for topic in TOPICS
    for n, docid in enumerate(PASSAGES)
]


STUDY = """\
measures: [nDCG@10, RR@10]
paper_of: lion-vs-adamw
pages: [audit]
publication:
  title: Optimizers for rerankers
  authors: [A. Author, Ö. Other]
  venue: ECIR
  year: 2026
  doi: 10.1145/3726302.3730094
findings: {title: Findings, question: 'What was found?', function: 'mine:findings'}
"""


def json_lines(rows) -> bytes:
    return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows).encode()


def contents(*paths) -> tuple:
    return tuple(path.read_bytes() for path in paths)


def collection_readers(root):
    folder = root / 'collection'
    collection = Collection('mine', PASSAGES, dict(test=TOPICS), dict(test=QRELS), dict(test=RUN))
    write_collection(collection, folder)
    run, corpus = folder / 'candidates.test.run', folder / 'corpus.jsonl'
    packed = folder / 'candidates.test.run.gz'
    beir = json_lines(dict(_id=d, title='a', text=p, metadata={}) for d, p in PASSAGES.items())

    def passages():
        read = read_collection(folder)
        return read.corpus, read.fingerprint

    run.write_bytes(b'\n'.join(plain_lines(packed.read_bytes())))
    return [
        Reader('run file', run, contents(run, packed), lambda: read_run(run), check_run),
        Reader(
            'qrels',
            folder / 'qrels.test.txt',
            contents(folder / 'qrels.test.txt'),
            lambda: read_qrels(folder / 'qrels.test.txt'),
            check_qrels,
        ),
        Reader(
            'topics',
            folder / 'topics.test.tsv',
            contents(folder / 'topics.test.tsv'),
            lambda: read_topics(folder / 'topics.test.tsv'),
            check_topics,
        ),
        Reader('passages', corpus, (*contents(corpus), beir), passages, check_passages),
    ]


def training_readers(root):
    tested = {'9': 'a topic of the test set'}
    known = Collection('mine', PASSAGES, dict(train=TOPICS, test=tested), {})
    file = root / 'train.jsonl'
    source = TrainingSource(str(file), 'ListNetLoss', 8, 1, ('test',))
    name = register(
        root,
        PASSAGES,
        dict(train=dict(topics=TOPICS, pairs=[(t, 'd0', d) for t in TOPICS for d in ('d1', 'd2')])),
    )
    pairs = root / 'train.pairs'
    of_irds = TrainingSource(f'irds:{name}/train', 'ListNetLoss', 8, 1, ('test',))
    yield Reader(
        'training passages',
        file,
        tuple(map(json_lines, (GRADED, TRIPLES, TEVATRON, BY_ID))),
        lambda: labelled_collection(source, file, known),
        check_labels,
    )
    yield Reader(
        'docpairs',
        pairs,
        contents(pairs),
        lambda: labelled_collection(of_irds, None, known),
        check_pairs,
        named=f'{name}/train',
    )


def settings_readers(root):
    params = root / 'params'
    run, study = params / 'mine/fuzz.yaml', params / 'mine/study.yaml'
    endpoint, sweep = params / 'lion-vs-adamw/endpoint.yaml', params / 'embedded/tuning.yaml'
    backbones, rerankers = root / 'backbones.yaml', root / 'rerankers.yaml'
    slurm = root / 'slurm.yaml'
    swept = example_settings(name='fuzz') | dict(seed=[1, 2], learning_rate=[1e-5, 2e-5])
    seeds = [
        yaml.safe_dump(values, sort_keys=False) for values in (example_settings(name='fuzz'), swept)
    ]
    examples = {name: field.examples[0] for name, field in SlurmSettings.model_fields.items()}
    yield Reader('run YAML', run, encoded(*seeds), lambda: read_runs(run), check_runs)
    yield Reader('study.yaml', study, encoded(STUDY), lambda: read_study('mine'), check_yaml)
    yield Reader(
        'endpoint.yaml',
        endpoint,
        contents(endpoint),
        lambda: read_endpoint('lion-vs-adamw'),
        check_yaml,
    )
    yield Reader('tuning.yaml', sweep, contents(sweep), lambda: read_sweep('embedded'), check_yaml)
    yield Reader(
        'backbones.yaml',
        backbones,
        contents(PARAMS / 'smoke/backbones.yaml', PARAMS / 'embedded/backbones.yaml'),
        lambda: read_backbones(backbones),
        check_named,
    )
    yield Reader(
        'rerankers.yaml',
        rerankers,
        contents(PARAMS / 'smoke/rerankers.yaml'),
        lambda: read_rerankers(rerankers),
        check_named,
    )
    yield Reader(
        'slurm.yaml',
        slurm,
        encoded(yaml.safe_dump(examples, sort_keys=False)),
        read_slurm_settings,
        check_slurm,
    )


def printed_readers(root):
    mine = root / 'params/mine'
    table, cells, claims = (
        mine / 'published/table1.csv',
        mine / 'published.csv',
        mine / 'claims/paper.yaml',
    )
    printed = contents(*(PARAMS / 'lion-vs-adamw/published').glob('*.csv'))
    yield Reader(
        'published table',
        table,
        tuple(text for text in printed if len(text) < 3000),
        lambda: published_table('mine', 'table1'),
        check_csv,
    )
    yield Reader(
        'published.csv',
        cells,
        contents(PARAMS / 'model-zoo/published.csv'),
        lambda: read_cells('mine'),
        check_cells,
    )
    yield Reader(
        'claims YAML',
        claims,
        contents(PARAMS / 'lion-vs-adamw/claims/question.yaml'),
        lambda: read_claims('mine'),
        check_claims,
    )


def store_readers(root):
    history, events, perquery = (
        root / name for name in ('history.jsonl', 'events.jsonl', 'perquery.csv')
    )
    write_perquery(perquery, {'BM25/test': evaluate(RUN, QRELS), 'mine/test': evaluate(RUN, QRELS)})
    yield Reader(
        'history.jsonl', history, (json_lines(HISTORY),), lambda: read_history(root), check_history
    )
    yield Reader(
        'events.jsonl',
        events,
        encoded(''.join(event.line() for event in EVENTS)),
        lambda: read_progress(root),
        check_progress,
    )
    yield Reader(
        'per-query CSV',
        perquery,
        contents(perquery),
        lambda: read_perquery(perquery),
        check_perquery,
    )


def encoded(*texts) -> tuple:
    return tuple(text.encode() for text in texts)


GROUPS = (collection_readers, training_readers, settings_readers, printed_readers, store_readers)
NAMES = (
    *('run file', 'qrels', 'topics', 'passages', 'training passages', 'docpairs', 'run YAML'),
    *('study.yaml', 'endpoint.yaml', 'tuning.yaml', 'backbones.yaml', 'rerankers.yaml'),
    *('slurm.yaml', 'published table', 'published.csv', 'claims YAML', 'history.jsonl'),
    *('events.jsonl', 'per-query CSV'),
)


@pytest.fixture(scope='module')
def readers(tmp_path_factory):
    """{name: Reader}, over a clone with studies of its own."""
    root = link_clone(tmp_path_factory.mktemp('fuzz') / 'clone')
    for study in ('embedded', 'lion-vs-adamw', 'model-zoo'):
        shutil.copytree(PARAMS / study, root / 'params' / study)
    for name in ('published', 'claims'):
        (root / 'params/mine' / name).mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_ROOT', str(root))
        patch.setenv('REPRODUCE_SLURM', str(root / 'slurm.yaml'))
        yield {reader.name: reader for group in GROUPS for reader in group(root)}


def fuzz(reader, cases: int, is_random: bool) -> Counter:
    """Spoil a reader's files that often; return how often it ended how."""
    counts = Counter()

    @settings(max_examples=cases, derandomize=not is_random, **QUICK)
    @given(spoiled(reader.seeds))
    def every_file_is_read_or_explained(data):
        counts[reader.outcome(data)] += 1

    try:
        every_file_is_read_or_explained()
    finally:
        replace_file(reader.file, reader.seeds[0])
    return counts


# What got through before


def zeros(reader) -> bytes:
    return zip_bomb()


def first(old: bytes, new: bytes):
    """A change of a valid file: the first place that holds this."""

    def change(reader):
        (seed,) = [seed for seed in reader.seeds if old in seed][:1]
        return seed.replace(old, new, 1)

    return change


def behind(new: bytes):
    return lambda reader: reader.seeds[0] + new


def damaged(reader) -> bytes:
    packed = gzip.compress(reader.seeds[0], mtime=0)
    return packed[:20] + bytes([packed[20] ^ 255]) + packed[21:]


def cube(reader) -> bytes:
    """Each row has a run, a measure and a topic of its own: 10^10 values are named."""
    rows = [f'run{n},topic{n},measure{n},0.5' for n in range(2200)]
    return '\n'.join(['name,qid,measure,value', *rows]).encode()


MARK = b'\xef\xbb\xbf'
ESCAPES = {
    ('run file', 'a damaged gzip stream'): (damaged, 'truncated or damaged'),
    ('run file', 'a GiB of zeros in a MiB'): (zeros, 'a hundred times its size'),
    ('run file', 'digits of another alphabet'): (first(b'9.5', '٩'.encode()), 'is no number'),
    ('run file', 'a number with underscores'): (first(b'9.5', b'9_5'), 'is no number'),
    ('run file', 'infinite in single precision'): (first(b'9.5', b'1e39'), 'not finite'),
    ('run file', 'a space of Unicode'): (first(b' Q0', '\xa0Q0'.encode()), 'expected `topic'),
    ('run file', 'NUL in a name'): (first(b'd0', b'd\0'), 'NUL bytes'),
    ('qrels', 'a grade of 64 bits'): (first(b' 2', b' 99999999999'), 'no integer of 32 bits'),
    ('qrels', 'a mark of order'): (lambda reader: MARK + reader.seeds[0], ''),
    ('topics', 'a mark of order'): (lambda reader: MARK + reader.seeds[0], ''),
    ('topics', 'NUL in a text'): (first(b'neuron', b'neu\0ron'), 'NUL bytes'),
    ('passages', 'nested too deeply'): (first(b'"d0"', b'[' * 100_000), 'nested too deeply'),
    ('passages', 'half a character'): (first(b'"d0"', b'"\\ud800"'), 'surrogates not allowed'),
    ('passages', 'an id with a space'): (first(b'"d0"', b'"d 0"'), 'has a space'),
    ('passages', 'an id that is a list'): (first(b'"d0"', b'["d0"]'), 'a whole number'),
    ('endpoint.yaml', 'a control character in a comment'): (
        behind('# größer\n# \0\n'.encode()),
        'control characters are not allowed at line 10; correct it there',
    ),
    ('tuning.yaml', 'a file whose name is too long'): (
        first(b'base: ', b'base: ' + b'x' * 5000),
        'a name in it is too long',
    ),
    ('training passages', 'a passage whose id is its title and its text'): (
        first(b'"positive_passages": [{"docid"', b'"positive_passages": [{"id"'),
        '',
    ),
    ('training passages', 'NaN as label'): (first(b'"label": 0', b'"label": NaN'), 'label: nan'),
    ('training passages', 'a label of 400 digits'): (
        first(b'"label": 0', b'"label": 1' + b'0' * 400),
        'label: 1000',
    ),
    ('run YAML', 'a sweep over nothing'): (first(b'seed: 12', b'seed: []'), 'the list is empty'),
    ('run YAML', 'a value swept twice'): (first(b'seed: 12', b'seed: [1, 1]'), 'listed twice'),
    ('run YAML', '20,000 runs'): (
        first(b'seed: 12', f'seed: {[*range(20_000)]}'.encode()),
        'describes 20,000 runs',
    ),
    ('run YAML', 'a key that is set twice'): (behind(b'seed: 13\n'), "'seed' is set twice"),
    ('run YAML', 'an octal number that Python does not print'): (
        first(b'seed: 12', b'seed: 0' + b'1' * 5000),
        'a whole number of more than 100 digits',
    ),
    ('run YAML', 'an impossible date'): (first(b'seed: 12', b'seed: 2026-13-45'), 'not valid'),
    ('run YAML', 'NaN in arguments'): (behind(b'loss_args: {scale: .nan}\n'), 'finite numbers'),
    ('run YAML', 'a date in arguments'): (behind(b'rest_args: {x: 2026-01-01}\n'), 'finite'),
    ('run YAML', 'aliases that multiply'): (behind(BOMB.encode()), 'unknown key|more than 100,000'),
    ('study.yaml', '100,000 hyphens'): (
        behind(b'x: \n  ' + b'- ' * 100_000),
        'more than 20 levels',
    ),
    ('study.yaml', '100,000 brackets'): (behind(b'x: ' + b'[' * 100_000), 'more than 20 levels'),
    ('study.yaml', 'a measure of 10,000 signs'): (
        first(b'RR@10', b'RR@' + b'- ' * 10_000 + b'10'),
        'it is too long',
    ),
    ('study.yaml', 'a megabyte'): (behind(b'# ' + b'x' * 2**20), 'more than 1 MiB'),
    ('study.yaml', 'an empty number'): (first(b'2026', b'!!int ""'), 'not valid YAML'),
    ('endpoint.yaml', 'an infinite margin'): (first(b'0.03', b'.inf'), 'finite number'),
    ('tuning.yaml', 'a misspelt key within a key'): (
        first(b'warmup', b'warmpu'),
        "unknown key 'optimizers.adamw.warmpu'; did you mean 'warmup'",
    ),
    ('tuning.yaml', 'a base that does not exist'): (first(b'minilm-l4', b'minilm-l5'), 'base: '),
    ('backbones.yaml', 'a key that is a number'): (
        first(b'licence:', b'12:'),
        'Keys should be strings',
    ),
    ('slurm.yaml', 'not UTF-8'): (behind(b'\xff'), 'not UTF-8'),
    ('slurm.yaml', 'a signal before the start'): (
        first(b'signal_seconds: 300', b'signal_seconds: ' + b'9' * 30),
        '',
    ),
    ('slurm.yaml', 'a second line in an option'): (
        first(b'account: my-group', b'account: "a\\nrm -rf /"'),
        'expected one line',
    ),
    ('published table', 'a value too many'): (behind(b'x,' * 30 + b'\n'), 'values for'),
    ('published table', 'nothing'): (lambda reader: b'', 'is empty'),
    ('published.csv', 'an empty line first'): (lambda reader: b'\n' + reader.seeds[0], ''),
    ('published.csv', 'a row cut short'): (behind(b'ms-marco-minilm-l2-v2,,0\n'), '3 values for 7'),
    ('claims YAML', 'a claim that is a text'): (behind(b'- just words\n'), 'expected id, where'),
    ('claims YAML', 'claims that are a number'): (
        lambda reader: b'title: the text\nclaims: 5\n',
        'claims: expected a list',
    ),
    ('claims YAML', '5,000 brackets in an expression'): (
        behind(b'- {id: A, where: here, words: so, holds: "' + b'(' * 5000 + b'"}\n'),
        'does not parse',
    ),
    ('history.jsonl', 'a line that is damaged'): (first(b'{"step": 2', b'{"st'), 'line 2: '),
    ('history.jsonl', 'a line that is a number'): (
        first(b'{"step": 2', b'5\n{"step": 2'),
        'line 2',
    ),
    ('events.jsonl', 'an event of no kind'): (behind(b'{"what": "lost", "when": 1}\n'), 'no event'),
    ('events.jsonl', 'a checkpoint without update'): (
        behind(b'{"what": "checkpoint", "when": 1.0}\n'),
        'step is missing',
    ),
    ('events.jsonl', 'a fact that is infinite'): (
        first(b'"world": 1', b'"world": 1e400'),
        'a number is infinite',
    ),
    ('events.jsonl', 'a fact that is new'): (
        behind(b'{"what": "alive", "when": 1.7e9, "attempt": 2, "mood": "good"}\n'),
        '',
    ),
    ('per-query CSV', 'a value that is NaN'): (first(b',0.', b',nan\nx,1,AP,0.'), 'finite'),
    ('per-query CSV', 'a value that is a word'): (first(b',0.', b',high\nx,1,AP,0.'), 'high'),
    ('per-query CSV', 'without its values'): (first(b'value', b'number'), 'value'),
    ('per-query CSV', 'rows that have nothing in common'): (cube, 'name 10,648,000,000 values'),
}


@pytest.mark.parametrize('case', ESCAPES, ids=': '.join)
def test_what_once_got_through_is_read_right_or_explained(readers, case):
    reader = readers[case[0]]
    change, message = ESCAPES[case]
    data = change(reader)
    assert data not in reader.seeds
    try:
        if not message:
            assert reader.outcome(data) == 'read'
            return
        replace_file(reader.file, data)
        with bounded(), pytest.raises(KitError, match=message):
            reader.read()
    finally:
        replace_file(reader.file, reader.seeds[0])


@pytest.mark.parametrize('name', NAMES)
def test_a_valid_file_is_read(readers, name):
    for data in readers[name].seeds:
        assert readers[name].outcome(data) == 'read'
    replace_file(readers[name].file, readers[name].seeds[0])


@pytest.mark.parametrize('name', NAMES)
def test_a_spoiled_file_is_read_right_or_explained(readers, name, record_property):
    counts = fuzz(readers[name], FEW, is_random=False)
    record_property('fuzz', (name, dict(counts)))


@pytest.mark.soak
@pytest.mark.parametrize('name', NAMES)
def test_ten_thousand_spoiled_files_are_read_right_or_explained(readers, name, record_property):
    counts = fuzz(readers[name], MANY, is_random=True)
    record_property('fuzz', (name, dict(counts)))
