"""All tests here need a GPU and are skipped without one: python -m pytest -m gpu tests/gpu"""

import os

import pytest

# Before TensorFlow starts: it would take the whole card, and leave none to ONNX Runtime and to the commands under test.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@pytest.fixture(scope="session", autouse=True)
def gpu():
    """The first GPU; skips all tests where TensorFlow sees none. What is compared is computed without TF32."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        pytest.skip("TensorFlow sees no GPU")
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield gpus[0]
    tf.config.experimental.enable_tensor_float_32_execution(before)
