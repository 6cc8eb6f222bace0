"""Several machines, extra `ray`: the same application as a Ray Serve deployment, with autoscaling and back-pressure.

    serve run serving.ray_app:build bundle=/models/taichi num_cpus=2 max_replicas=8

Ray places replicas on the cluster's nodes, and starts more when requests pile up. Each replica is a whole
server (engine, batcher, every protocol except gRPC). The bundle must lie at the same path on every node.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.applications import Starlette

from serving.app import create_app
from serving.runtime.options import EngineOptions
from serving.runtime.repository import BatchOptions, Repository
from serving.runtime.service import Service
from serving.web.guard import Keys

DEFAULTS: dict[str, Any] = {
    "bundle": None,
    "num_cpus": 1.0,
    "num_gpus": 0.0,
    "provider": "auto",
    "precision": "auto",
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


def make_app(options: dict[str, Any]) -> Starlette:
    """Makes the application of one replica."""
    if not options["num_gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # A replica that was given no GPU takes none.
    threads = options["threads"] or max(1, int(options["num_cpus"]))
    repository = Repository(
        [options["bundle"]],
        engine_options=EngineOptions(
            provider=options["provider"],
            precision=options["precision"],
            threads=threads,
            spinning=False,
            max_batch_frames=options["max_batch_frames"],
        ),
        batch_options=BatchOptions(options["max_queue_frames"]),
    )
    repository.load()
    keys = Keys.of_file(pathlib.Path(options["api_key_file"])) if options["api_key_file"] else Keys()
    return create_app(Service(repository, encode_threads=max(2, threads)), keys=keys, poll_seconds=5.0)


def build(args: dict[str, Any]) -> Application:
    """The Ray Serve application; what `serve run` and `serve.run` take.

    Args:
        args: Options as in `DEFAULTS`; numbers may be strings, as on a command line.

    Raises:
        ValueError: An option is unknown or not a number, or `bundle` is missing.
    """
    unknown = sorted(set(args) - set(DEFAULTS))
    if unknown or not args.get("bundle"):
        raise ValueError(f"`bundle` is needed; known options: {', '.join(DEFAULTS)}. Received: {sorted(args)}")
    options = dict(DEFAULTS)
    for name, value in args.items():
        kind = type(DEFAULTS[name])
        try:
            options[name] = kind(value) if kind in (int, float) else value
        except ValueError as error:
            raise ValueError(f"`{name}` must be a number. Received: {name}={value!r}") from error

    @serve.deployment(
        name="mocogan",
        ray_actor_options={"num_cpus": options["num_cpus"], "num_gpus": options["num_gpus"]},
        autoscaling_config={
            "min_replicas": options["min_replicas"],
            "max_replicas": options["max_replicas"],
            "target_ongoing_requests": options["target_ongoing_requests"],
        },
        max_ongoing_requests=options["max_ongoing_requests"],
        max_queued_requests=options["max_queued_requests"],
        graceful_shutdown_timeout_s=30,
    )
    @serve.ingress(lambda: make_app(options))
    class MoCoGAN:
        """One server in one Ray actor, on whichever node has room."""

    return MoCoGAN.bind()  # type: ignore[attr-defined]
