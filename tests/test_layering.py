"""The import rules between the packages, and what importing each module must not pull in."""

import ast
import os
import pathlib
import platform
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("mocogan_tf", "export", "serving")
# What a room may import. A room is a module or a package right under one of the three packages, or, of `export` and
# `serving`, the package as a whole. Everything may import `mocogan_tf` itself, which holds the version and the sizes.
LEAVES = {"files", "latents", "video", "pictures", "config", "dataclass_flags"}
ALLOWED = {
    **{leaf: set() for leaf in LEAVES},
    "recipes": {"config"},
    "cli": {"config", "recipes", "dataclass_flags"},
    "models": {"latents"},
    "gans": {"models", "config", "latents"},
    "sampling": {"latents", "video"},
    "inversion": {"sampling", "models", "latents", "video"},
    "distribution": {"config"},
    "data": {"config", "files", "latents", "dataclass_flags"},
    "metrics": {"data", "sampling", "config", "files", "latents", "video"},
    "training": {"gans", "metrics", "data", "distribution", "sampling", "config", "files", "video"},
    "commands": None,  # Everything.
    "export": None,
    "serving": {"latents", "video", "pictures"},
}
# Programs import these to draw latents, to read flags, to write pictures or to check a folder.
WITHOUT_TENSORFLOW = [
    "mocogan_tf",
    "mocogan_tf.cli",
    "mocogan_tf.commands.evaluate",
    "mocogan_tf.commands.given_clips",
    "mocogan_tf.commands.prepare",
    "mocogan_tf.commands.sample",
    "mocogan_tf.commands.train",
    "mocogan_tf.config",
    "mocogan_tf.data.datasets",
    "mocogan_tf.data.rendered.shapes",
    "mocogan_tf.data.rendered.taichi",
    "mocogan_tf.distribution.cluster",
    "mocogan_tf.files",
    "mocogan_tf.latents",
    "mocogan_tf.metrics.acd",
    "mocogan_tf.metrics.statistics",
    "mocogan_tf.pictures",
    "mocogan_tf.recipes",
    "mocogan_tf.training.run_directory",
    "mocogan_tf.video",
    "serving",
]


def room_of(module):
    """The room that a module is in; "" for the root of `mocogan_tf`, None for modules of others."""
    package, _, rest = module.partition(".")
    if package == "mocogan_tf":
        room = rest.partition(".")[0]
        exists = (ROOT / package / room).is_dir() or (ROOT / package / f"{room}.py").exists()
        return room if exists else ""  # `from mocogan_tf import Config` asks the root.
    return package if package in PACKAGES else None


def imports(path):
    """Yields (module, line) of every import in a file, without importing anything; those for types only included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def arrows():
    """Yields (room, imported room, where) of every import between rooms."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            inside = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            room = room_of(inside)
            for module, line in imports(path):
                other = room_of(module)
                if other and other != room:
                    yield room, other, f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.core
def test_every_import_between_rooms_is_allowed():
    offenders = [
        f"{where}: {room or 'mocogan_tf/__init__.py'} imports {other}"
        for room, other, where in arrows()
        if not room or (ALLOWED[room] is not None and other not in ALLOWED[room])
    ]
    offenders += [f"{where}: nothing may import {other}" for room, other, where in arrows() if other == "commands"]
    assert not offenders, "\n".join(offenders)


@pytest.mark.core
def test_no_room_imports_itself_by_way_of_others():
    reached = {}
    for room, other, _ in arrows():
        reached.setdefault(room, set()).add(other)
    for _ in reached:  # A path has no more steps than there are rooms.
        reached = {
            room: others.union(*(reached.get(other, ()) for other in others)) for room, others in reached.items()
        }
    assert not [room for room, others in reached.items() if room in others]


@pytest.mark.core
def test_serving_needs_neither_tensorflow_nor_the_export():
    offenders = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted((ROOT / "serving").rglob("*.py"))
        for module, line in imports(path)
        if module.partition(".")[0] in ("tensorflow", "keras", "export")
        or (room_of(module) == "" and module != "mocogan_tf.__version__")  # Other names there may need TensorFlow.
    ]
    assert not offenders, "\n".join(offenders)


@pytest.mark.core
@pytest.mark.parametrize("module", WITHOUT_TENSORFLOW)
def test_light_modules_do_not_import_tensorflow(module):
    code = f"import {module}, sys; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.core
@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("0", "0")])
def test_the_package_asks_for_onednn_unless_told_otherwise(given, used):
    environ = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environ |= {} if given is None else {"TF_ENABLE_ONEDNN_OPTS": given}
    code = "import mocogan_tf, os; print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert said.stdout.strip() == (used if platform.machine() in ("x86_64", "AMD64") else str(given))
