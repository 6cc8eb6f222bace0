"""Processes that share the tests are given the longest files first."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
SLOW = "import pytest\n@pytest.mark.slow\n@pytest.mark.timeout({})\ndef test_one(): pass\n"
FILES = {
    "test_a_many.py": "def test_1(): pass\ndef test_2(): pass\ndef test_3(): pass\n",
    "test_b_fast.py": "import pytest\n@pytest.mark.timeout(3600)\ndef test_one(): pass\n",
    "test_c_slow.py": SLOW.format(700),
    "test_d_slowest.py": SLOW.format(1800),
}


def test_shared_tests_begin_with_the_longest_files(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "tests.conftest", "-n", "1", "--dist=loadfile"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.findall(r"PASSED.* (test_\w+\.py)::", run.stdout)
    assert list(dict.fromkeys(passed)) == ["test_d_slowest.py", "test_c_slow.py", "test_a_many.py", "test_b_fast.py"]
