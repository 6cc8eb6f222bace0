"""Prometheus metrics of one server; each server has a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The numbers; `render` is what `/metrics` answers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter(
            "serving_requests_total", "Requests answered.", ["route", "method", "code"], registry=registry
        )
        self.request_seconds = Histogram(
            "serving_request_seconds", "From the request's head to its last byte.", ["route"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("serving_requests_in_flight", "Requests being answered.", registry=registry)
        self.rejected = Counter("serving_rejected_total", "Requests refused, by reason.", ["reason"], registry=registry)
        self.queue_frames = Gauge(
            "serving_queue_frames", "Frames waiting for their turn.", ["model"], registry=registry
        )
        self.queue_jobs = Gauge("serving_queue_jobs", "Requests waiting for their turn.", ["model"], registry=registry)
        self.queue_seconds = Histogram(
            "serving_queue_seconds", "Wait of a request for its turn.", ["model"], buckets=SECONDS, registry=registry
        )
        self.batch_frames = Histogram(
            "serving_batch_frames", "Frames of a batch.", ["model"], buckets=FRAMES, registry=registry
        )
        self.inference_seconds = Histogram(
            "serving_inference_seconds", "Time of a batch in the engine.", ["model"], buckets=SECONDS, registry=registry
        )
        self.encode_seconds = Histogram(
            "serving_encode_seconds", "Time to encode an answer.", ["format"], buckets=SECONDS, registry=registry
        )
        self.frames = Counter("serving_frames_total", "Frames rendered.", ["model"], registry=registry)
        self.streams = Gauge("serving_streams", "Open streams.", registry=registry)
        self.loads = Counter(
            "serving_model_loads_total",
            "Loads of a model version, by outcome.",
            ["model", "outcome"],
            registry=registry,
        )
        self.models = Gauge(
            "serving_model_version", "1 for every version that is loaded.",
            ["model", "version", "provider", "precision", "digest"], registry=registry,
        )  # fmt: skip

    def observer(self, model: str) -> ModelObserver:
        """The part that a model's batcher feeds."""
        return ModelObserver(self, model)

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)


class ModelObserver:
    """Numbers of one model; implements `batcher.Observer`."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._queue_frames = metrics.queue_frames.labels(model)
        self._queue_jobs = metrics.queue_jobs.labels(model)
        self._queue_seconds = metrics.queue_seconds.labels(model)
        self._batch_frames = metrics.batch_frames.labels(model)
        self._inference = metrics.inference_seconds.labels(model)
        self._frames = metrics.frames.labels(model)

    def batch(self, frames: int, seconds: float) -> None:
        self._batch_frames.observe(frames)
        self._inference.observe(seconds)
        self._frames.inc(frames)

    def queued(self, frames: int, jobs: int) -> None:
        self._queue_frames.set(frames)
        self._queue_jobs.set(jobs)

    def waited(self, seconds: float) -> None:
        self._queue_seconds.observe(seconds)
