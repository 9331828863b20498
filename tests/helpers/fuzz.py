"""Files that are almost right: a valid one, changed a few times in ways that break readers."""

import contextlib
import gzip
import os
import re
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from reproduce_kit.core import KitError

SECONDS = 10  # that a reader may take
MEMORY_BYTES = 2**30  # that it may add
BOMB_BYTES = 2**30  # of zeros, that a small gzip file stands for

# What stands where a value was; the same pool for all formats.
VALUES = (
    *('', ' ', '-', '0', '-1', '1_0', '1e5', '1e-5', '1e39', '1e400', '-inf', 'nan', 'NaN', '.nan'),
    *('.inf', 'Infinity', 'null', '~', 'true', 'no', '0x10', '0o7', '1:30', '٣', '²', '½', '--1'),
    *(
        '2020-13-45',
        '2020-01-02',
        '!!timestamp x',
        '!!float x',
        '!!int ""',
        '!!binary x',
        '!!set x',
    ),
    *('!!python/object/apply:os.system [id]', '!!python/name:os.system', '&a [*a]', '*a', '<<'),
    *('"\\ud800"', '"\\u0000"', '"\\u2028"', '\u2028', '\x85', '\xa0', '\ufeff', '\x00', '\x1a'),
    *('[]', '{}', '[1, [2]]', '{"a": {"b": 1}}', '"text"', "'", '"', ',', ':', '\t', '\r', '#'),
    *('{? [1]: 2}', '{a: 1, a: 2}', '{1: 2, a: 3}', 'Q0', 'id', 'self', '../../etc/passwd', '/'),
    *('__import__', 'a' * 300, '9' * 30, '9' * 5000, '1' + '0' * 400, '[' * 50, '=cmd', '\\'),
)
NESTED = 5_000  # brackets; json gives up at a thousand
LONG = 50_000  # characters of a line
# Ten lists, each ten times the one before: 10^9 texts in 500 bytes.
BOMB = 'bomb0: &b0 [x]\n' + ''.join(
    f'bomb{n}: &b{n} [{", ".join([f"*b{n - 1}"] * 10)}]\n' for n in range(1, 10)
)
TOKEN = re.compile(r'[^\s,:"\'{}\[\]]+')


def _cut(data: bytes, start: float, length: int) -> tuple:
    """Return what is before, in and behind a stretch of a file."""
    place = int(start * len(data))
    return data[:place], data[place : place + length], data[place + length :]


def flip_bits(data, place, number, value):
    before, middle, after = _cut(data, place, 1)
    return before + bytes(byte ^ (1 << number % 8) for byte in middle) + after


def delete_bytes(data, place, number, value):
    before, _, after = _cut(data, place, number)
    return before + after


def insert_value(data, place, number, value):
    before, middle, after = _cut(data, place, 0)
    return before + value + middle + after


def replace_token(data, place, number, value):
    text = data.decode('utf-8', 'surrogateescape')
    tokens = list(TOKEN.finditer(text))
    if not tokens:
        return value
    token = tokens[int(place * len(tokens))]
    changed = text[: token.start()] + value.decode() + text[token.end() :]
    return changed.encode('utf-8', 'surrogateescape')


def replace_line_end(data, place, number, value):
    """Everything behind the colon, or the comma, of a line."""
    lines = data.split(b'\n')
    line = int(place * len(lines))
    head, mark, _ = re.split(rb'([:,\t ]|$)', lines[line], maxsplit=1)
    lines[line] = head + mark + b' ' * (mark == b':') + value
    return b'\n'.join(lines)


def _with_lines(change):
    def mutate(data, place, number, value):
        lines = data.split(b'\n')
        change(lines, int(place * len(lines)), number % len(lines))
        return b'\n'.join(lines)

    mutate.__name__ = change.__name__
    return mutate


def delete_line(lines, one, other):
    del lines[one]


def double_line(lines, one, other):
    lines.insert(other, lines[one])


def swap_lines(lines, one, other):
    lines[one], lines[other] = lines[other], lines[one]


def join_lines(lines, one, other):
    lines[one : one + 2] = [b''.join(lines[one : one + 2])]


def truncate(data, place, number, value):
    return data[: int(place * len(data))]


def nest(data, place, number, value):
    before, _, after = _cut(data, place, 0)
    return before + (b'[', b'{"a":', b'- ', b'(')[number % 4] * NESTED + after


def lengthen(data, place, number, value):
    before, _, after = _cut(data, place, 0)
    return before + (b'x', b' ', b'\xcc\x81', b'1')[number % 4] * LONG + after


def add_bomb(data, place, number, value):
    return data + BOMB.encode() + value + b': *b9\n'


def zip_bytes(data, place, number, value):
    return gzip.compress(data, 1, mtime=0)


def use_crlf(data, place, number, value):
    return data.replace(b'\n', (b'\r\n', b'\r')[number % 2])


def add_mark(data, place, number, value):
    return b'\xef\xbb\xbf' + data


def recode(data, place, number, value):
    return data.decode('utf-8', 'replace').encode(('utf-16', 'latin-1')[number % 2], 'replace')


MUTATIONS = (
    *(flip_bits, delete_bytes, insert_value, truncate, replace_token, replace_line_end),
    *(replace_token, replace_line_end, replace_token, replace_line_end),  # the most telling ones
    *map(_with_lines, (delete_line, double_line, swap_lines, join_lines)),
    *(nest, lengthen, add_bomb, zip_bytes, use_crlf, add_mark, recode),
)
_CHANGE = st.tuples(
    st.sampled_from(MUTATIONS),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 100),
    st.sampled_from(VALUES).map(str.encode),
)


@st.composite
def spoiled(draw, seeds: tuple) -> bytes:
    """A valid file after one to four changes."""
    data = draw(st.sampled_from(seeds))
    for mutate, place, number, value in draw(st.lists(_CHANGE, min_size=1, max_size=4)):
        data = mutate(data, place, number, value)
    return data


def zip_bomb() -> bytes:
    """One MiB of gzip that becomes a GiB of zeros."""
    part = gzip.compress(bytes(2**24), 9, mtime=0)
    return part * (BOMB_BYTES // 2**24)


class TooSlowError(BaseException):
    """Not an `Exception`: no reader may take it for an error in its file."""


@contextlib.contextmanager
def bounded():
    """Let a reader have ten seconds and one GiB."""

    def stop(*_):
        raise TooSlowError

    size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@dataclass(frozen=True)
class Reader:
    """A reader of the kit, and what tells whether it read right."""

    name: str
    file: object  # Path that it reads
    seeds: tuple  # contents of valid files
    read: object  # function without arguments
    check: object  # function of (bytes, what was read); it asserts
    named: str = ''  # what a message names, if not the file

    def outcome(self, data: bytes) -> str:
        """Read a file of these bytes; anything but a `KitError` or a right answer escapes."""
        replace_file(self.file, data)
        try:
            with bounded():
                answer = self.read()
        except KitError as error:
            message = str(error)
            assert (self.named or self.file.name) in message, message[:500]
            assert len(message) < 20_000, len(message)
            return 'KitError'
        self.check(data, answer)
        return 'read'


_CLOCK = iter(range(10**9, 2 * 10**9))


def replace_file(path, data: bytes):
    """Write a file whose time is new: what was read of the one before counts no more."""
    path.write_bytes(data)
    seconds = next(_CLOCK)
    os.utime(path, (seconds, seconds))
