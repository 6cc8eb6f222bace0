"""The import rules between the packages, and what importing each one must not pull in."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FORBIDDEN = {
    "mocogan_tf": {"export", "serving"},
    "export": {"serving"},
    "serving": {"export", "tensorflow", "keras"},
}
# All that serving takes from the library: these need NumPy and Pillow only.
SHARED_WITH_SERVING = {"mocogan_tf.latents", "mocogan_tf.video", "mocogan_tf.__version__"}
# No TensorFlow in these: they are read by programs that only draw latents, read flags or write pictures.
WITHOUT_TENSORFLOW = [
    "mocogan_tf",
    "mocogan_tf.config",
    "mocogan_tf.latents",
    "mocogan_tf.video",
    "mocogan_tf.data.rendered.shapes",
    "mocogan_tf.data.rendered.taichi",
    "mocogan_tf.distribution.cluster",
    "mocogan_tf.metrics.statistics",
    "mocogan_tf.metrics.acd",
]


def imported_packages(path):
    """Yields (top-level package, line) of every import in a file, without importing anything."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0], node.lineno


@pytest.mark.core
@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_respect_the_layering(package):
    offenders = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, line in imported_packages(path)
        if name in FORBIDDEN[package]
    ]
    assert not offenders, "\n".join(offenders)


@pytest.mark.core
def test_serving_takes_two_modules_of_the_library_and_no_more():
    taken = set()
    for path in (ROOT / "serving").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                taken |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module == "mocogan_tf":
                taken |= {f"mocogan_tf.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                taken.add(node.module)
    assert {name for name in taken if name.startswith("mocogan_tf")} <= SHARED_WITH_SERVING


@pytest.mark.core
@pytest.mark.parametrize("module", WITHOUT_TENSORFLOW)
def test_light_modules_do_not_import_tensorflow(module):
    code = f"import {module}, sys; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
