"""`python -m export.verify BUNDLE`; the command itself stands in `export.__main__`."""

from export.__main__ import run_verify

if __name__ == "__main__":
    run_verify()
