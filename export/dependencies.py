"""The packages that exporting needs beyond training, and the one line for a person who lacks one."""

from __future__ import annotations

import importlib.util

# Import name: what to install.
PACKAGES = {
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "tf2onnx": "tf2onnx==1.17.0",
    "tensorflow_serving": "tensorflow-serving-api",
}


def check_installed() -> None:
    """Raises ValueError, with the command that installs it, if a package is missing."""
    for name, package in PACKAGES.items():
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"The export needs {package}, which is not installed. Run: pip install '{package}'")
