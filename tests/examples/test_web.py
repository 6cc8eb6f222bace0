"""The page in a real browser: its canvas shows the server's clip, wrong files are explained, nothing is cut off."""

import base64
import contextlib
import os
import subprocess

import numpy as np
import pytest

from tests.support import example_models
from tests.support.browser import CHROMIUM, launched, opened
from tests.support.toolchains import EXAMPLES, node_modules, tool

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
WEB = EXAMPLES / "web"

FRAMES = """() => {
  // Frame by frame, as someone who drags the slider would see them; in base64, which travels faster than numbers.
  const [canvas, position] = [document.getElementById('clip'), document.getElementById('position')];
  const frames = [];
  for (let t = 0; t <= Number(position.max); t++) {
    position.value = t;
    position.dispatchEvent(new Event('input'));
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    frames.push(btoa(String.fromCharCode(...data)));
  }
  return frames;
}"""
NAMELESS = """() => [...document.querySelectorAll('button, input, canvas')].filter(e => e.checkVisibility() && !(
  e.ariaLabel || e.ariaHidden || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"""
CUT_OFF = """() => [...document.querySelectorAll('fieldset *')].filter(e => e.checkVisibility() &&
  e.getBoundingClientRect().right > e.closest('fieldset').getBoundingClientRect().right).map(e => e.outerHTML)"""
MADE = "() => document.getElementById('status').textContent.includes('frames in')"
REFUSED = "() => document.getElementById('status').className === 'bad'"


@pytest.fixture(scope="module")
def url():
    """The site as `npm start` puts it together and serves it."""
    program = tool("node")
    node_modules(WEB)
    command = [program, "site.mjs", "--serve"]
    with subprocess.Popen(
        command, cwd=WEB, env={**os.environ, "PORT": "0"}, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert "ready for any file server" in server.stdout.readline()
            yield server.stdout.readline().strip()
        finally:
            server.kill()


@pytest.fixture(scope="module")
def browser():
    with launched(playwright) as browser:
        yield browser


@contextlib.contextmanager
def page_of(browser, url, fragment="", **context):
    """The page, its first clip made; whatever it logs as an error or asks of elsewhere fails the test."""

    def is_own(asked):
        return asked.startswith((url, "blob:", "data:"))

    with opened(browser, url + fragment, is_own=is_own, timeout_s=120, **context) as page:
        page.wait_for_function(MADE)
        yield page


def shown(page, shape):
    """uint8 `[T, H, W, 3]`, read back from the canvas."""
    frames = b"".join(map(base64.b64decode, page.evaluate(FRAMES)))
    rgba = np.frombuffer(frames, np.uint8).reshape(*shape[:3], 4)
    assert (rgba[..., 3] == 255).all()
    return rgba[..., :3]


def same(found, expected):
    return np.abs(found.astype(int) - expected).max() <= 1 and (found != expected).mean() < 1e-3


def test_the_canvas_shows_seed_7_as_the_server_makes_it(browser, url, taichi):
    expected = example_models.pixels(example_models.reference(taichi, 7, 40))
    with page_of(browser, url, "#seed=7&frames=40") as page:
        assert "WebAssembly" in page.text_content("#model") and not page.evaluate("crossOriginIsolated")
        assert same(shown(page, expected.shape), expected)
        assert page.locator("#pieces i").count() == 2


def test_the_largest_seed_and_a_chosen_category(browser, url, taichi):
    seed = 2**64 - 1
    expected = example_models.pixels(example_models.reference(taichi, seed, 20, category=1))
    assert not same(expected, example_models.pixels(example_models.reference(taichi, seed, 20, category=2)))
    with page_of(browser, url, f"#seed={seed}&frames=20") as page:
        page.check("input[name=category][value='1']", force=True)
        page.wait_for_function("() => document.getElementById('status').textContent.includes('cloud hands: 20 frames')")
        assert page.input_value("#seed") == str(seed)
        assert same(shown(page, expected.shape), expected)
        assert page.url.endswith(f"#seed={seed}&frames=20&category=1")


def test_controls_change_the_clip_and_playing_moves_it(browser, url):
    with page_of(browser, url, "#seed=7&frames=16", reduced_motion="reduce") as page:
        first = shown(page, (16, 64, 64))
        page.fill("#seed", "8")
        page.wait_for_function("() => document.getElementById('status').textContent.startsWith('Seed 8')")
        assert not same(shown(page, (16, 64, 64)), first)
        # As a hand on the slider: many wishes at once, of which the last one counts.
        page.evaluate("""() => {
          const slider = document.getElementById('seed-slider');
          for (let seed = 0; seed <= 20; seed++) {
            slider.value = seed;
            slider.dispatchEvent(new Event('input'));
          }
        }""")
        page.wait_for_function("() => document.getElementById('status').textContent.startsWith('Seed 20')")
        page.focus("#frames")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.getElementById('frame').textContent.endsWith('of 17')")
        page.fill("#seed", "a person")
        assert page.get_attribute("#seed", "aria-invalid") == "true"
        assert "from 0 to 18446744073709551615" in page.text_content("#status")
        page.fill("#position", "0")
        page.click("#play")
        page.wait_for_function("() => Number(document.getElementById('position').value) > 2")


def test_files_are_opened_and_wrong_ones_explained(browser, url, grey, tmp_path):
    expected = example_models.pixels(example_models.reference(grey, 7, 10))
    text = tmp_path / "text.onnx"
    text.write_text("This is no model.\n")
    wrong = {
        text: "text.onnx is no .onnx file",
        example_models.with_metadata(
            grey, tmp_path / "bare.onnx", dict.clear
        ): "bare.onnx has no contract in its metadata_props",
        example_models.with_metadata(
            grey, tmp_path / "old.onnx", lambda found: found.update(format_version="0")
        ): "old.onnx has contract version 0, this program reads 1",
        example_models.TAICHI / "motion.onnx": "needed is model.onnx, or motion.onnx and frames.onnx together",
    }
    with page_of(browser, url, "#seed=7&frames=10") as page:
        for path, message in wrong.items():
            page.set_input_files("#files", path)
            page.wait_for_function(REFUSED)
            assert message in page.text_content("#status")
            page.fill("#seed", "8")  # What was there goes on working.
            page.wait_for_function(MADE)
        page.fill("#seed", "7")
        page.set_input_files("#files", grey)
        page.wait_for_function("() => document.getElementById('model').textContent.startsWith('grey')")
        page.wait_for_function(MADE)
        assert page.is_hidden("#category")
        assert same(shown(page, expected.shape), expected)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_nothing_is_cut_off_and_everything_has_a_name(browser, url, tmp_path, width, height, scheme):
    with page_of(browser, url, viewport={"width": width, "height": height}, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate(CUT_OFF) == []
        page.screenshot(path=tmp_path / "page.png", full_page=True)
