"""Texts of the site: docs/*.md, with what other files say already put in place of its marks.

A mark is a comment with a name and words: `<!-- readme: What we found -->`."""

import html
import re
import sys
import textwrap
from pathlib import Path

import click
import yaml
from readme import render as render_readme
from site_notebooks import NOTEBOOKS, ROOT, Page, Site, read_page

from reproduce_kit.cli.app import SECTIONS
from reproduce_kit.config.study import read_study
from reproduce_kit.data.published import is_published

MARK = re.compile(r'<!-- (\w+)(?:: (.*?))? -->')
PAPER = ROOT / 'paper/main.pdf'
OTHER_ROOMS = {  # that the README does not list
    'core': 'errors, paths, atomic files, hashes',
    'speed': 'benchmarks and their limits',
    'testing': 'tiny models, a hub in a folder, runs made up',
    'experiments': 'the notebooks that runs execute',
}
SCOREBOARD = 'scoreboard/{study}.html'
HELP_WIDTH = 86  # columns, whatever the terminal of whoever builds the site


def readme_sections() -> dict:  # {heading: text}; the text before the first heading has ''
    """Return the README, section by section."""
    text = re.sub(r'<!--.*?-->\n', '', render_readme())
    head, *sections = re.split(r'^## ', text, flags=re.MULTILINE)
    named = (section.partition('\n') for section in sections)
    return {'': head.partition('\n')[2]} | {title: body for title, _, body in named}


def room_sentences() -> dict:  # {room: what is in it}, in the order of the README
    """Return what is in each room: from the README's table, and what it leaves out."""
    rows = re.findall(r'^\| `nbs/(\w+)` \| (.*) \|$', render_readme(), re.MULTILINE)
    return {'core': OTHER_ROOMS['core']} | dict(rows) | OTHER_ROOMS


def published_studies() -> dict:  # {study: title}
    """Return the studies with printed numbers, which have a scoreboard."""
    studies = sorted(path.name for path in (ROOT / 'params').iterdir() if is_published(path.name))
    return {study: study_title(study) for study in studies}


def study_title(study: str) -> str:
    publication = read_study(study).publication
    return publication.title if publication else study


# --- marks ---


def readme(site: Site, page: str, words: str) -> str:
    """A section of the README, by its heading."""
    sections = readme_sections()
    if words not in sections:
        sys.exit(f'{page}: the README has no section {words!r}; there are {", ".join(sections)}')
    return site.prose(sections[words].strip(), ROOT, page, {})


def toctree(entries) -> str:
    """Return a list of pages for the navigation alone."""
    return '\n'.join(['```{toctree}', ':hidden:', '', *entries, '```'])


def card(title: str, text: str, page: str) -> str:
    return f':::{{grid-item-card}} {title}\n:link: /{page}\n:link-type: doc\n\n{text}\n:::'


def grid(cards: list) -> str:
    if not cards:
        return ''
    return '\n'.join(['::::{grid} 1 1 2 2', ':gutter: 3', '', *cards, '::::'])


def sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip('.') + '.'


def pages(site: Site, page: str, words: str) -> str:
    """The pages of a folder as cards; names that follow the folder come first."""
    folder, *first = words.split()
    names = [f'{folder}/{name}' for name in first]
    missing = [name for name in names if not (NOTEBOOKS / f'{name}.ipynb').exists()]
    if missing:
        sys.exit(f'docs/{page}: there is no page nbs/{missing[0]}.ipynb; correct its name')

    def place(each: Page):
        return names.index(each.name) if each.name in names else len(names), each.name

    listed = sorted(site.of_folder(folder), key=place)
    cards = [card(each.title, each.question, each.name) for each in listed]
    return grid(cards) + '\n\n' + toctree(f'/{each.name}' for each in listed)


def listed(site: Site, page: str, words: str) -> str:
    """The page that lists a folder's pages, and those pages in its order."""
    path = NOTEBOOKS / words / 'index.ipynb'
    text = '\n\n'.join(cell.source for cell in read_page(path).cells)
    names = [f'{words}/{name}' for name in re.findall(r'\]\((\w+)\.ipynb\)', text)]
    chosen = {each.name for each in site.of_folder(words)}
    entries = [f'/{name}' for name in names if name in chosen]
    return site.prose(text, path.parent, page, {}) + '\n\n' + toctree(entries)


def chosen_rooms(site: Site) -> dict:  # {room: what is in it}
    """Return the rooms of the library that the site has pages of."""
    return {room: text for room, text in room_sentences().items() if site.of_folder(room)}


def rooms(site: Site, page: str, words: str) -> str:
    """The rooms of the library, each with a page that lists its pages."""
    found = chosen_rooms(site)
    for room, text in found.items():
        site.files[f'{room}/index.md'] = room_text(site, room, text)
    cards = [
        card(room_title(room), sentence(text), f'{room}/index') for room, text in found.items()
    ]
    return grid(cards) + '\n\n' + toctree(f'/{room}/index' for room in found)


def room_title(room: str) -> str:
    return {'cli': 'Command line'}.get(room, room.capitalize())


def has_reference(site: Site, room: str) -> bool:
    return any(page.definitions for page in site.of_folder(room))


def room_text(site: Site, room: str, text: str) -> str:
    """Return the page of a room: its sentence, and a line for each notebook."""
    listed = site.of_folder(room)
    lines = [f'- [{each.title}](/{each.name}): {each.subtitle}' for each in listed]
    parts = [f'# {room_title(room)}', f'> {sentence(text)}', '\n'.join(lines)]
    if has_reference(site, room):
        parts.append(f'All functions and classes: [API reference](/api/{room}).')
    return '\n\n'.join([*parts, toctree(f'/{each.name}' for each in listed)]) + '\n'


def reference(site: Site, page: str, words: str) -> str:
    """The API reference, a page for each room."""
    found = [room for room in chosen_rooms(site) if has_reference(site, room)]
    for room in found:
        site.files[f'api/{room}.md'] = reference_text(site, room)
    sentences = room_sentences()
    cards = [card(room_title(room), sentence(sentences[room]), f'api/{room}') for room in found]
    entries = [f'{room_title(room)} </api/{room}>' for room in found]
    return grid(cards) + '\n\n' + toctree(['/commands', *entries])


def reference_text(site: Site, room: str) -> str:
    """Return the API reference of a room, module by module."""
    parts = [
        f'# {room_title(room)}: reference',
        f'What the pages of [{room}](/{room}/index) define.',
    ]
    for page in site.of_folder(room):
        if page.definitions:
            parts += [
                f'## {page.title}',
                f'`{page.module}`, from the page [{page.title}](/{page.name}). {page.subtitle}',
                f'```{{eval-rst}}\n.. automodule:: {page.module}\n   :members:\n```',
            ]
    return '\n\n'.join(parts) + '\n'


def commands(site: Site, page: str, words: str) -> str:
    """What `reproduce COMMAND --help` prints, for each command."""
    parts = []
    for heading, group in SECTIONS.items():
        parts.append(f'## {heading}')
        for command in group:
            parts += help_of(command, 'reproduce')
    return '\n\n'.join(parts)


def help_of(command: click.Command, group: str) -> list:
    """Return heading and help of a command, then those of its own commands."""
    name = f'{group} {command.name}'
    text = command.get_help(click.Context(command, info_name=name, terminal_width=HELP_WIDTH))
    parts = [f'### {name}', f'```text\n{text}\n```']
    for each in getattr(command, 'commands', {}).values():
        parts += help_of(each, name)
    return parts


def scoreboards(site: Site, page: str, words: str) -> str:
    """A link for each study with printed numbers; the scoreboards are pages of their own."""
    links = [
        f'<li><a href="{SCOREBOARD.format(study=study)}">{html.escape(title)}</a> '
        f'(<code>{study}</code>)</li>'
        for study, title in published_studies().items()
    ]
    return '\n'.join(['<ul>', *links, '</ul>'])


def terms(site: Site, page: str, words: str) -> str:
    """The first table of a page as entries of a glossary: a term and its meaning in each row."""
    text = '\n'.join(cell.source for cell in read_page(NOTEBOOKS / f'{words}.ipynb').cells)
    table = re.search(r'^\|.*\|\n\|[-|]+\|\n((?:\|.*\|\n?)+)', text, re.MULTILINE)
    rows = [row.strip('|').split('|') for row in table[1].strip().split('\n')]
    return '\n\n'.join(f'{term.strip(" `")}\n: {sentence(text.strip())}' for term, text in rows)


def paper(site: Site, page: str, words: str) -> str:
    """A link to the paper as PDF, if it has been made here."""
    if PAPER.exists():
        return '<p><a href="paper.pdf">The paper as PDF</a>, with all tables and figures.</p>'
    return '`reproduce paper` writes all tables and figures into one PDF, `paper/main.pdf`.'


def changelog(site: Site, page: str, words: str) -> str:
    return site.prose((ROOT / 'CHANGELOG.md').read_text().strip(), ROOT, page, {})


def bibtex(site: Site, page: str, words: str) -> str:
    """The entry of CITATION.cff for BibTeX."""
    entry = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    released = str(entry['date-released'])
    summary = textwrap.fill(entry['abstract'], 72, subsequent_indent=' ' * 10)
    fields = dict(
        title=f'{{{entry["title"]}}}',
        author=' and '.join(f'{{{author["name"]}}}' for author in entry['authors']),
        year=released[:4],
        version=entry['version'],
        note=summary,
    )
    lines = [f'  {key} = {{{value}}},' for key, value in fields.items()]
    return '\n'.join(['```bibtex', '@software{reproduce_kit,', *lines, '}', '```'])


MARKS = {
    mark.__name__: mark
    for mark in (
        *(readme, pages, listed, rooms, reference, commands),
        *(scoreboards, terms, paper, changelog, bibtex),
    )
}


def filled(text: str, site: Site, page: str) -> str:
    """Return a text with its marks replaced."""

    def replace(match):
        if match[1] not in MARKS:
            sys.exit(f'docs/{page}: unknown mark {match[1]!r}; there are {", ".join(MARKS)}')
        return MARKS[match[1]](site, page, match[2] or '')

    return MARK.sub(replace, text)


def add_texts(site: Site, folder: Path):
    """Put the texts of a folder into the site's source."""
    for path in sorted(folder.glob('*.md')):
        text = site.prose(path.read_text(), folder, path.name, {})
        site.files[path.name] = filled(text, site, path.name)
