"""The site: it builds without a warning, nothing in it is missing, and it needs no network."""

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import browser_without_network, needs_browser, serious_violations
from conftest import ROOT

from reproduce_kit.cli.app import main
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.verdicts.states import STATES

TUTORIAL, FINDING, ROOM = 'tutorials/own_study', 'analysis/sweep', 'store'
PAGES_OF_EACH_KIND = [
    'index',
    TUTORIAL,
    FINDING,
    'store/20_history',
    'api/store',
    'glossary',
    'scoreboards',
    'scoreboard/lion-vs-adamw',
]
# Each page in one of two schemes, by turns; in the other one in `make soak`.
LOOKS = [
    pytest.param(name, scheme, marks=[pytest.mark.soak] if (n + m) % 2 else [])
    for n, name in enumerate(PAGES_OF_EACH_KIND)
    for m, scheme in enumerate(('light', 'dark'))
]


def build(folder: Path, *chosen: str) -> Path:
    """Build the site as `make docs` does; return the folder of its pages."""
    command = [sys.executable, 'tools/docs.py', *chosen, '--out', folder, '--jobs', '1']
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, (process.stdout + process.stderr)[-6000:]
    return folder / 'html'


@pytest.fixture(scope='module', params=['small', pytest.param('whole', marks=pytest.mark.soak)])
def site(request, tmp_path_factory):
    """The front page with a tutorial, a finding and a room; in `make soak`, all pages."""
    chosen = (TUTORIAL, FINDING, ROOM) if request.param == 'small' else ()
    return build(tmp_path_factory.mktemp('site'), *chosen)


class Links(HTMLParser):
    """What a page refers to, and the anchors that it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.targets, self.anchors = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ('href', 'src') and value:
                self.targets.append(value)
            elif name in ('id', 'name'):
                self.anchors.add(value)


@pytest.fixture(scope='module')
def links(site):
    """{page: its links and anchors}."""
    pages = (path for path in sorted(site.rglob('*.html')) if '_static' not in path.parts)
    return {path: Links(path) for path in pages}


def has_target(links: dict, page: Path, target: str) -> bool:
    """Tell whether a link within the site leads to a file, and to an anchor of it."""
    address = urlsplit(target)
    path = (page.parent / unquote(address.path)).resolve() if address.path else page
    if not address.fragment or path not in links:
        return path.exists()
    return unquote(address.fragment) in links[path].anchors


def test_every_link_image_and_script_is_there(site, links):
    missing = {
        (page.name, target)
        for page, found in links.items()
        for target in found.targets
        if not urlsplit(target).scheme and not has_target(links, page, target)
    }
    assert {site / 'index.html', site / f'{TUTORIAL}.html'} <= links.keys()
    assert not missing


def test_a_page_loads_nothing_from_elsewhere(site):
    loads = re.compile(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+href="https?://')
    assert [path.name for path in site.rglob('*.html') if loads.search(path.read_text())] == []


# --- what a reader finds ---


def text_of(path: Path) -> str:
    """Return what a reader sees of a page."""
    return html.unescape(re.sub(r'<[^>]+>', '', path.read_text()))


def test_the_front_page_has_the_figure_the_commands_and_the_findings(site):
    assert '_images/figure2.png' in (site / 'index.html').read_text()
    front = text_of(site / 'index.html')
    commands = ('make demo', 'make reproduce')
    findings = ('of 108 cells', 'claims in the draft', 'Lion minus AdamW in nDCG@10')
    assert [each for each in (*commands, *findings) if each not in front] == []


def test_a_function_leads_from_its_page_to_the_reference_and_back(site):
    page, reference = (
        (site / name).read_text() for name in ('store/20_history.html', 'api/store.html')
    )
    assert '../api/store.html#reproduce_kit.store.history.truncate_history' in page
    assert 'store/20_history.html#function-truncate-history' in reference
    assert '_modules/reproduce_kit/store/history.html#truncate_history' in reference


def test_the_reference_has_the_comments_of_parameters(site):
    reference = (site / 'api/store.html').read_text()
    entry = reference.split('id="reproduce_kit.store.history.truncate_history"')[1].split('</dl>')[
        0
    ]
    assert '<strong>step</strong>' in entry and 'the last update to keep' in entry


def test_the_source_of_the_library_is_in_the_site(site):
    source = text_of(site / '_modules/reproduce_kit/store/history.html')
    assert 'def truncate_history(' in source


def test_hidden_cells_and_directives_are_not_shown(site):
    for path in (site / ROOM).glob('*.html'):
        text = text_of(path)
        assert '#|' not in text and 'fastcore.test' not in text, path.name


def test_the_glossary_has_every_measure_and_every_verdict(site):
    text = text_of(site / 'glossary.html')
    assert [name for name in (*MEASURES, *STATES) if name not in text] == []


def test_a_formula_is_drawn_by_the_browser_itself(site):
    page = site / 'evaluation/20_significance.html'
    if not page.exists():
        pytest.skip('the small site has no page with a formula')
    assert '<math' in page.read_text()


def test_help_is_the_same_whoever_builds_the_site(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    from site_texts import help_of  # noqa: PLC0415

    shown = []
    for columns in ('50', '200'):
        monkeypatch.setenv('COLUMNS', columns)
        shown.append(help_of(main.commands['run'], 'reproduce'))
    assert shown[0] == shown[1]


# --- in a browser ---


@pytest.fixture(scope='module')
def context():
    with browser_without_network() as context:
        yield context


@pytest.fixture
def page(context):
    """A page of the browser."""
    page = context.new_page()
    yield page
    page.close()


def address(site: Path, name: str) -> str:
    return (site / f'{name}.html').as_uri()


@needs_browser
def test_every_page_opens_without_a_failed_request_or_an_error(site, links, page):
    troubles = []
    page.on('requestfailed', lambda request: troubles.append((page.url, request.url)))
    page.on('pageerror', lambda error: troubles.append((page.url, str(error))))
    page.on(
        'console',
        lambda message: message.type == 'error' and troubles.append((page.url, message.text)),
    )
    for path in links:
        page.goto(path.as_uri())
    assert not troubles


@needs_browser
def test_search_finds_a_measure_by_its_name(site, page):
    page.goto(address(site, 'search') + '?q=Effect+Ratio')
    page.locator('#search-results li a').first.wait_for()
    assert any('glossary' in link for link in result_links(page))


def result_links(page) -> list:
    results = page.locator('#search-results li a')
    return [results.nth(i).get_attribute('href') for i in range(results.count())]


@needs_browser
@pytest.mark.parametrize('name, scheme', LOOKS)
def test_a_page_has_no_serious_barrier(site, page, name, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(address(site, name))
    assert not serious_violations(page)


@needs_browser
@pytest.mark.parametrize('width', [390, 1280])
@pytest.mark.parametrize('name', PAGES_OF_EACH_KIND)
def test_a_page_fits_the_width_of_the_window(site, page, name, width):
    page.set_viewport_size(dict(width=width, height=900))
    page.goto(address(site, name))
    assert page.evaluate('document.documentElement.scrollWidth') <= width


@needs_browser
def test_code_of_88_characters_fits_on_a_small_screen(site, page):
    page.set_viewport_size(dict(width=1280, height=900))
    page.goto(address(site, 'store/20_history'))
    characters = page.evaluate(
        """() => {
          const code = document.querySelector('div.highlight pre:not(details pre)');
          const line = document.createElement('span');
          line.textContent = 'x'.repeat(88);
          code.append(line);
          return code.scrollWidth - code.clientWidth;
        }"""
    )
    assert characters <= 0
