"""`python -m export --run_dir=RUN --out=BUNDLE`: exports a run's generator as a bundle, and proves it."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

from absl import flags, logging

from export.dependencies import check_installed
from mocogan_tf import cli

flags.DEFINE_string("run_dir", None, "The run to export.", required=True)
flags.DEFINE_string(
    "out", None, "Folder of the bundle. A bundle that is there is replaced by its next version.", required=True
)
flags.DEFINE_string("checkpoint", "latest", "`latest`, `best` (by the run's metric), or the step of a checkpoint.")
flags.DEFINE_list(
    "frame_buckets", None, "Clip lengths to serve with signatures of their own (default: trained length, twice it)."
)
flags.DEFINE_string(
    "name", None, "Name to serve the model under (default: model and data set, such as mocogan-taichi)."
)
flags.DEFINE_bool("uint8", False, "Also write model.uint8.onnx, which gives pixels in 0..255.")


def main(argv: list[str]) -> int:
    """Exports by the flags; prints what was checked and how large the files are."""
    # The reference of all comparisons is float32 on a CPU; a GPU would compute in TF32, and is not needed.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    logging.set_verbosity(logging.WARNING)  # The converters tell every step they take.
    check_installed()
    from export.proof import table
    from export.source import open_run
    from export.write import next_version, write_bundle

    values: Any = flags.FLAGS
    started = time.monotonic()
    out = pathlib.Path(values.out)
    version = next_version(out)
    source = open_run(
        pathlib.Path(values.run_dir),
        values.checkpoint,
        version=version,
        name=values.name,
        frame_buckets=values.frame_buckets,
    )
    checks = write_bundle(source.generator, source.contract, source.provenance, out, uint8=values.uint8)
    print(table(checks))
    sizes = {path.relative_to(out): path.stat().st_size for path in sorted(out.rglob("*")) if path.is_file()}
    print("\n".join(f"{size / 1e6:9.2f} MB  {name}" for name, size in sizes.items() if size >= 1e4))
    print(
        f"{out}: {source.contract.name} version {version}, step {source.provenance['step']}, "
        f"{sum(sizes.values()) / 1e6:.1f} MB, {len(checks)} checks passed, {time.monotonic() - started:.0f} s"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
