"""`python -m serving --bundle=B`: flags, then a server."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import os
import pathlib
import ssl
import sys
from collections.abc import Iterator

try:
    from serving.app import create_app
    from serving.runtime.engine import PROVIDERS, EngineOptions
    from serving.runtime.errors import ServingError
    from serving.runtime.repository import BatchOptions, Repository
    from serving.runtime.service import Limits, Service
    from serving.web.guard import Keys, read_api_keys
    from serving.web.logs import set_up_logs
    from serving.web.server import GRPC, make_server
except ModuleNotFoundError as error:
    package = (error.name or "serving").partition(".")[0]
    if package == "serving":
        raise
    sys.exit(
        f"python -m serving: the package {package} is missing or too old. Install what serving needs: pip install -e "
        "'.[serving]' in a checkout, or pip install -r serving/requirements.txt for serving alone."
    )

DEFAULT_BUNDLE = pathlib.Path("pretrained/taichi")


def flags() -> argparse.ArgumentParser:
    """The command line."""
    limits, batch, engine = Limits(), BatchOptions(), EngineOptions()
    parser = argparse.ArgumentParser("python -m serving", description="Serves bundles over HTTP.", allow_abbrev=False)
    # fmt: off
    add = parser.add_argument
    add("--bundle", action="append", type=pathlib.Path, metavar="DIR",
        help=f"a bundle, or a folder of bundles by version; may be repeated (default: {DEFAULT_BUNDLE} if it exists)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network")
    add("--port", type=int, default=8501, help="port to listen on; 0 takes a free one")
    add("--provider", choices=["auto", *PROVIDERS], default=engine.provider, help="where to run")
    add("--precision", choices=["auto", "float32", "float16"], default=engine.precision, help="of the frame model")
    add("--threads", type=int, default=engine.threads, help="CPU threads of a worker; 0: the CPUs over the workers")
    add("--workers", type=int, default=engine.workers, help="batches that run at the same time")
    add("--encode_threads", type=int, default=0, help="threads that encode; 0: the CPUs, at least 2")
    add("--max_batch_frames", type=int, default=engine.max_batch_frames, help="frames of the largest batch")
    add("--batch_wait_ms", type=float, default=0.0, help="how long an idle worker waits for a batch to fill")
    add("--cuda_graph", action="store_true", help="replay the frame model as a CUDA graph, if it passes a self-test")
    add("--spinning", action="store_true", help="a few per cent more throughput on a CPU for slower slowest answers")
    add("--device_id", type=int, default=engine.device_id, help="which GPU")
    add("--max_queue_frames", type=int, default=batch.max_queue_frames, help="frames in the house before 429")
    add("--max_wait", type=float, default=batch.max_wait_seconds, help="foreseen seconds behind others before 429")
    add("--max_videos", type=int, default=limits.max_videos, help="clips of a request")
    add("--max_frames", type=int, default=limits.max_frames, help="frames of a clip")
    add("--max_total_frames", type=int, default=limits.max_total_frames, help="clips times frames of a request")
    add("--max_body_bytes", type=int, default=limits.max_body_bytes, help="bytes of a request body")
    add("--max_streams", type=int, default=limits.max_streams, help="open streams")
    add("--max_connections", type=int, default=1024, help="open connections")
    add("--timeout", type=float, default=limits.timeout_seconds, help="seconds for a request")
    add("--api_key_file", type=pathlib.Path, help="file with one API key per line; without it everybody may come in")
    add("--allow_origin", action="append", default=[], metavar="ORIGIN", help="other origin whose pages may call us")
    add("--keep_versions", type=int, default=2, help="newest versions of a folder that stay loaded")
    add("--poll_seconds", type=float, default=2.0, help="how often to look for new versions; 0 never")
    add("--drain_delay", type=float, default=2.0, help="seconds from SIGTERM until the door shuts")
    add("--grace_seconds", type=int, default=30, help="then, seconds for requests that run")
    add("--grpc_port", type=int, default=0, help="port of TensorFlow Serving's gRPC (extra `grpc`); 0: none")
    add("--tls_cert", type=pathlib.Path, help="certificate chain, PEM")
    add("--tls_key", type=pathlib.Path, help="private key, PEM")
    add("--log_format", choices=["json", "text"], default="text" if sys.stderr.isatty() else "json", help="of the log")
    add("--log_level", choices=["debug", "info", "warning", "error"], default="info", help="least level that is logged")
    return parser


def check_flags(values: argparse.Namespace) -> None:
    """Raises ValueError for a number out of range."""
    for name in ("workers", "max_batch_frames", "max_queue_frames", "max_videos", "max_frames", "max_total_frames",
                 "max_body_bytes", "max_connections", "timeout", "max_wait", "keep_versions"):  # fmt: skip
        if not getattr(values, name) > 0:
            raise ValueError(f"--{name} must be positive. Received: --{name}={getattr(values, name)}")
    for name in ("threads", "encode_threads", "batch_wait_ms", "max_streams", "poll_seconds", "drain_delay",
                 "grace_seconds", "device_id"):  # fmt: skip
        if not getattr(values, name) >= 0:
            raise ValueError(f"--{name} must not be negative. Received: --{name}={getattr(values, name)}")
    for name in ("port", "grpc_port"):
        if not 0 <= getattr(values, name) < 2**16:
            raise ValueError(f"--{name} must be in [0, 65535]. Received: --{name}={getattr(values, name)}")
    if bool(values.tls_cert) != bool(values.tls_key):
        raise ValueError("--tls_cert and --tls_key belong together.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def naming(flag: str, path: pathlib.Path) -> Iterator[None]:
    """What is wrong with the file names the flag that it was given by."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"--{flag}={path} cannot be read: {reason}") from error


def read_tls(values: argparse.Namespace) -> tuple[bytes, bytes] | None:
    """Private key and certificate chain, PEM, if they were asked for."""
    if not values.tls_cert:
        return None
    with naming("tls_key", values.tls_key):
        key = values.tls_key.read_bytes()
    with naming("tls_cert", values.tls_cert):
        return key, values.tls_cert.read_bytes()


def read_keys(values: argparse.Namespace) -> Keys:
    """The API keys, if there are any."""
    if not values.api_key_file:
        return Keys()
    with naming("api_key_file", values.api_key_file):
        return Keys(read_api_keys(values.api_key_file))


def make_grpc(values: argparse.Namespace, service: Service, keys: Keys, tls: tuple[bytes, bytes] | None) -> GRPC:
    """What opens TensorFlow Serving's gRPC beside the HTTP server.

    Raises:
        ValueError: The extra is not installed.
    """
    # Its core writes lines of its own to stderr, that clients with bad TLS cause too: no part of our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from serving.protocols.grpc import grpc_server
    except ImportError as error:
        raise ValueError(f"--grpc_port needs the packages grpcio and protobuf: {error}") from error
    return lambda: grpc_server(service, keys, values.host, values.grpc_port, values.grace_seconds, tls)


def serve(values: argparse.Namespace) -> None:
    """Loads, listens, drains."""
    set_up_logs(values.log_format, values.log_level)
    tls, keys = read_tls(values), read_keys(values)
    if not is_loopback(values.host) and not keys.needed:
        logging.getLogger("serving").warning("open to the network without API keys; see --api_key_file")
    repository = Repository(
        values.bundle,
        engine_options=EngineOptions(
            provider=values.provider, precision=values.precision, threads=values.threads, workers=values.workers,
            max_batch_frames=values.max_batch_frames, cuda_graph=values.cuda_graph, spinning=values.spinning,
            device_id=values.device_id,
        ),
        batch_options=BatchOptions(values.max_queue_frames, values.max_wait, values.batch_wait_ms / 1e3),
        keep_versions=values.keep_versions,
    )  # fmt: skip
    repository.load()
    limits = Limits(
        max_videos=values.max_videos, max_frames=values.max_frames, max_total_frames=values.max_total_frames,
        max_body_bytes=values.max_body_bytes, max_streams=values.max_streams, timeout_seconds=values.timeout,
    )  # fmt: skip
    service = Service(repository, limits, encode_threads=values.encode_threads or None)
    app = create_app(service, keys=keys, origins=tuple(values.allow_origin), poll_seconds=values.poll_seconds)
    grpc = make_grpc(values, service, keys, tls) if values.grpc_port else None
    files = {"ssl_certfile": values.tls_cert, "ssl_keyfile": values.tls_key} if tls else {}
    server = make_server(
        app, host=values.host, port=values.port, drain_delay=values.drain_delay, grace_seconds=values.grace_seconds,
        max_connections=values.max_connections, grpc=grpc, **files,
    )  # fmt: skip
    try:
        server.run()
    except ssl.SSLError as error:
        raise ValueError(
            f"--tls_cert={values.tls_cert} and --tls_key={values.tls_key} must be a certificate and its private key, "
            f"PEM files: {error}"
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code; what a user can mend is one line on stderr."""
    values = flags().parse_args(argv)
    try:
        check_flags(values)
        if not values.bundle:
            if not DEFAULT_BUNDLE.is_dir():
                raise ValueError(f"--bundle=DIR is needed: there is no {DEFAULT_BUNDLE} here to serve instead.")
            values.bundle = [DEFAULT_BUNDLE]
        serve(values)
    except (ServingError, ValueError, OSError) as error:
        print(f"python -m serving: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
