"""docs/library.md and the README: their programs run as they stand there."""

import pathlib
import re

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text())


def test_the_readme_shows_the_first_program_of_the_page():
    assert blocks("docs/library.md")[0] in blocks("README.md")


@pytest.mark.slow
def test_the_programs_of_the_page_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pathlib.Path("pretrained").symlink_to(ROOT / "pretrained")
    pathlib.Path("my_clips").mkdir()
    for i in range(4):
        np.save(f"my_clips/{i}.npy", np.random.default_rng(i).integers(0, 256, (20, 32, 32, 3), np.uint8))
    keras.utils.set_random_seed(0)
    *programs, export = blocks("docs/library.md")
    names = {}
    for program in programs:
        exec(compile(program, "docs/library.md", "exec"), names)  # As a reader pastes them into one session.
    assert names["film"].shape == (4, 16, 32, 32, 3) and names["walk"].shape == (1, 32, 64, 64, 3)
    assert pathlib.Path("epoch-0.webp").stat().st_size > 1000
    assert int(names["gan"].step) == 4  # As saved, before the second `fit`.
    # The export of a run takes longer; tests/export makes it.
    exec("\n".join(line for line in export.splitlines() if re.match("from|import", line)), names)
