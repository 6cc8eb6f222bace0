"""All tests here need a GPU and are skipped without one."""

import pytest


@pytest.fixture(autouse=True)
def gpu():
    """The first GPU; skips the test where TensorFlow sees none."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        pytest.skip("TensorFlow sees no GPU")
    return gpus[0]
