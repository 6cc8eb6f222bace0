"""How long a person waits from a seed to a clip, per format: python -m benchmarks.seed_to_picture [BUNDLE] [--json]

Starts the server and asks for one clip at a time over HTTP, formats in turns. Prints, per format, the medians of the
wait at the client, of the parts that `Server-Timing` tells, of what is left for HTTP, and the answer's size.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import statistics
import time
from typing import Any

import httpx

from benchmarks.serving import ROOT, our_server
from serving.runtime.encode import FORMATS

PARTS = ("draw", "queue", "render", "encode")


def parts(header: str) -> dict[str, float]:
    """Returns milliseconds by name."""
    return {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", header)}


def run(bundle: pathlib.Path, rounds: int, scale: int) -> dict[str, dict[str, float]]:
    """Measures; returns medians in milliseconds, and `bytes`, by format."""
    names = [name for name, kind in FORMATS.items() if kind.available]
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with our_server(bundle) as (_, url), httpx.Client(base_url=url, timeout=60.0) as client:
        for turn in range(rounds + 1):
            for name in names:
                started = time.perf_counter()
                answer = client.get("/v1/generate", params={"seed": turn, "format": name, "scale": scale})
                wait = 1e3 * (time.perf_counter() - started)
                if answer.raise_for_status() and turn:  # The first warms up.
                    inside = parts(answer.headers["server-timing"])
                    rest = {"wait": wait, "http": wait - sum(inside.values()), "bytes": float(len(answer.content))}
                    taken[name].append({**inside, **rest})
    return {
        name: {part: statistics.median(one[part] for one in all_of) for part in all_of[0]}
        for name, all_of in taken.items()
    }


def main() -> None:
    """Prints a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=pathlib.Path, default=ROOT / "pretrained" / "taichi")
    parser.add_argument("--rounds", type=int, default=20, help="clips of each format")
    parser.add_argument("--scale", type=int, default=1, help="enlargement of the pictures")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    report: dict[str, Any] = run(flags.bundle.resolve(), flags.rounds, flags.scale)
    if flags.json:
        print(json.dumps(report))
        return
    print(f"{'':6} {'wait':>8} {' '.join(f'{part:>8}' for part in (*PARTS, 'http'))} ms {'bytes':>8}")
    for name, median in sorted(report.items(), key=lambda item: item[1]["wait"]):
        times = " ".join(f"{median[part]:8.1f}" for part in ("wait", *PARTS, "http"))
        print(f"{name:6} {times}    {median['bytes']:8.0f}")


if __name__ == "__main__":
    main()
