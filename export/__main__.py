"""Exports a run's generator as a bundle and proves it: python -m export --run_dir=runs/taichi --out=bundles/taichi"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import time

from absl import flags

from mocogan_tf import cli

FLAGS = flags.FLAGS

# Packages that the export needs beyond training: import name, and what to install.
PACKAGES = {
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "tf2onnx": "tf2onnx==1.17.0",
    "tensorflow_serving": "tensorflow-serving-api",
}


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Folder of the run to export.", required=True)
    flags.DEFINE_string(
        "out", None, "Folder of the bundle. A bundle in this folder is replaced by its next version.", required=True
    )
    flags.DEFINE_string("checkpoint", "latest", "latest, best (by the run's metric), or a step.")
    flags.DEFINE_list(
        "frame_buckets",
        None,
        "Clip lengths that get signatures of their own. Default: the trained length and twice that.",
    )
    flags.DEFINE_string(
        "name", None, "Name to serve the model under. Default: architecture and data set, such as mocogan-taichi."
    )
    flags.DEFINE_bool("uint8", False, "Also write model.uint8.onnx, whose output is pixels in 0..255.")


def main(argv: list[str]) -> int:
    """Exports a run; prints what was checked and how large the files are."""
    del argv
    _prepare()
    with cli.quiet_start():
        from export.proof import table
        from export.source import open_run
        from export.write import next_version, write_bundle

    started = time.monotonic()
    out = pathlib.Path(FLAGS.out)
    source = open_run(
        pathlib.Path(FLAGS.run_dir),
        FLAGS.checkpoint,
        version=next_version(out),
        name=FLAGS.name,
        frame_buckets=FLAGS.frame_buckets,
    )
    checks = write_bundle(source.generator, source.contract, source.provenance, out, uint8=FLAGS.uint8)
    print(table(checks))
    sizes = {path.relative_to(out): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
    print("\n".join(f"{size / 1e6:9.2f} MB  {name}" for name, size in sizes.items() if size >= 1e4))
    print(
        f"{out}: {source.contract.name} version {source.contract.version}, step {source.provenance['step']}, "
        f"{sum(sizes.values()) / 1e6:.1f} MB, {len(checks)} checks passed, {time.monotonic() - started:.0f} s"
    )
    return 0


def main_verify(argv: list[str]) -> int:
    """Prints the findings on a bundle, the only argument; returns 1 if a check failed."""
    if len(argv) != 2:
        raise ValueError("Name the bundle to verify: python -m export.verify BUNDLE")
    _prepare()
    with cli.quiet_start():
        from export.proof import table, verify

    checks = verify(pathlib.Path(argv[1]))
    failed = sum(not check.passed for check in checks)
    print(table(checks))
    print(f"{failed} of {len(checks)} checks FAILED" if failed else f"{len(checks)} checks passed")
    return 1 if failed else 0


def _prepare() -> None:
    """Hides the GPUs, and raises ValueError with the cure if a package is missing."""
    # All comparisons are with float32 on a CPU; a GPU would compute in TF32, and is not needed.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    for name, package in PACKAGES.items():
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"The export needs {package}, which is not installed. Run: pip install '{package}'")


def run() -> None:
    """`python -m export`, installed as `mocogan-export`."""
    _define_flags()
    cli.run(main, help=__doc__ or "")


def run_verify() -> None:
    """`python -m export.verify`."""
    help = "Proves a bundle: python -m export.verify BUNDLE. The exit code is 1 if a check fails."
    cli.run(main_verify, help, positional=1)


if __name__ == "__main__":
    run()
