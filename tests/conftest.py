"""What every test file shares."""

import collections
import os
import pathlib

import pytest

import mocogan_tf  # noqa: F401  Before TensorFlow, which it asks for oneDNN's convolutions.
from mocogan_tf.distribution.hardware import has_nvidia_gpu
from tests.support.commands import TINY, run
from tests.support.skips import StrictSkips

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if not has_nvidia_gpu():
    # Machine code that is made fast takes longer to make than a test's few steps to run.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")


def pytest_addoption(parser):
    parser.addoption("--strict_skips", action="store_true", help="Fail if a test is skipped for an unlisted reason.")


def pytest_configure(config):
    config.option.loadscopereorder = False  # Processes that share the tests take the files in the order below.
    if config.getoption("--strict_skips"):
        config.pluginmanager.register(StrictSkips(whole_files=not config.option.markexpr), "strict_skips")


def limit(item):
    """The seconds that a slow test may take, which tell the longest from the others; nothing for one that is not."""
    timeout = item.get_closest_marker("timeout")
    return 0 if item.get_closest_marker("slow") is None else timeout.args[0] if timeout else 600


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Processes that share the tests begin with the longest files: at the end none waits for one of them."""
    if hasattr(config, "workerinput"):
        limits = collections.Counter()
        for item in items:
            limits[item.path] += limit(item)
        items.sort(key=lambda item: -limits[item.path])


@pytest.fixture(scope="session")
def real_clips():
    """Folder of the authors' strips, `shapes` and `actions`; skips the test where they are not beside the checkout."""
    folder = pathlib.Path(__file__).parent.parent.parent / "shared" / "data"
    if not (folder / "actions").is_dir():
        pytest.skip("the authors' clips are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of two steps on eight clips of two classes, for tests that read it."""
    folder = tmp_path_factory.mktemp("trained")
    flags = [f"--run_dir={folder}/run", f"--cache_dir={folder}/cache", "--steps=2", "--evaluate_every=0"]
    status, _, err = run("train.py", *TINY, *flags)
    assert status == 0, err
    return folder / "run"


@pytest.fixture(scope="module")
def plain_graphs():
    """TensorFlow leaves its graphs as they are: to optimise them takes longer than a run of a few steps."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


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
