"""All that is to be known of a GPU, by one command: python -m benchmarks.gpu --minutes=60 --out=gpu-report

In this order: device and versions; the tests of tests/gpu; training steps with and without XLA in each precision and
batch size, beside PyTorch eager, compiled and with CUDA graphs (extra `bench`); the serving engine by batch size, in
float32 and half floats, with CUDA graphs and TensorRT; then a run of the `paper` profile until the time is over, with
samples and scores. Of several GPUs the first is measured, the tests use two and the run uses all.

Every test and measurement has a process of its own, and one that fails or takes too long leaves its error and nothing
else. OUT/report.json and OUT/report.md are written anew after each. Given the same OUT again, what has been measured is
kept, what failed is tried again, and the run goes on; so a machine that is lent for ten minutes at a time will do:
`--parts step --minutes=9` makes one part go on. Nothing is downloaded. `--cpu` proves on a CPU, with tiny networks,
that all of it works.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from mocogan_tf.distribution import hardware

ROOT = pathlib.Path(__file__).parent.parent
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# Environment by name of a way to lay out tensors. XLA and cuDNN choose for themselves in the first.
LAYOUTS = {"": {}, "NHWC": {"XLA_FLAGS": "--xla_gpu_force_conv_nhwc=true"}}
TORCH = ("eager", "compiled", "CUDA graphs")
# Shares of the time that is left when a part begins; the last part has the rest.
SHARES = {"machine": 1.0, "tests": 0.2, "step": 0.4, "engine": 0.25, "train": 1.0}
POINT_LIMIT = 600.0  # Seconds for one measurement, compiling included.
LEAST_SECONDS = 30.0  # With less no measurement is begun.
SAVE_SECONDS = 60.0  # For the training run to save and end.

Result = dict[str, Any]


def test_points() -> list[Result]:
    """The tests of tests/gpu, by file and function."""
    return [
        {"test": f"{path.name}::{node.name}"}
        for path in sorted((ROOT / "tests" / "gpu").glob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


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
    """Device, driver and versions, and the limits of the device: rates of matrix products and of reading its memory."""
    import tensorflow as tf

    from export.source import library_versions

    gpus = tf.config.list_physical_devices("GPU")
    found: Result = {
        "devices": [tf.config.experimental.get_device_details(gpu) for gpu in gpus] or ["CPU"],
        "versions": {**library_versions(), "python": sys.version.split()[0]},
        "build": {key: str(value) for key, value in tf.sysconfig.get_build_info().items()},
        "nvidia_smi": [],
    }
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
        found["nvidia_smi"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    _need_gpu(cpu)
    size, products, arrays = (256, 2, 2) if cpu else (8192, 8, 16)
    # Several per call, so that the call's own time does not count; each product needs the one before.
    numbers = tf.random.stateless_normal((size, size), (0, 0)) / size**0.5

    def rate(amount: float, operation: Callable[[], Any]) -> float:
        call = tf.function(operation)
        return amount / _time(lambda: float(call()), 1 if cpu else 20)["min_s"]

    def multiply(factor: Any) -> Any:
        product = factor
        for _ in range(products):
            product = tf.matmul(factor, product)
        return tf.reduce_max(product)

    found["matrix_rate"] = {
        name: rate(products * 2 * size**3, lambda dtype=dtype: multiply(tf.cast(numbers, dtype)))
        for name, dtype in zip(PRECISIONS, (tf.float32, tf.bfloat16, tf.float16), strict=True)
    }
    many = [numbers + i for i in range(arrays)]
    found["bytes_per_second"] = rate(arrays * 4 * size**2, lambda: tf.add_n([tf.reduce_max(one) for one in many]))
    return found


def _need_gpu(cpu: bool) -> None:
    """Ends the process if TensorFlow would compute on the CPU although a GPU is to be measured."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not cpu and not gpus:
        sys.exit("error: TensorFlow sees no GPU; install the extra `gpu`")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)


def _config(point: Result, cpu: bool) -> Any:
    from mocogan_tf.config import Config

    sizes = {"ngf": 4, "ndf": 4} if cpu else {}
    batch = point["batch"]
    fields = {"image_batch": batch, "video_batch": batch, "precision": point["precision"], **sizes}
    return Config(**fields, jit_compile=point.get("xla", "off")).resolve_categories(4)


def measure_step(point: Result, cpu: bool) -> Result:
    """Times one way of making training steps: seconds per step, and the operations of a step."""
    config, times = _config(point, cpu), 1 if cpu else 20
    if point["side"] == "ours":
        import tensorflow as tf

        from benchmarks import flops, our_step

        _need_gpu(cpu)
        _, step = our_step.make_step(config, config.precision)
        batch = our_step.random_batch(config)
        result: Result = _time(lambda: float(step(batch)["loss_g"]), times)
        if not cpu:
            result["memory"] = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        # Inside what XLA compiles operations cannot be counted: a step that is not compiled has the same ones.
        _, plain = our_step.make_step(_config({**point, "xla": "off"}, cpu), config.precision)
        return {**result, "flops": flops.count(plain.get_concrete_function(batch).graph)}
    import torch

    from benchmarks.torch_step import TorchStep

    half = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}.get(point["precision"])
    device, kind = "cpu" if cpu else "cuda", point["side"].removeprefix("torch ")
    theirs = TorchStep(config, half=half, compiled=kind != "eager", device=device, cuda_graphs=kind == "CUDA graphs")
    frame = (config.channels, config.image_size, config.image_size)
    images = torch.rand(config.image_batch, *frame, device=device)
    videos = torch.rand(config.video_batch, config.channels, config.video_length, *frame[1:], device=device)
    labels = torch.arange(config.video_batch, device=device) % config.dim_category

    def step() -> float:
        torch.compiler.cudagraph_mark_step_begin()  # Results of the step before may be overwritten.
        return theirs(images, videos, labels)

    return _time(step, times)


def _time(call: Callable[[], Any], times: int) -> Result:
    """Times calls after at most three that are not timed. A call ends when its result is on the host."""
    for _ in range(min(3, times)):
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

    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # It makes the bundle, and would leave the engine no memory.
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
            times[str(batch)] = _time(lambda latents=latents: engine.generate(latents), 1 if cpu else 20)
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


def _run(command: list[str], limit: float, **changes: str) -> subprocess.CompletedProcess[str] | None:
    """Runs a command in a group of its own, which is ended after `limit` seconds; then the result is None."""
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **changes}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True, **pipes) as process:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # With the compilers and tests that it started.
            return None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _why(code: int, text: str) -> str:
    """Returns the line of an output that says why a process failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"error: |[\w.]*(Error|Exception|Interrupt)\b", line)]
    said = (raised or lines or ["no output"])[-1][:500]
    return f"{said} (signal {-code})" if code < 0 else said


def in_a_process(part: str, point: Result, cpu: bool, limit: float) -> Result:
    """Makes one measurement in a process of its own; what goes wrong becomes `{"error": ...}`."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--measure", part, json.dumps(point), *["--cpu"] * cpu]
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    done = _run(command, limit, CUDA_VISIBLE_DEVICES=first, **LAYOUTS[point.get("layout", "")])
    if done is None:
        return {"error": f"not done after {limit:.0f} seconds"}
    results = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not results:
        return {"error": _why(done.returncode, done.stderr)}
    result: Result = json.loads(results[-1])
    return result


def run_test(point: Result, limit: float) -> Result:
    """Runs one test of tests/gpu, with all its parameters."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"tests/gpu/{point['test']}"]
    two = ",".join(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")[:2])  # Their batches suffice for no more.
    done = _run([*command, "-p", "no:cacheprovider"], limit, CUDA_VISIBLE_DEVICES=two)
    if done is None:
        return {"error": f"not done after {limit:.0f} seconds"}
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    result: Result = {"summary": lines[-1] if lines else "no output"}
    if done.returncode:
        failed = [line[:300] for line in lines if line.startswith(("FAILED", "ERROR"))]
        result |= {"error": "; ".join(failed) or _why(done.returncode, done.stderr)}
    return result


def run_training(folder: pathlib.Path, cpu: bool, seconds: float) -> Result:
    """Trains until the time is over, or goes on with the run that is there; returns its last log line and scores."""
    run_dir = folder.resolve() / "run"
    profile = ["--profile=smoke", "--dataset=shapes"] if cpu else ["--profile=paper", "--dataset=taichi"]
    command = [sys.executable, "train.py", f"--run_dir={run_dir}", f"--cache_dir={run_dir.parent / 'cache'}", *profile]
    with open(folder / "train.txt", "w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        try:
            process.wait(timeout=max(1.0, seconds - SAVE_SECONDS))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # It saves, and ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=SAVE_SECONDS)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    result: Result = {"exit_code": process.wait()}
    for name in ("log", "evaluations"):
        path = run_dir / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        result[name] = json.loads(lines[-1]) if lines else {}
    result["samples"] = [str(path.relative_to(run_dir.parent)) for path in sorted(run_dir.glob("samples/*.webp"))[-1:]]
    if process.returncode == -signal.SIGTERM:
        result["error"] = "the time was over before training began"
    elif process.returncode == -signal.SIGKILL:
        result["error"] = f"it did not end within {SAVE_SECONDS:.0f} seconds of being told to"
    elif process.returncode not in (0, 143):
        result["error"] = _why(process.returncode, (folder / "train.txt").read_text())
    return result


def _cell(error: str) -> str:
    """An error's text as part of a Markdown table."""
    return "failed: " + " ".join(error.replace("|", "/").split())


def _against_torch(steps: Result) -> list[str]:
    """Lines of a table of our fastest step and PyTorch's, by precision and batch size."""
    fastest: dict[tuple[str, str], dict[str, tuple[float, str]]] = {}
    for name, result in steps.items():
        side, precision, *how, batch = name.split(", ")
        if "error" not in result:
            sides = fastest.setdefault((precision, batch.removeprefix("batch ")), {})
            key, label = ("ours", ", ".join(how)) if side == "ours" else ("theirs", side.removeprefix("torch "))
            sides[key] = min(sides.get(key, (float("inf"), "")), (result["median_s"], label), key=lambda one: one[0])
    rows = [
        f"| {precision} | {batch} | {1e3 * ours[0]:.2f}, {ours[1]} | {1e3 * theirs[0]:.2f}, {theirs[1]} | "
        f"{theirs[0] / ours[0]:.2f} |"
        for (precision, batch), sides in fastest.items()
        if (ours := sides.get("ours")) and (theirs := sides.get("theirs"))
    ]
    head = ["| | clips and images | ours, ms | PyTorch, ms | PyTorch's over ours |", "|---|---|---|---|---|"]
    return [*head, *rows, ""] if rows else []


def page(results: Result) -> str:
    """Returns the report as Markdown."""
    lines = ["# Measured on this device", ""]
    machine = results.get("machine", {}).get("", {})
    if "error" in machine:
        lines += [f"Device and versions: {_cell(machine['error'])}", ""]
    elif machine:
        smi = "; ".join(machine["nvidia_smi"]) or "no NVIDIA GPU: **this proves that the command works, nothing else**"
        rates = ", ".join(f"{rate / 1e12:.3g} in {name}" for name, rate in machine["matrix_rate"].items())
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        lines += [f"{smi}. {versions}.", ""]
        lines += [f"TFLOP/s of matrix products: {rates}. GB/s of reading: {machine['bytes_per_second'] / 1e9:.3g}."]
        lines += ["TensorFlow and cuDNN compute float32 as TF32 on GPUs that have it.", ""]
    tests = results.get("tests", {})
    if tests:
        lines += ["## Tests that need a GPU", "", "| `tests/gpu` | |", "|---|---|"]
        for name, result in tests.items():
            lines.append(f"| {name} | {_cell(result['error']) if 'error' in result else result['summary']} |")
        lines.append("")
    steps = results.get("step", {})
    if steps:
        lines += ["## A training step", "", *_against_torch(steps)]
        lines += ["| | ms, median (least to most) | share of the matrix rate |", "|---|---|---|"]
        for name, result in steps.items():
            if "error" in result:
                lines.append(f"| {name} | {_cell(result['error'])} | |")
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
        lines += ["## Clips of 16 frames from the engine", ""]
        lines += ["| asked for | got | clips | ms, median | clips/s |", "|---|---|---|---|---|"]
        for name, result in engines.items():
            if "error" in result:
                lines.append(f"| {name} | {_cell(result['error'])} | | | |")
                continue
            active = result["active"]
            got = ", ".join([active["provider"], active["precision"], *["CUDA graph"] * active["cuda_graph"]])
            for batch, seconds in result["batches"].items():
                median = seconds["median_s"]
                lines.append(f"| {name} | {got} | {batch} | {1e3 * median:.2f} | {int(batch) / median:.1f} |")
        lines.append("")
    training = results.get("train", {}).get("")
    if training:
        told = [f"{name.replace('_', ' ')} {value}" for name, value in training["log"].items()]
        lines += ["## The training run", "", f"At the end: {', '.join(told)}." if told else "No step was logged.", ""]
        lines += [f"Scores: `{json.dumps(training['evaluations'])}`", ""] if training["evaluations"] else []
        lines += [f"![samples]({path})" for path in training["samples"]]
        lines += [f"It ended with: {training['error']}"] if "error" in training else []
    return "\n".join(lines).rstrip() + "\n"


def _name(point: Result) -> str:
    """A point's name in the report."""
    values = {key: value for key, value in point.items() if key not in ("batches", "cuda_graph") and value}
    words = {"xla": "XLA ", "batch": "batch "}
    return ", ".join(f"{words.get(key, '')}{value}" for key, value in values.items()) + (
        ", CUDA graph" * bool(point.get("cuda_graph"))
    )


def run(folder: pathlib.Path, minutes: float, cpu: bool, parts: tuple[str, ...] = tuple(SHARES)) -> Report:
    """Measures what fits the time; returns the report.

    Args:
        folder: OUT.
        minutes: Time for everything.
        cpu: Whether to measure tiny networks on the CPU.
        parts: Which parts, names out of `SHARES`; their order is that of `SHARES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, end = Report(folder), time.monotonic() + 60 * minutes
    points = {"machine": [{}], "tests": test_points(), "step": step_points(cpu), "engine": engine_points(cpu)}
    chosen = [part for part in SHARES if part in parts]
    for part in chosen:
        left = end - time.monotonic()
        if part == "train":
            report.add("train", "", run_training(folder, cpu, max(LEAST_SECONDS, left)))
            break
        until = end if part == chosen[-1] else time.monotonic() + SHARES[part] * left
        for point in points[part]:
            name, seconds = _name(point), min(POINT_LIMIT, until - time.monotonic())
            if report.has(part, name):
                continue
            if seconds < LEAST_SECONDS:
                print(f"{part}: no time left for {name}", flush=True)
                continue
            result = run_test(point, seconds) if part == "tests" else in_a_process(part, point, cpu, seconds)
            report.add(part, name, result)
    return report


def main() -> None:
    """Runs all parts, or in a process of its own a single measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="time for everything")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-report"), help="folder of the report")
    parser.add_argument("--parts", nargs="+", choices=list(SHARES), default=list(SHARES), help="what is measured")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, with tiny networks: proves that it works")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        part, point = flags.measure
        print(json.dumps(MEASURES[part](json.loads(point), flags.cpu), default=str))
        return
    if not flags.cpu and (hardware.hides_gpus() or not hardware.has_nvidia_gpu()):
        sys.exit("error: this machine shows no NVIDIA GPU. To try this command without one, add --cpu.")
    report = run(flags.out, flags.minutes, flags.cpu, tuple(flags.parts))
    print(f"{report.path} and {report.path.with_suffix('.md')} hold the report.")


if __name__ == "__main__":
    main()
