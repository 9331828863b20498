"""Build the site: `make docs` writes docs/_build/html, which can be read without a network.

Its pages are the notebooks with their stored outputs, and the texts of docs/. Nothing is executed
but the imports that the API reference reads signatures from."""

import argparse
import json
import shutil
import sys
from pathlib import Path

from site_notebooks import DOCS, NOTEBOOKS, Page, Site, read_page, rendered_notebook
from site_texts import PAPER, SCOREBOARD, add_texts, published_studies
from sphinx.cmd.build import main as sphinx_build

from reproduce_kit.publish.scoreboard import write_scoreboard


def read_pages(
    chosen: list,  # names of folders of nbs/ or of pages; [] for all
) -> list:
    """Return the notebooks that become pages: all but the README's and lists of others."""
    paths = sorted(NOTEBOOKS.rglob('*.ipynb'))
    names = {path: path.relative_to(NOTEBOOKS).with_suffix('').as_posix() for path in paths}
    return [
        read_page(path)
        for path, name in names.items()
        if path.stem != 'index'
        and '.ipynb_checkpoints' not in path.parts
        and (not chosen or any(name == each or name.startswith(f'{each}/') for each in chosen))
    ]


def pages_of_modules(pages: list) -> dict:  # {module: name of its page}
    return {page.module: page.name for page in pages if page.module}


def collect(pages: list[Page]) -> Site:
    """Return a site with all files of its source."""
    site = Site(pages)
    for page in pages:
        site.files[f'{page.name}.ipynb'] = rendered_notebook(page, site)
    add_texts(site, DOCS)
    site.files['modules.json'] = json.dumps(pages_of_modules(pages))
    return site


def write_source(files: dict, folder: Path):
    """Write what has changed, so that Sphinx reads only that, and delete what is gone."""
    for name, content in files.items():
        path = folder / name
        data = content.encode() if isinstance(content, str) else content.read_bytes()
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    for path in folder.rglob('*'):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()


def write_extra(folder: Path):
    """Write what the site takes over as it is: scoreboards, and the paper if it has been made."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for study in published_studies():
        path = folder / SCOREBOARD.format(study=study)
        path.parent.mkdir(exist_ok=True)
        write_scoreboard(study, path)
    if PAPER.exists():
        shutil.copy(PAPER, folder / 'paper.pdf')


def build(out: Path, chosen: list, jobs: str) -> int:
    """Build the site into a folder; return Sphinx's exit status."""
    write_source(collect(read_pages(chosen)).files, out / 'source')
    write_extra(out / 'extra')
    strict = ['-W', '--keep-going', '-n', '-q']
    folders = [f'-c{DOCS}', f'-d{out / "doctrees"}', f'-Dhtml_extra_path={out / "extra"}']
    return sphinx_build([*strict, '-j', jobs, *folders, str(out / 'source'), str(out / 'html')])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('chosen', nargs='*', help='folders of nbs/ or pages; none: all of them')
    parser.add_argument('--out', type=Path, default=DOCS / '_build', help='default: docs/_build')
    parser.add_argument('--jobs', default='auto', help='how many processes; default: auto')
    options = parser.parse_args()
    out = options.out.resolve()
    status = build(out, options.chosen, options.jobs)
    if not status:
        print(f'open {out / "html/index.html"}')
    sys.exit(status)


if __name__ == '__main__':
    main()
