"""`python -m export.verify BUNDLE`: proves a bundle, wherever it is from; exit code 1 if a check fails."""

from __future__ import annotations

import os
import pathlib
import sys

from export.dependencies import check_installed


def main(argv: list[str]) -> int:
    """Prints the findings on the bundle that is the only argument."""
    if len(argv) != 2 or argv[1].startswith("-"):
        print("usage: python -m export.verify BUNDLE", file=sys.stderr)
        return 1
    # Before TensorFlow is imported: its start-up chatter would bury the table, and a GPU would compute in TF32.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        check_installed()
        from export.proof import table, verify

        checks = verify(pathlib.Path(argv[1]))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = sum(not check.passed for check in checks)
    print(table(checks))
    print(f"{failed} of {len(checks)} checks FAILED" if failed else f"{len(checks)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
