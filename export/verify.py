"""Proves a bundle, wherever it is from: python -m export.verify BUNDLE. The exit code is 1 if a check fails."""

from export.__main__ import run_verify

if __name__ == "__main__":
    run_verify()
