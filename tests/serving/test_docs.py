"""docs/serving.md: its examples fit the bundle that the server of the page serves by itself."""

import json
import pathlib
import re

from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text()
BUNDLE = json.loads((ROOT / "pretrained" / "taichi" / "bundle.json").read_text())


def test_the_examples_name_the_default_bundle_and_its_categories():
    objects = re.findall(r"""^{".*}$|'{".*}'|`{"[^`]*}`""", PAGE, re.MULTILINE)
    examples = [json.loads(text.strip("'`")) for text in objects if "..." not in text]
    categories = [example["category"] for example in examples if "category" in example]
    assert len(examples) >= 7 and len(categories) >= 3 and set(categories) <= set(BUNDLE["categories"])
    models = re.findall(r"http://127[.]0[.]0[.]1:8501/v[12]/models/([^/:\s]+)", PAGE)
    assert len(models) >= 2 and set(models) == {BUNDLE["name"]}


def test_the_python_client_of_the_page_runs_as_it_stands_there(server, tmp_path, monkeypatch):
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert program.endswith("for ever\n        ...\n")
    program = program.replace("http://127.0.0.1:8501", server.url).removesuffix("...\n") + "break\n"
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(program, "docs/serving.md", "exec"), names)
    assert names["clips"].shape[0] == 4 and names["clips"].shape[2:] == names["frames"].shape[1:] == (16, 16, 3)
    assert Image.open("clip.gif").size == (4 * 16, 4 * 16)
