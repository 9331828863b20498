"""A command in a terminal of its own, and what is on its screen."""

import os
import re
import sys

import pexpect
from conftest import ROOT

CONTROL = re.compile(r'\x1b\[([0-9;?]*)([a-zA-Z])')
MOVES = re.compile(r'\x1b\[[0-9;?]*[a-zA-Z]|\r|\n')


def spawn(*words, width=80, height=24, env=None):
    """Start a program in a pseudo-terminal of so many columns and lines."""
    given = {key: str(value) for key, value in (env or {}).items()}
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ('COLUMNS', 'LINES', 'NO_COLOR', 'JPY_PARENT_PID')
    }
    return pexpect.spawn(
        str(words[0]),
        [str(word) for word in words[1:]],
        dimensions=(height, width),
        env=kept | dict(TERM='xterm-256color') | given,
        cwd=str(ROOT),
        encoding='utf-8',
        timeout=400,
    )


def spawn_python(code, **options):
    """Start a few lines of Python in a pseudo-terminal."""
    return spawn(sys.executable, '-c', code, **options)


def printed(child):
    """All that a program writes until it ends."""
    text = child.read()
    child.close()
    return text


def screen(text) -> list:
    """Return the lines that a terminal shows after a text that moves up, and clears lines."""
    lines, row, at = [''], 0, 0
    for move in [*MOVES.finditer(text), None]:
        plain = text[at : move.start() if move else len(text)]
        lines[row] += plain
        if move is None:
            break
        at, control = move.end(), CONTROL.fullmatch(move[0])
        if move[0] == '\n':
            row += 1
            lines += [''] * (row + 1 - len(lines))
        elif move[0] == '\r' and text[at : at + 1] != '\n':
            lines[row] = lines[row] if text[at : at + 1] == '\x1b' else ''
        elif control and control[2] == 'A':
            row = max(0, row - int(control[1] or 1))
        elif control and control[2] == 'K':
            lines[row] = ''
    return [line.rstrip() for line in lines if line.strip()]
