"""The studio in a real browser: frames move, dice roll, motions swap, the stream runs, a phone's width is enough."""

import contextlib
import pathlib
import re

import pytest

from tests.support.browser import CHROMIUM, launched, opened
from tests.support.made_bundles import BundleSpec, write_bundle
from tests.support.servers import running
from tests.test_pictures import photo

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
SUM = """id => {
  const c = document.getElementById(id);
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let sum = 0;
  for (let i = 0; i < d.length; i += 4) sum = (sum * 31 + d[i] + 3 * d[i + 1] + 7 * d[i + 2]) % 1000003;
  return sum;
}"""
COLOURS = """() => {
  // Averages over a coarse grid: the browser smooths a canvas that was read before a little differently.
  const [c, small] = [document.getElementById('clip'), document.createElement('canvas')];
  small.width = small.height = 8;
  small.getContext('2d').drawImage(c, 0, 0, 8, 8);
  return [...small.getContext('2d').getImageData(0, 0, 8, 8).data];
}"""
NAMELESS = """[...document.querySelectorAll('button, input, select, [role]')].filter(e => e.checkVisibility() && !(
  e.ariaLabel || e.getAttribute('aria-labelledby') || e.textContent.trim() || e.labels?.length
  )).map(e => e.outerHTML)"""
SMALL = """[...document.querySelectorAll('button, select, summary')].filter(e => e.checkVisibility() &&
  e.getBoundingClientRect().height < 36).map(e => e.outerHTML)"""
# Functions, not expressions: the page's content policy forbids eval.
STREAMING = "() => document.getElementById('status').textContent.startsWith('Frame ')"
COUNT = "() => parseInt(document.getElementById('status').textContent.slice(6))"
ONE_CONTENT = "() => new Set([...document.querySelectorAll('.cell')].map(c => c.ariaLabel.split(',')[0])).size === 1"


def patient(bundle, *flags):
    """A server that refuses nothing for its wait: the clips of the page before may still be in work when one opens."""
    return running(f"--bundle={bundle}", "--drain_delay=0", "--max_wait=600", *flags)


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    spec = BundleSpec("painted", dim_content=50, dim_motion=10, image_size=64, painted=True)
    bundle = write_bundle(tmp_path_factory.mktemp("painted") / "b", spec)
    keys = bundle.parent / "keys"
    keys.write_text("a-key-for-the-studio\n")
    with patient(bundle) as process:
        process.bundle, process.keys = bundle, keys
        yield process


@pytest.fixture(scope="module")
def browser():
    with launched(playwright) as browser:
        yield browser


@contextlib.contextmanager
def page_of(browser, url, fragment="", **context):
    """The page, loaded; whatever it logs as an error or asks of elsewhere fails the test."""

    def is_own(asked):
        return url in asked or asked.startswith(("blob:", "data:", "ws:"))

    with opened(browser, url + fragment, is_own=is_own, timeout_s=60, **context) as page:
        yield page


def changes(page, canvas, was):
    page.wait_for_function(f"was => ({SUM})('{canvas}') !== was", arg=was)
    return page.evaluate(SUM, canvas)


def ready(page):
    """Waits until grid and clip are painted: an empty canvas sums up to 0."""
    page.wait_for_selector(".cell canvas")
    page.wait_for_function(f"() => ({SUM})('clip') !== 0")


def test_frames_move_and_stop(browser, painted):
    with page_of(browser, painted.url) as page:
        ready(page)
        first = page.evaluate(SUM, "clip")
        changes(page, "clip", first)
        page.click("#play")
        page.wait_for_timeout(300)
        still = page.evaluate(SUM, "clip")
        page.wait_for_timeout(600)
        assert page.evaluate(SUM, "clip") == still
        # The strip goes frame by frame with the arrow keys.
        page.focus("#strip")
        page.keyboard.press("Home")
        assert page.get_attribute("#strip", "aria-valuenow") == "1"
        page.keyboard.press("ArrowRight")
        assert page.get_attribute("#strip", "aria-valuenow") == "2"


def test_dice_sliders_locks_and_categories(browser, painted):
    with page_of(browser, painted.url, "/#category=0", reduced_motion="reduce") as page:
        ready(page)  # With reduced motion nothing plays by itself, so pictures change only when asked to.
        picture = page.evaluate(SUM, "clip")
        for act in (
            lambda: page.click("[data-dice=content]"),
            lambda: page.click("[data-dice=motion]"),
            lambda: page.fill("#content-seed", "12"),
            lambda: page.focus("#content-blend") or page.keyboard.press("PageUp"),
            lambda: page.focus("#motion-scale") or page.keyboard.press("End"),
            lambda: page.check("input[name=category][value='2']"),
        ):
            act()
            picture = changes(page, "clip", picture)
        page.check("#content-lock")
        content, motion = page.input_value("#content-seed"), page.input_value("#motion-seed")
        page.click("#surprise")
        picture = changes(page, "clip", picture)
        assert page.input_value("#content-seed") == content and page.input_value("#motion-seed") != motion
        page.focus("body")
        page.keyboard.press("c")
        changes(page, "clip", picture)
        assert page.input_value("#content-seed") != content
        page.fill("#content-seed", "abc")
        assert page.get_attribute("#content-seed", "aria-invalid") == "true"


def test_motion_is_swapped_and_the_content_stays(browser, painted):
    with page_of(browser, painted.url, reduced_motion="reduce") as page:
        ready(page)
        left, right = page.text_content("#left-caption"), page.text_content("#right-caption")
        picture = page.evaluate(SUM, "left")
        page.click("#swap")
        changes(page, "left", picture)
        after_left, after_right = page.text_content("#left-caption"), page.text_content("#right-caption")
        assert [t.split("motion")[0] for t in (left, right)] == [
            t.split("motion")[0] for t in (after_left, after_right)
        ]
        assert [t.split("motion")[1] for t in (left, right)] == [
            t.split("motion")[1] for t in (after_right, after_left)
        ]


def test_a_cell_of_the_grid_goes_to_the_stage_and_rows_share_content(browser, painted):
    with page_of(browser, painted.url, reduced_motion="reduce") as page:
        ready(page)
        assert page.locator(".cell").count() == 24
        names = [cell.get_attribute("aria-label").split(",")[0] for cell in page.locator(".cell").all()]
        assert len(set(names)) == 4 and names[0] == names[5] != names[6]
        picture = page.evaluate(SUM, "clip")
        page.locator(".cell").nth(9).click()
        changes(page, "clip", picture)
        assert page.input_value("#content-seed") == names[9].removeprefix("Content ")
        page.check("input[name=vary][value=motion]")
        page.wait_for_function(ONE_CONTENT)


def test_endless_play_and_back(browser, painted):
    with page_of(browser, painted.url) as page:
        ready(page)
        page.click("#endless")
        page.wait_for_function(STREAMING)
        first = page.evaluate(COUNT)
        page.click("[data-dice=content]")  # Glides there without a break.
        page.wait_for_function(f"first => ({COUNT})() > first + 16", arg=first)
        assert page.evaluate(COUNT) > first + 16
        page.click("#endless")
        page.wait_for_function("() => document.getElementById('status').textContent.includes('rendered in')")
        assert "rendered in" in page.text_content("#status")


@pytest.fixture(scope="module")
def animated(tmp_path_factory):
    """A server of a model that animates pictures, and a picture."""
    spec = BundleSpec("animated", dim_content=50, dim_motion=10, image_size=64, painted=True, pictures=4)
    folder = tmp_path_factory.mktemp("animated")
    photo(120, 80).save(folder / "mine.png")
    with patient(write_bundle(folder / "b", spec)) as process:
        process.picture = folder / "mine.png"
        yield process


def test_a_picture_of_ones_own_is_shown_and_animated(browser, animated):
    with page_of(browser, animated.url, reduced_motion="reduce") as page:
        ready(page)
        assert page.locator("#pictures button").count() == 4
        assert page.locator("#pictures button[aria-current=true]").count() == 1, "which of them the seed chose"
        chosen, clip = page.evaluate(SUM, "inset"), page.evaluate(SUM, "clip")
        with page.expect_request("**/v1/generate") as asked:
            page.set_input_files("#file", animated.picture)
        given = asked.value.post_data_json
        assert given["image"].startswith("data:image/png;base64,") and "content_seed" not in given
        mine = changes(page, "inset", chosen)
        clip = changes(page, "clip", clip)
        assert page.locator("#pictures button[aria-current=true]").count() == 0
        page.wait_for_selector(".cell[aria-label^='Your picture']")
        assert page.is_checked("#content-lock")
        page.click("#surprise")  # Another motion, and the same picture.
        clip = changes(page, "clip", clip)
        assert page.evaluate(SUM, "inset") == mine
        page.locator("#pictures button").nth(2).click()
        changes(page, "inset", mine)
        page.wait_for_selector("#pictures button:nth-child(3)[aria-current=true]")


def test_a_picture_of_ones_own_goes_on_without_end(browser, animated):
    with page_of(browser, animated.url) as page:
        ready(page)
        page.set_input_files("#file", animated.picture)
        page.wait_for_selector(".cell[aria-label^='Your picture']")
        page.click("#endless")
        page.wait_for_function(STREAMING)
        first = page.evaluate(COUNT)
        page.click("[data-dice=content]")
        page.wait_for_function(f"first => ({COUNT})() > first + 16", arg=first)
        assert page.evaluate(COUNT) > first + 16


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_place_for_a_picture_fits_and_has_a_name(browser, animated, tmp_path, width, height):
    with page_of(browser, animated.url, viewport={"width": width, "height": height}) as page:
        ready(page)
        page.set_input_files("#file", animated.picture)
        page.wait_for_selector(".cell[aria-label^='Your picture']")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate(SMALL) == []
        page.screenshot(path=tmp_path / "studio.png", full_page=True)


def test_other_models_ask_for_no_picture(browser, painted):
    with page_of(browser, painted.url) as page:
        ready(page)
        assert page.is_hidden("#own") and page.is_hidden("#pictures") and page.is_hidden("#inset")
        assert page.is_visible("#content-scale")


def test_a_file_is_saved(browser, painted):
    with page_of(browser, painted.url) as page:
        ready(page)
        page.click("#download summary")
        with page.expect_download() as saved:
            page.click("#formats button:has-text('GIF')")
        assert pathlib.Path(saved.value.path()).read_bytes()[:6] == b"GIF89a"
        assert saved.value.suggested_filename.endswith(".gif")


def test_a_link_brings_the_same_clip_back(browser, painted):
    with page_of(browser, painted.url, reduced_motion="reduce") as page:
        ready(page)
        first, picture = page.evaluate(COLOURS), page.evaluate(SUM, "clip")
        page.fill("#motion-seed", "77")
        changes(page, "clip", picture)
        fragment, colours = page.url.removeprefix(painted.url), page.evaluate(COLOURS)
    with page_of(browser, painted.url, fragment, reduced_motion="reduce") as page:
        ready(page)
        assert page.input_value("#motion-seed") == "77"
        again = page.evaluate(COLOURS)
    assert max(abs(a - b) for a, b in zip(colours, again, strict=True)) < 12
    assert max(abs(a - b) for a, b in zip(colours, first, strict=True)) > 30


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (768, 1024), (360, 740)])
def test_nothing_is_cut_off_and_everything_has_a_name(browser, painted, tmp_path, width, height, scheme):
    with page_of(browser, painted.url, viewport={"width": width, "height": height}, color_scheme=scheme) as page:
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate(SMALL) == []
        page.screenshot(path=tmp_path / "studio.png", full_page=True)


def test_a_server_with_keys_asks_for_one(browser, painted):
    with patient(painted.bundle, f"--api_key_file={painted.keys}") as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "a-key-for-the-studio")
        page.click("#key-dialog button")
        page.wait_for_selector(".cell canvas")
        assert page.locator("#key-dialog[open]").count() == 0 and page.locator(".cell canvas").count() > 0
        page.click("#endless")
        page.wait_for_function(STREAMING)
        assert page.evaluate(COUNT) > 0
        context.close()


def test_a_page_asks_for_one_thing_at_a_time(browser, painted):
    held = []
    context = browser.new_context()
    page = context.new_page()
    page.route(re.compile("/v1/(generate|grid)"), lambda route: held.append(route))
    page.goto(painted.url)
    for number in range(1, 5):  # The clip, the two of the pair, and the grid.
        while len(held) < number:
            page.wait_for_timeout(20)
        page.wait_for_timeout(200)
        assert len(held) == number
        held[-1].continue_()
    ready(page)
    context.close()


def test_a_panel_without_a_picture_says_why_and_tries_again(browser, painted):
    context = browser.new_context()
    page = context.new_page()
    page.route("**/v1/grid", lambda route: route.abort())
    page.goto(painted.url)
    page.wait_for_selector("#grid-note.bad")
    assert page.text_content("#grid-note") == "The server does not answer.Try again"
    assert page.is_hidden("#clip-note") and page.is_hidden("#pair-note")
    page.unroute("**/v1/grid")
    page.click("#grid-note button")
    ready(page)
    assert page.is_hidden("#grid-note")
    page.route("**/info", lambda route: route.abort())
    page.reload()
    page.wait_for_selector("#pair-note.bad")
    page.unroute("**/info")
    page.click("#pair-note button")
    ready(page)
    context.close()


def test_without_its_script_the_page_says_what_is_missing(browser, painted):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(painted.url)
    for panel in ("clip", "pair", "grid"):
        assert "it needs JavaScript" in page.text_content(f"#{panel}-note") and page.is_visible(f"#{panel}-note a")
    context.close()


def test_the_page_of_the_api_lists_every_route(browser, painted):
    with page_of(browser, painted.url) as page:
        page.goto(f"{painted.url}/docs")
        page.wait_for_selector(".route")
        text = page.text_content("#routes")
        for route in ("/v1/generate", "/v1/grid", "/v1/models/{model}:predict", "/v2/models/{model}/infer"):
            assert route in text
