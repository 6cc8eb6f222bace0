"""The ASGI application: all routes of a service. Servers and tests call `create_app`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mimetypes
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

import serving
from serving.protocols import native, open_inference, pictures, tf_serving
from serving.protocols.openapi import document
from serving.protocols.stream import Streams
from serving.runtime.encode import FORMATS
from serving.runtime.errors import MethodNotAllowed, NotFound
from serving.runtime.service import Service
from serving.web.guard import Guard, Keys
from serving.web.http import JSONResponse, error_response

STUDIO = pathlib.Path(__file__).parent / "studio"
# Routes of our own under /v1/; every other path there is TensorFlow Serving's.
NATIVE = {
    "/v1/generate": "GET, POST",
    "/v1/grid": "GET, POST",
    "/v1/stream": "GET",
    "/v1/encode": "POST",
    "/v1/pictures": "GET",
}
# Probes and the page carry no key; the page asks for one.
PROBES = {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
OPEN = PROBES | {"/", "/docs", "/openapi.json"}
KEYS_SECONDS = 2.0
ANY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
# The page loads from this server only, and may show pictures that it made itself.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
log = logging.getLogger("serving.app")


def is_native(path: str) -> bool:
    """Whether a path's errors have our own form, not that of TensorFlow Serving or Open Inference."""
    return path in NATIVE or (path != "/v2" and not path.startswith(("/v1/", "/v2/")))


def is_open(path: str) -> bool:
    """Whether a path needs no API key."""
    return path in OPEN or path.startswith("/studio/")


def create_app(
    service: Service,
    *,
    keys: Keys | None = None,
    hosts: tuple[str, ...] | None = None,
    origins: tuple[str, ...] = (),
    poll_seconds: float = 0.0,
) -> Starlette:
    """Makes the application.

    Args:
        service: With a loaded repository. It becomes `ready` when the application starts, and is closed at the end.
        keys: API keys; if there are none, no key is needed. Their file, if they are from one, is watched.
        hosts: The server's names beside its addresses and `localhost`; None: `Host` is not checked.
        origins: Other origins whose pages may call the API.
        poll_seconds: How often to look for new versions; 0: never.
    """
    keys = keys or Keys()
    streams = Streams(service, keys, origins)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_repeat(keys.reload, KEYS_SECONDS, "reading the API keys again failed"))]
        if poll_seconds:
            poll = service.repository.poll
            tasks.append(asyncio.create_task(_repeat(poll, poll_seconds, "looking for new versions failed")))
        service.ready = True
        yield
        service.ready = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(service.close)

    paths = {"is_open": is_open, "is_probe": PROBES.__contains__, "is_native": is_native}
    middleware = [Middleware(Guard, service=service, keys=keys, hosts=hosts, **paths)]
    if origins:
        exposed = [
            "X-Seed",
            "X-Model",
            "X-Model-Version",
            "X-Request-Id",
            "X-Video-Shape",
            "X-Picture",
            "Server-Timing",
        ]
        middleware.insert(
            0,
            Middleware(
                CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"],
                expose_headers=exposed,
            ),
        )  # fmt: skip
    app = Starlette(
        routes=[
            Route("/", _studio),
            Route("/studio/{name}", _studio),
            Route("/livez", _livez),
            Route("/readyz", _readyz),
            Route("/info", _info),
            Route("/metrics", _metrics),
            Route("/monitoring/prometheus/metrics", _metrics),
            Route("/openapi.json", _openapi),
            Route("/docs", _docs),
            Route("/v1/generate", native.generate, methods=["GET", "POST"]),
            Route("/v1/grid", native.grid, methods=["GET", "POST"]),
            Route("/v1/encode", pictures.encode, methods=["POST"]),
            Route("/v1/pictures", pictures.shown),
            Route("/v1/stream", streams.picture),
            WebSocketRoute("/v1/stream", streams.socket),
            *(Route(path, _wrong_method, methods=ANY) for path in NATIVE),
            Route("/v1/{rest:path}", tf_serving.handle, methods=ANY),
            Route("/v2", open_inference.handle, methods=ANY),
            Route("/v2/{rest:path}", open_inference.handle, methods=ANY),
        ],
        middleware=middleware,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_exception},
    )
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.keys = keys
    return app


async def _repeat(function: Callable[[], object], seconds: float, failed: str) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(function)
        except Exception:
            log.exception(failed)


async def _http_exception(request: Request, error: Exception) -> Response:
    """Puts Starlette's own 404 and 405 into our form."""
    assert isinstance(error, HTTPException)
    path, method, native = request.scope["path"][:200], request.method, is_native(request.scope["path"])
    if error.status_code != 405:
        return error_response(NotFound(f"Not found: {method} {path}"), native=native)
    allow = (error.headers or {}).get("Allow", "")
    refusal = MethodNotAllowed(f"{method} is not allowed on {path}, only {allow}.")
    response = error_response(refusal, native=native)
    response.headers["Allow"] = allow
    return response


async def _wrong_method(request: Request) -> Response:
    """Keeps other methods of a native route from those that stand for all of /v1/."""
    raise HTTPException(405, headers={"Allow": NATIVE[request.scope["path"]]})


async def _studio(request: Request) -> Response:
    """The page at `/` and its files; names outside its folder are unknown."""
    request.state.route = "/studio"
    name = request.path_params.get("name", "index.html")
    files = {path.name: path for path in STUDIO.iterdir() if path.is_file()}
    if name not in files:
        raise NotFound(f"Not found: GET {request.scope['path'][:200]}")
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    body = await asyncio.to_thread(files[name].read_bytes)
    headers = {"Content-Security-Policy": CONTENT_POLICY, "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}
    return Response(body, media_type=media_type, headers=headers)


async def _livez(request: Request) -> Response:
    request.state.route, request.state.quiet = "/livez", True
    alive = request.app.state.service.repository.alive
    return JSONResponse({"status": "alive" if alive else "the engine fails"}, 200 if alive else 503)


async def _readyz(request: Request) -> Response:
    request.state.route, request.state.quiet = "/readyz", True
    service: Service = request.app.state.service
    status = "draining" if service.draining else "ready" if service.ready else "starting"
    return JSONResponse({"status": status}, 200 if status == "ready" else 503)


async def _info(request: Request) -> Response:
    request.state.route = "/info"
    service: Service = request.app.state.service
    models: list[dict[str, Any]] = []
    for model in service.repository.models():
        bundle = model.bundle
        models.append(
            {
                "name": model.name,
                "version": model.version,
                "digest": bundle.digest,
                "categories": list(bundle.categories),
                "dim_content": bundle.latents.dim_content,
                "dim_motion": bundle.latents.dim_motion,
                "dim_category": bundle.latents.dim_category,
                "category_to": bundle.category_to,
                "content_from": bundle.latents.content_from,
                "fps": bundle.fps,
                "video_length": bundle.video_length,
                "height": bundle.height,
                "width": bundle.width,
                "channels": bundle.channels,
                "provenance": bundle.facts.get("provenance", {}),
                "engine": model.engine.describe(),
                "queue": {
                    "frames": model.batcher.admitted_frames,
                    "max_frames": model.batcher.max_queue_frames,
                    "seconds_per_frame": model.batcher.seconds_per_frame,
                },
            }
        )
    limits = {name: getattr(service.limits, name) for name in service.limits.__dataclass_fields__}
    default = service.repository.default_name
    return JSONResponse(
        {
            "server": serving.__version__,
            "default_model": default,
            "models": models,
            "formats": _formats(),
            "limits": limits,
        }
    )


def _formats() -> dict[str, str]:
    return {name: kind.media_type for name, kind in FORMATS.items() if kind.available}


async def _metrics(request: Request) -> Response:
    request.state.route, request.state.quiet = "/metrics", True
    body = request.app.state.service.metrics.render()
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _openapi(request: Request) -> Response:
    request.state.route = "/openapi.json"
    return JSONResponse(document(request.app.state.service))


async def _docs(request: Request) -> Response:
    request.state.route = "/docs"
    body = await asyncio.to_thread((STUDIO / "docs.html").read_bytes)
    return Response(body, media_type="text/html", headers={"Content-Security-Policy": CONTENT_POLICY})
