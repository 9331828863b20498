"""Each notebook opens in JupyterLab: all its cells, its tables as tables, its pictures."""

import json

import pytest
from browser import chromium, needs_browser
from conftest import ROOT
from jupyterlab import jupyterlab, open_page, stop_kernels

NOTEBOOKS = ROOT / 'nbs'
PATHS = sorted(path.relative_to(NOTEBOOKS).as_posix() for path in NOTEBOOKS.rglob('*.ipynb'))
DRAWN_WITHIN_MILLISECONDS = 60_000
COUNT = """
() => {
  const count = (selector) => document.querySelectorAll('.jp-Notebook ' + selector).length;
  const pictures = [...document.querySelectorAll('.jp-OutputArea-output img')];
  return {
    tables: count('.jp-RenderedHTML table'),
    pictures: pictures.filter((picture) => picture.naturalWidth > 0).length,
    errors: count('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]'),
  };
}
"""


def outputs(path) -> list:
    """The stored outputs of a page that have data."""
    cells = json.loads((NOTEBOOKS / path).read_text())['cells']
    every = [output for cell in cells for output in cell.get('outputs', [])]
    return [output['data'] for output in every if 'data' in output]


def expected(path) -> dict:
    """What the stored outputs of a page have to show."""
    shown = outputs(path)
    html = [''.join(data['text/html']) for data in shown if 'text/html' in data]
    pictures = [data for data in shown if 'image/png' in data and 'text/html' not in data]
    tables = sum(text.count('<table') for text in html)
    return dict(tables=tables, pictures=len(pictures), errors=0)


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lab')
    settings = folder / 'settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings'
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(dict(windowingMode='none')))  # draws all cells, not what is seen
    with jupyterlab(NOTEBOOKS, folder) as address:
        yield address


@pytest.fixture(scope='module')
def page():
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(DRAWN_WITHIN_MILLISECONDS)
        yield page


@pytest.mark.soak
@needs_browser
@pytest.mark.parametrize('path', PATHS)
def test_a_page_opens_and_shows_what_it_stores(address, page, path):
    open_page(page, address, path)
    count = json.dumps(expected(path))
    page.wait_for_function(f'JSON.stringify(({COUNT})()) == JSON.stringify({count})')
    assert page.locator('.jp-Dialog').count() == 0
    stop_kernels(address)
