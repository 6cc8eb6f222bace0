"""The programs of each language, built once, and the models they are given."""

import dataclasses
import pathlib
import subprocess

import numpy as np
import pytest

from tests.support import example_models
from tests.support.toolchains import LANGUAGES


@dataclasses.dataclass(frozen=True)
class Program:
    """One language's example, as a command."""

    language: str
    command: list[str]
    folder: pathlib.Path

    def __call__(self, *arguments):
        return subprocess.run(
            [*self.command, *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=self.folder
        )

    def array(self, model, seed, frames, ending):
        """What the program writes for a clip, flat."""
        out = self.folder / f"clip{ending}"
        out.unlink(missing_ok=True)
        result = self(model, seed, frames, out)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("\n") == 1 and f"seed {seed}, {frames} frames of " in result.stdout
        assert result.stderr == ""
        return np.fromfile(out, {".rgb": np.uint8, ".f32": "<f4"}[ending])


@pytest.fixture(scope="session", params=LANGUAGES)
def program(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return Program(request.param, LANGUAGES[request.param](folder / "build"), folder)


@pytest.fixture(scope="session")
def taichi():
    return example_models.TAICHI / "model.onnx"


@pytest.fixture(scope="session")
def grey(tmp_path_factory):
    return example_models.grey(tmp_path_factory.mktemp("grey"))


@pytest.fixture(scope="session")
def mirror(tmp_path_factory):
    return example_models.mirror(tmp_path_factory.mktemp("mirror") / "model.onnx")
