"""Several machines, extra `ray`: the same application as a Ray Serve deployment, with autoscaling and back-pressure.

    serve run serving.ray_app:build bundle=/models/taichi num_cpus=2 max_replicas=8

Ray places the replicas on the cluster's nodes, starts more when requests pile up and takes them away again; each
replica is a whole server (engine, batcher, every protocol but gRPC). The bundle must lie at the same path on every
node, on a shared or a copied disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.types import Message, Receive, Scope, Send

from serving.app import create_app
from serving.engine import EngineOptions
from serving.guard import Keys, read_api_keys
from serving.repository import BatchOptions, Repository
from serving.service import Limits, Service

DEFAULTS: dict[str, Any] = {
    "bundle": None,
    "num_cpus": 1.0,
    "num_gpus": 0.0,
    "threads": 0,
    "min_replicas": 1,
    "max_replicas": 4,
    "target_ongoing_requests": 4.0,
    "max_ongoing_requests": 32,
    "max_queued_requests": 64,
    "max_queue_frames": 512,
    "max_batch_frames": 32,
    "api_key_file": None,
}


class Replica:
    """One server in one Ray actor. Ray's proxy hands it requests as ASGI."""

    def __init__(self, options: dict[str, Any]) -> None:
        threads = options["threads"] or max(1, int(options["num_cpus"]))
        provider = "cuda" if options["num_gpus"] else "cpu"
        repository = Repository(
            [options["bundle"]],
            engine_options=EngineOptions(
                provider=provider, threads=threads, max_batch_frames=options["max_batch_frames"]
            ),
            batch_options=BatchOptions(options["max_queue_frames"]),
        )
        repository.load()
        self.service = Service(repository, Limits(), encode_threads=max(2, threads))
        keys = Keys(read_api_keys(options["api_key_file"])) if options["api_key_file"] else Keys()
        self.app = create_app(self.service, keys=keys, poll_seconds=5.0)
        self._lifespan: contextlib.AsyncExitStack | None = None
        self._starting = asyncio.Lock()

    async def _start(self) -> None:
        async with self._starting:
            if self._lifespan is None:
                stack = contextlib.AsyncExitStack()
                await stack.enter_async_context(self.app.router.lifespan_context(self.app))
                self._lifespan = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await self._start()
        await self.app(scope, receive, send)

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises."""
        if not self.service.repository.alive:
            raise RuntimeError("The engine fails batch after batch.")

    async def close(self) -> None:
        """Ends what the first request started."""
        if self._lifespan is not None:
            await self._lifespan.aclose()


__all__ = ["Application", "DEFAULTS", "Message", "Replica", "build", "serve"]
