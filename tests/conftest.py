"""What every test file shares."""

import os
import pathlib

import pytest

from tests.support.skips import StrictSkips

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_addoption(parser):
    parser.addoption("--strict_skips", action="store_true", help="Fail if a test is skipped for an unlisted reason.")


def pytest_configure(config):
    if config.getoption("--strict_skips"):
        config.pluginmanager.register(StrictSkips(whole_files=not config.option.markexpr), "strict_skips")


@pytest.fixture(scope="session")
def real_clips():
    """Folder of the authors' strips, `shapes` and `actions`; skips the test where they are not beside the checkout."""
    folder = pathlib.Path(__file__).parent.parent.parent / "shared" / "data"
    if not (folder / "actions").is_dir():
        pytest.skip("the authors' clips are not beside this checkout")
    return folder


@pytest.fixture
def float64():
    """Everything that is built computes in float64."""
    import keras  # Not at the top: many tests do without TensorFlow.

    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
