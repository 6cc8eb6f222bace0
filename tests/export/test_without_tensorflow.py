"""The ONNX files need onnxruntime and numpy, and nothing else of what is installed here."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

PROGRAM = """
import importlib, json, sys
import numpy as np, onnxruntime
bundle = sys.argv[1]
golden = np.load(bundle + "/golden.npz")
differences = {}
for name in ("model.onnx", "model.fp16.onnx"):
    session = onnxruntime.InferenceSession(f"{bundle}/{name}", providers=["CPUExecutionProvider"])
    inputs = {item.name: golden[item.name] for item in session.get_inputs()}
    (video,) = session.run(["video"], inputs)
    differences[name] = float(np.abs(video - golden["video"]).max())
absent = ["tensorflow", "keras", "onnx", "mocogan_tf", "export"]
found = [name for name in absent if importlib.util.find_spec(name)]
print(json.dumps({"differences": differences, "found": found}))
"""


@pytest.mark.core
def test_numpy_and_onnxruntime_are_enough(exported, tmp_path):
    # An environment with these two packages (and the libraries their wheels ship beside them) and no site-packages.
    for package in (np, onnxruntime):
        folder = pathlib.Path(package.__file__).parent
        for path in (folder, *folder.parent.glob(f"{folder.name}.libs")):
            (tmp_path / path.name).symlink_to(path)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import importlib.util\n{PROGRAM}"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", program, str(exported[0])], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["found"] == []
    assert result["differences"]["model.onnx"] < 1e-4
    assert result["differences"]["model.fp16.onnx"] < 2e-2
