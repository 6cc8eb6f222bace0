"""`benchmarks.gpu`: it measures in the order it promises, survives what fails, and goes on where it ended."""

import json

import pytest

from benchmarks import gpu

pytestmark = pytest.mark.core
TIMES = {"median_s": 0.25, "min_s": 0.2, "max_s": 0.3}


@pytest.fixture
def asked(monkeypatch):
    """What was measured, in order; the first training step fails, the second takes too long."""
    asked = []

    def in_a_process(part, point, cpu, limit):
        asked.append(part)
        if part == "machine":
            return {
                **{"devices": ["H100"], "versions": {"tensorflow": "2.21"}, "nvidia_smi": ["H100, 80 GB"]},
                **{"matrix_rate": dict.fromkeys(gpu.PRECISIONS, 1e14), "bytes_per_second": 3e12},
            }
        if part == "step":
            failures = {1: {"error": "out of memory"}, 2: {"error": "not done after 600 seconds"}}
            return failures.get(asked.count("step"), {**TIMES, "flops": 1e13})
        active = {name: point[name] for name in ("provider", "precision", "cuda_graph")}
        return {"active": active, "batches": {"8": TIMES}}

    def run_training(folder, cpu, seconds):
        asked.append("train")
        return {"exit_code": 143, "log": {"step": 70}, "evaluations": {"frechet_video": 3.5}, "samples": ["run/a.webp"]}

    monkeypatch.setattr(gpu, "in_a_process", in_a_process)
    monkeypatch.setattr(gpu, "run_test", lambda point, limit: asked.append("tests") or {"summary": "9 passed"})
    monkeypatch.setattr(gpu, "run_training", run_training)
    return asked


def test_all_parts_are_measured_in_order_though_some_fail_and_are_written_as_json_and_as_a_page(asked, tmp_path):
    gpu.run(tmp_path, minutes=10, cpu=False)
    tests, steps, engines = len(gpu.test_points()), len(gpu.step_points(cpu=False)), len(gpu.engine_points(cpu=False))
    assert tests > 5 and asked == [
        *["machine", *["tests"] * tests, *["step"] * steps, *["engine"] * engines, "train"],
    ]
    results = json.loads((tmp_path / "report.json").read_text())
    errors = [result["error"] for result in results["step"].values() if "error" in result]
    assert errors == ["out of memory", "not done after 600 seconds"] and len(results["step"]) == steps
    page = (tmp_path / "report.md").read_text()
    assert "H100, 80 GB" in page and "| test_engine.py::test_clips_are_those_of_the_cpu | 9 passed |" in page
    assert "| ours, float32, XLA on, batch 32 | failed: out of memory | |" in page
    assert "| ours, mixed_bfloat16, XLA on, batch 32 | 250.00 (200.00 to 300.00) | 40% |" in page
    assert "| mixed_bfloat16 | 32 | 250.00, XLA on | 250.00, eager | 1.00 |" in page
    assert "| cuda, float16, CUDA graph | cuda, float16, CUDA graph | 8 | 250.00 | 32.0 |" in page
    assert '{"frechet_video": 3.5}' in page and "![samples](run/a.webp)" in page


def test_the_same_command_again_measures_what_failed_and_trains_on(asked, tmp_path):
    gpu.run(tmp_path, minutes=10, cpu=False)
    asked[:] = ["step", "step"]  # Nothing fails any more.
    gpu.run(tmp_path, minutes=10, cpu=False)
    assert asked == ["step", "step", "step", "step", "train"]
    assert "failed" not in (tmp_path / "report.md").read_text()


def test_a_part_ends_when_its_share_of_the_time_is_over(asked, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "SHARES", dict.fromkeys(gpu.SHARES, 0.0))
    gpu.run(tmp_path, minutes=10, cpu=False)
    assert asked == ["train"]
    assert "step: no time left for ours, float32, XLA on, batch 32" in capsys.readouterr().out


def test_parts_are_measured_by_themselves_with_all_of_the_time(asked, tmp_path):
    gpu.run(tmp_path, minutes=1, cpu=False, parts=("engine", "machine"))
    assert asked == ["machine", *["engine"] * len(gpu.engine_points(cpu=False))]
    gpu.run(tmp_path, minutes=1, cpu=False, parts=("machine",))
    assert asked.count("machine") == 1


def test_a_failed_process_is_told_by_the_line_that_says_why():
    text = "Traceback:\n  File x\ntensorflow.errors.InvalidArgumentError: no kernel\nW0000 a warning at exit\n"
    assert gpu._why(1, text) == "tensorflow.errors.InvalidArgumentError: no kernel"
    assert gpu._why(-9, "") == "no output (signal 9)"


def test_a_measurement_that_raises_or_hangs_becomes_its_error(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu.sys, "executable", "/bin/sh")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    found = gpu.in_a_process("step", {}, True, limit=10)  # The shell has no option `-m benchmarks.gpu`.
    assert found["error"]
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nsleep 30 & wait\n")  # What it starts would keep its output open.
    program.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(program))
    assert gpu.in_a_process("step", {}, True, limit=0.2) == {"error": "not done after 0 seconds"}
