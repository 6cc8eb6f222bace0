"""The notebook: its cells run from the first to the last, and the repository holds none of their outputs."""

import json
import pathlib
import sys
import types

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[2] / "examples" / "notebook" / "mocogan.ipynb"


def code_cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_outputs_are_stripped():
    assert [(cell["outputs"], cell["execution_count"]) for cell in code_cells()] == [([], None)] * len(code_cells())


@pytest.mark.slow
def test_the_cells_run_and_show_moving_pictures(tmp_path, monkeypatch, capsys):
    # Jupyter shows pictures; the cells themselves need Python only.
    shown = []
    display = types.ModuleType("IPython.display")
    display.Image = lambda data, format: shown.append((format, data))
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained").symlink_to(NOTEBOOK.parents[2] / "pretrained")
    names = {}
    for cell in code_cells():
        exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    assert [(kind, data[:4]) for kind, data in shown] == [
        ("gif", b"GIF8"),
        ("gif", b"GIF8"),
        ("webp", b"RIFF"),
        ("gif", b"GIF8"),
    ]
    assert "step 20/20" in capsys.readouterr().out and names["step"] == 20
