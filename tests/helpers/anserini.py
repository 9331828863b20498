"""Anserini's own program, called as its users call it."""

import subprocess
from importlib.util import find_spec
from pathlib import Path

from reproduce_kit.data.bm25 import java_home


def index_with_anserini(documents: Path, index: Path):
    """Index a folder of {id, contents} lines, as the prebuilt index was."""
    jars = Path(find_spec('pyserini').origin).parent / 'resources/jars'
    jar = sorted(jars.glob('anserini-*-fatjar.jar'))[-1]
    options = {
        '-collection': 'JsonCollection',
        '-input': documents,
        '-index': index,
        '-generator': 'DefaultLuceneDocumentGenerator',
        '-threads': '1',
    }
    words = [word for option in options.items() for word in option]
    flags = ['-storePositions', '-storeDocvectors', '-storeRaw']
    program = [java_home() / 'bin/java', '-cp', jar, 'io.anserini.index.IndexCollection']
    subprocess.run([*program, *words, *flags], check=True, capture_output=True)
