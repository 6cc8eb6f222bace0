"""All that is to be known of a GPU, by one command: python -m benchmarks.gpu --minutes=60 --out=gpu-report

In this order: device and versions; the tests of tests/gpu; training steps with and without XLA in each precision and
batch size, beside PyTorch eager, compiled and with CUDA graphs (extra `bench`); the serving engine by batch size, in
float32 and half floats, with CUDA graphs and TensorRT; then a run of the `paper` profile until the time is over, with
samples and scores.

Every measurement has a process of its own, and one that fails or takes too long leaves its error and nothing else.
OUT/report.json and OUT/report.md are written anew after each. Given the same OUT again, what has been measured is kept,
what failed is tried again, and the run goes on. `--cpu` proves on a CPU, with tiny networks, that all of it works.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# Environment by name of a way to lay out tensors. XLA and cuDNN choose for themselves in the first.
LAYOUTS = {"": {}, "NHWC": {"XLA_FLAGS": "--xla_gpu_force_conv_nhwc=true"}}
TORCH = ("eager", "compiled", "CUDA graphs")
# Shares of the time that is left after each part: the training run has the rest.
SHARES = {"tests": 0.2, "step": 0.4, "engine": 0.25}
POINT_LIMIT = 600.0  # Seconds for one measurement, compiling included.

Result = dict[str, Any]


def step_points(cpu: bool) -> list[Result]:
    """The training steps that are measured, the most wanted first."""
    batches = [4] if cpu else [32, 64, 128, 256]
    points: list[Result] = []
    for batch in batches:
        for precision in PRECISIONS:
            for xla in ("on", "off"):
                points.append({"side": "ours", "precision": precision, "xla": xla, "layout": "", "batch": batch})
            for side in TORCH[: 1 if cpu else 3]:
                points.append({"side": f"torch {side}", "precision": precision, "batch": batch})
        if not cpu:
            points.append(
                {"side": "ours", "precision": "mixed_bfloat16", "xla": "on", "layout": "NHWC", "batch": batch}
            )
    return points[:4] if cpu else points


def engine_points(cpu: bool) -> list[Result]:
    """The ways to run the engine that are measured; each at all batch sizes."""
    if cpu:
        return [{"provider": "cpu", "precision": "float32", "cuda_graph": False, "batches": [1, 4]}]
    batches = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    return [
        {"provider": provider, "precision": precision, "cuda_graph": graph, "batches": batches}
        for provider in ("cuda", "tensorrt")
        for precision in ("float32", "float16")
        for graph in (False, True)
    ]


def measure_machine(cpu: bool) -> Result:
    """Device, driver, versions, and the limits of the device: rates of matrix products and of reading its memory."""
    import tensorflow as tf

    from export.source import library_versions

    gpus = tf.config.list_physical_devices("GPU")
    size, times = (512, 5) if cpu else (8192, 20)

    def fastest(operation: Any, *values: Any) -> float:
        """Seconds of the fastest call; a sum ends it on the host."""
        call = tf.function(lambda: tf.reduce_max(operation(*values)))
        return _time(lambda: float(call()), times)["min_s"]

    numbers = tf.random.stateless_normal((size, size), (0, 0))
    found: Result = {
        "devices": [tf.config.experimental.get_device_details(gpu) for gpu in gpus] or ["CPU"],
        "versions": {**library_versions(), "python": sys.version.split()[0]},
        "build": {key: str(value) for key, value in tf.sysconfig.get_build_info().items()},
        "matrix_rate": {
            name: 2 * size**3 / fastest(tf.matmul, *[tf.cast(numbers, dtype)] * 2)
            for name, dtype in zip(PRECISIONS, (tf.float32, tf.bfloat16, tf.float16), strict=True)
        },
        "bytes_per_second": numbers.dtype.size
        * size**2
        / fastest(tf.identity, numbers),  # Read once, to find the largest.
    }
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
        found["nvidia_smi"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        found["nvidia_smi"] = []
    return found


def _config(point: Result, cpu: bool) -> Any:
    from mocogan_tf.config import Config

    sizes = {"ngf": 4, "ndf": 4} if cpu else {}
    batch = point["batch"]
    fields = {"image_batch": batch, "video_batch": batch, "precision": point["precision"], **sizes}
    return Config(**fields, jit_compile=point.get("xla", "off")).resolve_categories(4)


def measure_step(point: Result, cpu: bool) -> Result:
    """Times one way of making training steps: seconds per step, and the operations of a step."""
    import torch

    from benchmarks import flops, our_step

    config, times = _config(point, cpu), 3 if cpu else 20
    if point["side"] == "ours":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        _, step = our_step.make_step(config, config.precision)
        batch = our_step.random_batch(config)
        seconds = _time(lambda: float(step(batch)["loss_g"]), times)
        # Inside what XLA compiles operations cannot be counted: a step that is not compiled has the same ones.
        _, plain = our_step.make_step(_config({**point, "xla": "off"}, cpu), config.precision)
        result = {"flops": flops.count(plain.get_concrete_function(batch).graph)}
        if not cpu:
            result["memory"] = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        return {**seconds, **result}
    from benchmarks.torch_step import TorchStep

    half = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}.get(point["precision"])
    device, kind = "cpu" if cpu else "cuda", point["side"].removeprefix("torch ")
    theirs = TorchStep(config, half=half, compiled=kind != "eager", device=device, cuda_graphs=kind == "CUDA graphs")
    frame = (config.channels, config.image_size, config.image_size)
    images = torch.rand(config.image_batch, *frame, device=device)
    videos = torch.rand(config.video_batch, config.channels, config.video_length, *frame[1:], device=device)
    labels = torch.arange(config.video_batch, device=device) % config.dim_category
    return _time(lambda: theirs(images, videos, labels), times)


def _time(call: Callable[[], Any], times: int) -> Result:
    """Times calls after three that are not timed. A call ends when its result is on the host."""
    for _ in range(3):
        call()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}


def measure_engine(point: Result, cpu: bool) -> Result:
    """Times the engine of the server on clips of 16 frames, by batch size."""
    import tempfile

    from benchmarks.bundles import make_bundle, make_contract, make_generator
    from mocogan_tf.latents import sample_latents
    from serving.runtime.bundle import read_bundle
    from serving.runtime.engine import Engine
    from serving.runtime.options import EngineOptions

    contract = make_contract()
    generator = make_generator(contract, ngf=4 if cpu else 64)
    with tempfile.TemporaryDirectory() as folder:
        bundle = pathlib.Path(folder) / "bundle"
        make_bundle(generator, contract, bundle)
        options = {name: point[name] for name in ("provider", "precision", "cuda_graph")}
        engine = Engine(read_bundle(bundle), EngineOptions(**options, max_batch_frames=64))
        times = {}
        for batch in point["batches"]:
            latents = sample_latents(generator.latents, batch, 16, seed=0)
            times[str(batch)] = _time(lambda latents=latents: engine.generate(latents), 3 if cpu else 20)
    active = {"provider": engine.provider, "precision": engine.precision, "cuda_graph": engine.cuda_graph}
    return {"active": active, "golden_difference": engine.golden_difference, "batches": times}


MEASURES: dict[str, Callable[[Result, bool], Result]] = {
    "machine": lambda point, cpu: measure_machine(cpu),
    "step": measure_step,
    "engine": measure_engine,
}


class Report:
    """The results so far, as they stand in OUT.

    Args:
        folder: OUT.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.path = folder / "report.json"
        self.results: Result = json.loads(self.path.read_text()) if self.path.exists() else {}

    def has(self, part: str, name: str = "") -> bool:
        """Whether there is a result that is no error."""
        return "error" not in self.results.get(part, {}).get(name, {"error": ""})

    def add(self, part: str, name: str, result: Result) -> None:
        """Adds a result and writes both files."""
        self.results.setdefault(part, {})[name] = result
        for path, text in (
            (self.path, json.dumps(self.results, indent=1, default=str)),
            (self.folder / "report.md", page(self.results)),
        ):
            temporary = path.with_name(f"writing-{path.name}")
            temporary.write_text(text)
            os.replace(temporary, path)
        said = result.get("error") or ", ".join(
            f"{k} {v}" for k, v in result.items() if isinstance(v, float | int | str)
        )
        print(f"{part} {name}: {said[:300]}", flush=True)


def in_a_process(part: str, point: Result, cpu: bool, limit: float) -> Result:
    """Makes one measurement in a process of its own; what goes wrong becomes `{"error": ...}`."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--measure", part, json.dumps(point), *["--cpu"] * cpu]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **LAYOUTS[point.get("layout", "")]}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit:.0f} seconds"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"exit code {done.returncode}"]
        return {"error": last[0][:500]}
    return json.loads(lines[-1])


def run_tests(limit: float) -> Result:
    """Runs tests/gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit:.0f} seconds"}
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"summary": lines[-1] if lines else "no output", "failed": failed, "passed": done.returncode == 0}


def run_training(folder: pathlib.Path, cpu: bool, seconds: float) -> Result:
    """Trains until the time is over, or goes on with the run that is there; returns its last log line and scores."""
    run_dir = folder / "run"
    profile = ["--profile=smoke", "--dataset=shapes"] if cpu else ["--profile=paper", "--dataset=taichi"]
    command = [sys.executable, "train.py", f"--run_dir={run_dir}", f"--cache_dir={folder / 'cache'}", *profile]
    with open(folder / "train.txt", "a") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # It saves, and ends.
            try:
                process.wait(timeout=300)
            except subprocess.TimeoutExpired:
                process.kill()
    result: Result = {"exit_code": process.wait()}
    for name in ("log", "evaluations"):
        path = run_dir / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        result[name] = json.loads(lines[-1]) if lines else {}
    result["samples"] = [str(path.relative_to(folder)) for path in sorted(run_dir.glob("samples/*.webp"))[-1:]]
    if process.returncode not in (0, 143):
        text = (folder / "train.txt").read_text().splitlines()
        result["error"] = text[-1][:500] if text else f"exit code {process.returncode}"
    return result


def page(results: Result) -> str:
    """Returns the report as Markdown."""
    lines = ["# Measured on this device", ""]
    machine = results.get("machine", {}).get("", {})
    if "devices" in machine:
        smi = "; ".join(machine["nvidia_smi"]) or "no NVIDIA GPU: **this proves that the command works, nothing else**"
        rates = ", ".join(f"{rate / 1e12:.3g} in {name}" for name, rate in machine["matrix_rate"].items())
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        lines += [f"{smi}. {versions}.", ""]
        lines += [f"TFLOP/s of matrix products: {rates}. GB/s of reading: {machine['bytes_per_second'] / 1e9:.3g}.", ""]
    tests = results.get("tests", {}).get("")
    if tests:
        lines += [f"`tests/gpu`: {tests.get('summary', tests.get('error'))}", ""]
        lines += [f"- {line}" for line in tests.get("failed", [])]
    steps = results.get("step", {})
    if steps:
        lines += [
            "## A training step",
            "",
            "| | ms, median (least to most) | share of the matrix rate |",
            "|---|---|---|",
        ]
        for name, result in steps.items():
            if "error" in result:
                lines.append(f"| {name} | failed: {result['error']} | |")
                continue
            share = ""
            rate = machine.get("matrix_rate", {}).get(name.split(", ")[1])
            if rate and "flops" in result:
                share = f"{result['flops'] / result['median_s'] / rate:.0%}"
            low, high = 1e3 * result["min_s"], 1e3 * result["max_s"]
            lines.append(f"| {name} | {1e3 * result['median_s']:.2f} ({low:.2f} to {high:.2f}) | {share} |")
        lines.append("")
    engines = results.get("engine", {})
    if engines:
        lines += [
            "## Clips of 16 frames from the engine",
            "",
            "| | clips | ms, median | clips/s |",
            "|---|---|---|---|",
        ]
        for name, result in engines.items():
            if "error" in result:
                lines.append(f"| {name} | | failed: {result['error']} | |")
                continue
            for batch, seconds in result["batches"].items():
                median = seconds["median_s"]
                lines.append(f"| {name} | {batch} | {1e3 * median:.2f} | {int(batch) / median:.1f} |")
        lines.append("")
    training = results.get("train", {}).get("")
    if training:
        lines += ["## The training run", "", f"`{json.dumps(training['log'])}`", ""]
        lines += [f"Scores: `{json.dumps(training['evaluations'])}`", ""] if training["evaluations"] else []
        lines += [f"![samples]({path})" for path in training["samples"]]
        lines += [f"It ended with: {training['error']}"] if "error" in training else []
    return "\n".join(lines).rstrip() + "\n"


def run(folder: pathlib.Path, minutes: float, cpu: bool) -> Report:
    """Measures everything that fits the time; returns the report."""
    folder.mkdir(parents=True, exist_ok=True)
    report, end = Report(folder), time.monotonic() + 60 * minutes

    def left() -> float:
        return max(10.0, end - time.monotonic())

    if not report.has("machine"):
        report.add("machine", "", in_a_process("machine", {}, cpu, min(POINT_LIMIT, left())))
    if not report.has("tests"):
        report.add("tests", "", run_tests(SHARES["tests"] * left()))
    for part, points in (("step", step_points(cpu)), ("engine", engine_points(cpu))):
        until = time.monotonic() + SHARES[part] * left()
        for point in points:
            values = {key: value for key, value in point.items() if key not in ("batches", "cuda_graph") and value}
            name = ", ".join(
                f"XLA {v}" if k == "xla" else f"batch {v}" if k == "batch" else str(v) for k, v in values.items()
            )
            name += ", CUDA graph" * bool(point.get("cuda_graph"))
            if report.has(part, name):
                continue
            if time.monotonic() >= until:
                print(f"{part}: no time left for {name}", flush=True)
                continue
            report.add(
                part, name, in_a_process(part, point, cpu, min(POINT_LIMIT, max(30.0, until - time.monotonic())))
            )
    report.add("train", "", run_training(folder, cpu, left()))
    return report


def main() -> None:
    """Runs all parts, or in a process of its own a single measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="time for everything")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-report"), help="folder of the report")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, with tiny networks: proves that it works")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        part, point = flags.measure
        print(json.dumps(MEASURES[part](json.loads(point), flags.cpu), default=str))
        return
    if not flags.cpu:
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            sys.exit(
                "error: TensorFlow sees no GPU. Install the extra `gpu`; to try this command without one, add --cpu."
            )
    report = run(flags.out, flags.minutes, flags.cpu)
    print(f"{report.path} and {report.path.with_suffix('.md')} hold the report.")


if __name__ == "__main__":
    main()
