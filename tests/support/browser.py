"""A headless Chromium for the tests of pages."""

import contextlib
import shutil

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@contextlib.contextmanager
def launched(playwright):
    """The browser, by way of `playwright.sync_api`."""
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, address, *, is_own, timeout_s, **context):
    """A page, loaded; whatever it logs as an error or asks of elsewhere fails the test.

    Args:
        browser: As of `launched`.
        address: What to open.
        is_own: Whether a request's address belongs to the page.
        timeout_s: Of every wait.
        **context: As of Playwright's `new_context`.
    """
    context = browser.new_context(**context)
    page = context.new_page()
    page.set_default_timeout(1000 * timeout_s)
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if is_own(request.url) else problems.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert problems == [], problems  # Said here: pytest explains the assertions of test modules only.
