"""`python -m serving --bundle=B`: flags, then a server."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import pathlib
import resource
import ssl
import sys
from collections.abc import Iterator

try:
    from absl import flags

    from serving.app import create_app
    from serving.command_line import CommandLine
    from serving.runtime.errors import ServingError
    from serving.runtime.options import PRECISION_NAMES, PRECISIONS, EngineOptions
    from serving.runtime.repository import BatchOptions, Repository
    from serving.runtime.service import Limits, Service
    from serving.web.guard import Keys
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

DEFAULT_BUNDLES = (pathlib.Path("pretrained/taichi"), pathlib.Path("pretrained/taichi-animate"))


def command_line() -> CommandLine:
    """The flags."""
    limits, batch, engine = Limits(), BatchOptions(), EngineOptions()
    line = CommandLine("python -m serving", "Serves bundles over HTTP and, if asked to, gRPC.")
    # fmt: off
    add = line.group("start here")
    flags.DEFINE_multi_string("bundle", None, "A bundle, or a folder of bundles by version; may be repeated. If not "
                              f"given: {' and '.join(map(str, DEFAULT_BUNDLES))}", **add)
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 opens it to the network.", **add)
    flags.DEFINE_integer("port", 8501, "Port to listen on; 0 takes a free one.", **add)
    flags.DEFINE_integer("grpc_port", 0, "Port for TensorFlow Serving's gRPC (extra `grpc`); 0: none.", **add)
    add = line.group("who may connect")
    flags.DEFINE_string("api_key_file", None, "File with one API key per line, read again when it changes. Without "
                        "it no key is needed.", **add)
    flags.DEFINE_multi_string("allow_host", [], "Another name by which the server is called, such as a proxy's. On "
                              "loopback, or with this flag, `Host` must be such a name, an address or localhost", **add)
    flags.DEFINE_multi_string("allow_origin", [], "Another origin whose pages may call the API", **add)
    flags.DEFINE_string("tls_cert", None, "Certificate chain, PEM.", **add)
    flags.DEFINE_string("tls_key", None, "Private key, PEM.", **add)
    add = line.group("engine")
    flags.DEFINE_enum("provider", engine.provider, ["auto", *PRECISIONS], "Where to run the frame model.", **add)
    flags.DEFINE_enum("precision", engine.precision, ["auto", *PRECISION_NAMES], "Of the frame model.", **add)
    flags.DEFINE_integer("threads", engine.threads, "CPU threads of a worker; 0: the CPUs over the workers.", **add)
    flags.DEFINE_integer("workers", engine.workers, "Batches that run at the same time.", **add)
    flags.DEFINE_integer("device_id", engine.device_id, "Which GPU.", **add)
    flags.DEFINE_boolean("cuda_graph", False, "Replay the frame model as a CUDA graph if a self-test passes.", **add)
    flags.DEFINE_boolean("spinning", False, "Keep CPU threads awake within a run: a few per cent more throughput, but "
                         "the slowest answers take longer.", **add)
    flags.DEFINE_integer("encode_threads", 0, "Threads that encode; 0: the CPUs, at least 2.", **add)
    add = line.group("batches and queue")
    flags.DEFINE_integer("max_batch_frames", engine.max_batch_frames, "Frames of the largest batch.", **add)
    flags.DEFINE_float("batch_wait_ms", 0.0, "How long an idle worker waits for a batch to fill.", **add)
    flags.DEFINE_integer("max_queue_frames", batch.max_queue_frames, "Frames accepted and not yet answered; a request "
                         "beyond that gets 429.", **add)
    flags.DEFINE_float("max_wait", batch.max_wait_seconds, "A request that would wait longer than these seconds for "
                       "others gets 429.", **add)
    add = line.group("limits")
    flags.DEFINE_integer("max_videos", limits.max_videos, "Clips of a request.", **add)
    flags.DEFINE_integer("max_frames", limits.max_frames, "Frames of a clip.", **add)
    flags.DEFINE_integer("max_total_frames", limits.max_total_frames, "Clips times frames of a request.", **add)
    flags.DEFINE_integer("max_body_bytes", limits.max_body_bytes, "Bytes of a request body.", **add)
    flags.DEFINE_integer("max_streams", limits.max_streams, "Open streams.", **add)
    flags.DEFINE_integer("max_streams_per_client", limits.max_streams_per_client, "Open streams of one API key; where "
                         "no key is needed, of one address.", **add)
    flags.DEFINE_integer("max_memory", 0, "MiB of memory that this process may map for itself; a bundle or a request "
                         "that needs more fails alone. 0: no such limit.", **add)
    flags.DEFINE_integer("max_connections", 1024, "Open connections.", **add)
    flags.DEFINE_integer("max_connections_per_address", 256, "Open connections of one address; as many as "
                         "--max_connections if a proxy makes them all.", **add)
    flags.DEFINE_float("timeout", limits.timeout_seconds, "Seconds for a request.", **add)
    add = line.group("versions and shutdown")
    flags.DEFINE_integer("keep_versions", 2, "Newest versions of a folder that stay loaded.", **add)
    flags.DEFINE_float("poll_seconds", 2.0, "How often to look for new versions; 0: never.", **add)
    flags.DEFINE_float("drain_delay", 2.0, "Seconds after SIGTERM in which new requests are still served.", **add)
    flags.DEFINE_integer("grace_seconds", 30, "Seconds after that for running requests to finish.", **add)
    add = line.group("log")
    style = "text" if sys.stderr.isatty() else "json"
    flags.DEFINE_enum("log_format", style, ["json", "text"], "JSON lines, or text for people.", **add)
    flags.DEFINE_enum("log_level", "info", ["debug", "info", "warning", "error"], "Lowest level that is logged.", **add)
    # fmt: on
    return line


def check_flags(values: flags.FlagValues) -> None:
    """Raises ValueError for a number out of range."""
    for name in ("workers", "max_batch_frames", "max_queue_frames", "max_videos", "max_frames", "max_total_frames",
                 "max_body_bytes", "max_connections", "max_connections_per_address", "timeout", "max_wait",
                 "keep_versions"):  # fmt: skip
        if not getattr(values, name) > 0:
            raise ValueError(f"--{name} must be positive. Received: --{name}={getattr(values, name)}")
    for name in ("threads", "encode_threads", "batch_wait_ms", "max_streams", "max_streams_per_client", "max_memory",
                 "poll_seconds", "drain_delay", "grace_seconds", "device_id"):  # fmt: skip
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


def limit_memory(megabytes: int) -> None:
    """Bounds this process's own memory, so that what asks for more gets an error before the kernel ends the server."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    size = megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


@contextlib.contextmanager
def naming(flag: str, path: str) -> Iterator[None]:
    """Turns an error in reading a file into one that names the flag."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"--{flag}={path} cannot be read: {reason}") from error


def read_tls(values: flags.FlagValues) -> tuple[bytes, bytes] | None:
    """Private key and certificate chain, PEM, if they were asked for."""
    if not values.tls_cert:
        return None
    with naming("tls_key", values.tls_key):
        key = pathlib.Path(values.tls_key).read_bytes()
    with naming("tls_cert", values.tls_cert):
        return key, pathlib.Path(values.tls_cert).read_bytes()


def read_keys(values: flags.FlagValues) -> Keys:
    """The API keys, if there are any."""
    if not values.api_key_file:
        return Keys()
    with naming("api_key_file", values.api_key_file):
        return Keys.of_file(pathlib.Path(values.api_key_file))


def make_grpc(values: flags.FlagValues, service: Service, keys: Keys, tls: tuple[bytes, bytes] | None) -> GRPC:
    """Returns what opens the gRPC server beside the HTTP server.

    Raises:
        ValueError: The extra is not installed.
    """
    # gRPC's core writes to stderr itself, also when a client's TLS is bad. That is no part of our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from serving.protocols.grpc import grpc_server
    except ImportError as error:
        raise ValueError(f"--grpc_port needs the packages grpcio and protobuf: {error}") from error
    return lambda: grpc_server(service, keys, values.host, values.grpc_port, values.grace_seconds, tls)


def serve(values: flags.FlagValues, bundles: list[str]) -> None:
    """Loads, listens, drains."""
    set_up_logs(values.log_format, values.log_level)
    if values.max_memory:
        limit_memory(values.max_memory)
    tls, keys = read_tls(values), read_keys(values)
    if not is_loopback(values.host) and not keys.needed:
        logging.getLogger("serving").warning("open to the network without API keys; see --api_key_file")
    repository = Repository(
        bundles,
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
        max_body_bytes=values.max_body_bytes,
        max_containers=max(Limits.max_containers, 4 * values.max_total_frames),  # A list per frame, and some per clip.
        max_streams=values.max_streams,
        max_streams_per_client=values.max_streams_per_client, timeout_seconds=values.timeout,
    )  # fmt: skip
    service = Service(repository, limits, encode_threads=values.encode_threads or None)
    hosts = tuple(name.lower() for name in values.allow_host)
    app = create_app(
        service, keys=keys, hosts=hosts if hosts or is_loopback(values.host) else None,
        origins=tuple(values.allow_origin), poll_seconds=values.poll_seconds,
    )  # fmt: skip
    grpc = make_grpc(values, service, keys, tls) if values.grpc_port else None
    files = {"ssl_certfile": values.tls_cert, "ssl_keyfile": values.tls_key} if tls else {}
    server = make_server(
        app, host=values.host, port=values.port, drain_delay=values.drain_delay, grace_seconds=values.grace_seconds,
        max_connections=values.max_connections, max_connections_per_address=values.max_connections_per_address,
        grpc=grpc, **files,
    )  # fmt: skip
    try:
        server.run()
    except ssl.SSLError as error:
        raise ValueError(
            f"--tls_cert={values.tls_cert} and --tls_key={values.tls_key} must be a certificate and its private key, "
            f"PEM files: {error}"
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 1 after one line on stderr for what a user can mend; `CommandLine.parse` for flags."""
    line = command_line()
    line.parse(argv)
    values = line.values
    try:
        check_flags(values)
        bundles = values.bundle or [str(folder) for folder in DEFAULT_BUNDLES if folder.is_dir()]
        if not bundles:
            raise ValueError(f"--bundle=DIR is needed: there is no {DEFAULT_BUNDLES[0]} here to serve instead.")
        serve(values, bundles)
    except (ServingError, ValueError, OSError) as error:
        print(f"python -m serving: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run() -> None:
    """The command `mocogan-serve`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
