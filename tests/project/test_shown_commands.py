"""Every command that a text shows can be typed: the command line and the Makefile know it."""

import json
import re
import shlex
import subprocess

import click
import pytest
from conftest import ROOT

from reproduce_kit.cli.app import main

NOTEBOOKS = sorted(
    path for path in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts
)
TEXTS = [ROOT / 'README.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').glob('*.md'))]
FENCE = re.compile(r'^```\w*\n(.*?)^```', re.DOTALL | re.MULTILINE)
COMMAND = r'(?:reproduce|make) [^`\n]+'
PLACEHOLDER = re.compile(r"'[A-Z_/]+'")  # as `--on ENGINE`
SHELL_OPERATORS = ('|', '&&', ';', '>')


def whole_lines(text: str) -> list:
    """Return the commands in the blocks of a text: they can be copied as they are."""
    return [
        line.strip()
        for block in FENCE.findall(text)
        for line in block.splitlines()
        if re.match(COMMAND, line.strip())
    ]


def spans(text: str) -> list:
    """Return the commands within sentences, which may leave out arguments."""
    return re.findall(rf'`({COMMAND})`', FENCE.sub('', text))


def next_steps(text: str) -> list:
    """Return the commands that an output of the kit recommends."""
    steps = re.findall(r'^next: (.*)$', text, re.MULTILINE)
    return [command for step in steps for command in step.split(', and in the end: ')]


def printed(output: dict) -> str:
    return ''.join(output.get('text') or output.get('data', {}).get('text/plain', []))


def shown_commands() -> tuple:  # two sets: whole lines, and spans
    """Return the commands of all texts and notebooks."""
    lines, parts = [], []
    for path in TEXTS:
        lines += whole_lines(path.read_text())
        parts += spans(path.read_text())
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())['cells']:
            source = ''.join(cell['source'])
            is_text = cell['cell_type'] == 'markdown'
            lines += whole_lines(source) if is_text else []
            parts += spans(re.sub(r'\{[^}]*\}', 'NAME', source))
            for output in cell.get('outputs', []):
                lines += next_steps(printed(output))
    return set(lines), set(parts) - set(lines)


LINES, SPANS = shown_commands()


def words_of(command: str) -> list:
    """Return the words that a shell would pass, without comments and what follows a pipe."""
    words = shlex.split(command, comments=True)
    end = next((i for i, word in enumerate(words) if word in SHELL_OPERATORS), len(words))
    return words[:end]


def parse(words: list):
    """Parse the words after `reproduce`; raise click's error for what is wrong."""
    command, name = main, 'reproduce'
    context = click.Context(main, info_name=name, **main.context_settings)
    while isinstance(command, click.Group) and words:
        name, command, words = command.resolve_command(context, words)
    if not isinstance(command, click.Group):
        command.make_context(name, words, parent=context)


def parse_with_gaps(words: list):
    """Parse a command in a sentence: arguments may be missing, and values may be placeholders."""
    if words[0].isupper():  # `reproduce COMMAND`
        return
    try:
        parse([word for word in words if word != '--help'])
    except (click.MissingParameter, click.BadOptionUsage):
        pass
    except click.BadParameter as error:
        if not PLACEHOLDER.search(error.format_message()):
            raise


def make(words: list):
    """Ask make what it would do; fail if it knows no such target."""
    process = subprocess.run(['make', '-n', *words], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_many_commands_are_shown():
    assert len(LINES) > 50 and len(SPANS) > 40


@pytest.mark.parametrize('command', sorted(LINES))
def test_a_whole_line_can_be_typed(command):
    program, *words = words_of(command)
    {'reproduce': parse, 'make': make}[program](words)


@pytest.mark.parametrize('command', sorted(SPANS))
def test_a_command_in_a_sentence_exists_with_its_options(command):
    program, *words = words_of(command)
    {'reproduce': parse_with_gaps, 'make': make}[program](words)


def test_a_mistake_would_be_found():
    with pytest.raises(click.UsageError):
        parse_with_gaps(['plan', '--onn', 'modal'])
    with pytest.raises(click.UsageError):
        parse_with_gaps(['plans'])
    with pytest.raises(AssertionError):
        make(['demos'])
