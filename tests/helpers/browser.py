"""Chromium for tests of pages: where it is, and a browser whose pages have no network."""

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
def browser_without_network():
    """Yield a context of a browser; what a page asks a network for fails."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        context = browser.new_context()
        context.set_offline(True)
        context.route('http*://**', lambda route: route.abort())
        yield context
        browser.close()
