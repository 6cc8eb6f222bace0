"""The part of the packaging that needs code; pyproject.toml has the rest."""

import pathlib
import re

from setuptools import setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "mocogan_tf" / "__init__.py").read_text()).group(1)

# onnxruntime-gpu also runs on a CPU; it has wheels for Linux on x86-64 and for Windows only. Up to 1.26 its wheels are
# built for CUDA 12, which is what TensorFlow uses: both fit one environment.
ON_CUDA = "(sys_platform == 'linux' and platform_machine == 'x86_64') or sys_platform == 'win32'"
ELSEWHERE = "(sys_platform != 'linux' or platform_machine != 'x86_64') and sys_platform != 'win32'"
ONNXRUNTIME = [f"onnxruntime-gpu>=1.24,<1.27; {ON_CUDA}", f"onnxruntime>=1.24; {ELSEWHERE}"]


def serving_requirements() -> list[str]:
    """Returns what the serving package needs, except ONNX Runtime: two builds of it in one environment break it."""
    lines = (HERE / "serving" / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "onnxruntime"))]


EXTRAS = {
    # tensorflow-io's native code is built against TensorFlow 2.16 and does not load on a newer one.
    "io": ["tensorflow-io==0.37.1", "tensorflow==2.16.*", "onnx<1.18"],
    "gpu": ["tensorflow[and-cuda]>=2.16.2,<2.22"],
    "video": ["av>=14"],
    # importlib_resources: tensorflow-datasets imports it without saying so.
    "tfds": ["tensorflow-datasets>=4.9", "importlib_resources"],
    "beam": ["apache-beam>=2.60"],
    "serving": serving_requirements(),
    "openvino": ["openvino>=2025.0"],
    "grpc": ["grpcio>=1.60", "protobuf>=4.25"],
    "ray": ["ray[serve]>=2.40"],
    "test": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "scipy>=1.11",
        "httpx>=0.27",
        "pyyaml>=6",
        "h5py>=3.10",
        "av>=14",
        *serving_requirements(),
    ],
    # PyTorch, to measure against, and video files for it to read: `python -m benchmarks.train_step` and its sisters.
    # sympy: ONNX Runtime's quantiser (`benchmarks.int8`) imports it.
    "bench": ["torch>=2.5", "av>=14", "sympy>=1.12"],
    # What some tests need besides `test`, and skip without.
    "ci": [
        "openvino>=2025.0",
        "grpcio>=1.60",
        "schemathesis>=4",
        "playwright>=1.49",
        "tritonclient[http]>=2.50",
        "kubernetes-validate>=1.31",
        "ruff>=0.8",
        "mypy>=1.13",
        "types-PyYAML",
    ],
}

setup(
    version=VERSION,
    install_requires=[
        "tensorflow>=2.16.2,<2.22",
        "keras>=3.12",
        "numpy>=1.26",
        "pillow>=10.3",
        "absl-py>=2.1",
        "tqdm>=4.66",
        "tensorboard>=2.16",
        "tf2onnx==1.17.0",
        "onnx>=1.16",
        "tensorflow-serving-api>=2.16",
        *ONNXRUNTIME,
    ],
    extras_require=EXTRAS,
)
