"""A browser for tests of pages, or a reason to skip them."""

import shutil
from contextlib import contextmanager

import pytest

PROGRAMS = ('chromium', 'chromium-browser', 'google-chrome')
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
needs_browser = pytest.mark.skipif(
    not CHROMIUM,
    reason='no browser: chromium is not installed (`make browser` installs it where it may)',
)


@contextmanager
def chromium():
    """Yield a headless browser."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def browser_without_network():
    """Yield a context of a browser; what a page asks a network for fails."""
    with chromium() as browser:
        context = browser.new_context()
        context.set_offline(True)
        context.route('http*://**', lambda route: route.abort())
        yield context


def serious_violations(page) -> list:
    """Return what axe-core finds on a page that keeps people from using it."""
    axe = pytest.importorskip('axe_playwright_python.sync_playwright')
    violations = axe.Axe().run(page).response['violations']
    return [
        (violation['id'], violation['nodes'][0]['html'][:200])
        for violation in violations
        if violation['impact'] in ('serious', 'critical')
    ]
