"""The machines of a run, as TF_CONFIG names them. TensorFlow is not imported here."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, and which of them this process is.

    Args:
        addresses: "host:port" of each worker; the first is the chief's.
        index: This worker's place among them.
    """

    addresses: tuple[str, ...] = ("localhost",)
    index: int = 0

    @property
    def num_workers(self) -> int:
        """The number of workers; 1 without a cluster."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that writes the run directory."""
        return self.index == 0


def from_environment(environ: Mapping[str, str] = os.environ) -> Cluster:
    """Reads the workers of this run from TF_CONFIG.

    Returns:
        `Cluster`; of a single worker if TF_CONFIG is not set, or names no cluster or a cluster of one.

    Raises:
        ValueError: TF_CONFIG is malformed, or contradicts itself.
    """
    text = environ.get("TF_CONFIG", "").strip()
    if not text:
        return Cluster()
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"it is not JSON ({error})", text) from error
    if not isinstance(config, dict):
        raise _wrong("it is not a JSON object", text)
    jobs, task = config.get("cluster") or {}, config.get("task")
    if not jobs:
        return Cluster()
    if not isinstance(jobs, dict) or not set(jobs) <= {"chief", "worker"}:
        raise _wrong("its cluster must have the jobs `worker` and, if wanted, `chief`, and no others", text)
    for name, addresses in jobs.items():
        if not isinstance(addresses, list) or not addresses or not all(map(_is_address, addresses)):
            raise _wrong(f'the addresses of `{name}` must be a list of "host:port"', text)
    if len(jobs.get("chief", [])) > 1:
        raise _wrong("there can be only one chief", text)
    everyone = (*jobs.get("chief", []), *jobs.get("worker", []))
    if len(set(everyone)) < len(everyone):
        raise _wrong("two workers have the same address", text)
    kind, index = (task.get("type"), task.get("index")) if isinstance(task, dict) else (None, None)
    if kind not in jobs:
        raise _wrong(f"its task's type must be {' or '.join(jobs)}", text)
    if not str(index).isdecimal() or int(str(index)) >= len(jobs[kind]):
        raise _wrong(f"its task's index must be from 0 to {len(jobs[kind]) - 1}", text)
    return Cluster(everyone, everyone.index(jobs[kind][int(str(index))]))


def _is_address(address: Any) -> bool:
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def _wrong(why: str, text: str) -> ValueError:
    return ValueError(
        f"TF_CONFIG is wrong: {why}. Expected, for the second of two workers: "
        '{"cluster": {"worker": ["host-a:2222", "host-b:2222"]}, "task": {"type": "worker", "index": 1}}. '
        f"Received: {text[:300]}. To train on this machine alone, unset TF_CONFIG."
    )
