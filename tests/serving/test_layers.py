"""Inside serving, imports point downwards only."""

import ast
import pathlib

import serving

FOLDER = pathlib.Path(serving.__file__).parent
# Lowest first. What is in none of them is a program that sits on top.
LAYERS = ["serving.runtime.errors", "serving.runtime", "serving.web", "serving.protocols", "serving.app"]


def layer_of(module):
    return next((i for i, name in enumerate(LAYERS) if f"{module}.".startswith(f"{name}.")), len(LAYERS))


def test_no_layer_imports_one_above_it():
    upwards = []
    for path in sorted(FOLDER.rglob("*.py")):
        module = ".".join(("serving", *path.relative_to(FOLDER).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("serving."):
                if layer_of(node.module) > layer_of(module):
                    upwards.append(f"{module}:{node.lineno} imports {node.module}")
    assert not upwards, "\n".join(upwards)
