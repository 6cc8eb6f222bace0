"""Which models and versions are loaded, and how a new version takes over without a failed request.

A source is a bundle, or a folder of bundles named by version (`taichi/1`, `taichi/2`: TensorFlow Serving's layout).
Sources are polled. A new version is loaded and warmed beside the old one and replaces it between two requests; the old
one is closed when its last request is done. A version that cannot be loaded is reported and tried again, and the old
one goes on serving.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence

from serving.runtime.batcher import Batcher
from serving.runtime.bundle import Bundle, is_bundle, read_bundle
from serving.runtime.engine import Engine
from serving.runtime.errors import BundleError, NotFound, Unavailable
from serving.runtime.options import EngineOptions
from serving.runtime.prometheus import Metrics

RETRY_SECONDS = 10.0
# Of a folder's name; any such number fits 64 bits.
VERSION_DIGITS = 18
log = logging.getLogger("serving.runtime.repository")


class Conflict(BundleError):
    """Two folders hold the same version of a model: nothing is damaged, but the sources are a mistake."""


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """How requests are batched; see `Batcher`."""

    max_queue_frames: int = 512
    max_wait_seconds: float = 0.25
    wait_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a version lies, and a stamp of its `bundle.json`, since a bundle may be replaced in its folder."""

    folder: pathlib.Path
    stamp: tuple[int, int, int]
    version: int | None


@dataclasses.dataclass(eq=False)
class Model:
    """One loaded version. Used through `Repository.lease`."""

    bundle: Bundle
    version: int
    engine: Engine
    batcher: Batcher
    place: Place
    leases: int = 0

    @property
    def name(self) -> str:
        return self.bundle.name

    def close(self) -> None:
        self.batcher.close()
        self.engine.close()


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """A version's state in TensorFlow Serving's words."""

    version: int
    state: str
    error: str = ""


class Repository:
    """The loaded models. All methods may be called from any thread."""

    def __init__(
        self,
        sources: Sequence[pathlib.Path | str],
        *,
        engine_options: EngineOptions | None = None,
        batch_options: BatchOptions | None = None,
        keep_versions: int = 2,
        metrics: Metrics | None = None,
    ) -> None:
        """Loads nothing yet: call `load` or `poll`.

        Args:
            sources: Bundles, or folders with one bundle per version.
            engine_options: How to run them.
            batch_options: How to batch.
            keep_versions: Newest versions of a source that stay loaded.
            metrics: Where to count.
        """
        self.sources = [pathlib.Path(source) for source in sources]
        self.engine_options = engine_options or EngineOptions()
        self.batch_options = batch_options or BatchOptions()
        self.keep_versions = keep_versions
        self.metrics = metrics or Metrics()
        self._models: dict[str, dict[int, Model]] = {}
        self._failed: dict[pathlib.Path, tuple[Place, float, str]] = {}
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._poll_lock = threading.Lock()
        self._closers: list[threading.Thread] = []

    def load(self) -> None:
        """Loads every source for the first time: its newest versions or, if they all fail, the newest one that loads.

        Raises:
            BundleError: A source has no bundle; none of its versions can be loaded (the message is about the newest);
                or two folders hold the same version of a model.
        """
        for source in self.sources:
            places = self._places(source)
            if not places:
                raise BundleError(
                    f"{source} is not a bundle (no bundle.json) and has no versions in it. "
                    "Write one with `python -m export --run_dir=RUN --out=BUNDLE`."
                )
            failed: list[tuple[Place, Exception]] = []
            for looked, place in enumerate(reversed(places)):
                if looked >= self.keep_versions and len(failed) < looked:
                    break
                try:
                    self._load(place)
                except Conflict:
                    raise
                except Exception as error:
                    failed.append((place, error))
            if len(failed) == len(places):
                raise failed[0][1]
            for place, reason in failed:
                _log_failure(place, reason)

    def _places(self, source: pathlib.Path) -> list[Place]:
        """The versions that a source has now, oldest first."""
        if is_bundle(source):
            return [Place(source, _stamp(source), None)]
        try:
            named = (path for path in source.iterdir() if path.name.isdecimal() and len(path.name) <= VERSION_DIGITS)
            folders = sorted((int(path.name), path) for path in named)
        except OSError:
            return []
        found = [(version, path) for version, path in folders if version > 0 and is_bundle(path)]
        return [Place(path, _stamp(path), version) for version, path in found]

    def _open(self, place: Place) -> Model:
        """Reads, loads, warms and checks a version."""
        begin = time.monotonic()
        bundle = read_bundle(place.folder)
        version = place.version or bundle.version
        engine = Engine(bundle, self.engine_options)
        batcher = Batcher(
            engine,
            workers=engine.options.workers,
            max_batch_frames=engine.options.max_batch_frames,
            max_queue_frames=self.batch_options.max_queue_frames,
            max_wait_seconds=self.batch_options.max_wait_seconds,
            wait_seconds=self.batch_options.wait_seconds,
            observer=self.metrics.observer(bundle.name),
        )
        self.metrics.loads.labels(bundle.name, "ok").inc()
        extra = {"model": bundle.name, "version": version, "seconds": round(time.monotonic() - begin, 3)}
        log.info("loaded", extra={**extra, **engine.describe()})
        return Model(bundle, version, engine, batcher, place)

    def _put(self, model: Model) -> None:
        """Gives a version to new requests, and closes the one that it replaces."""
        with self._lock:
            versions = self._models.setdefault(model.name, {})
            old = versions.get(model.version)
            if old and old.place.folder != model.place.folder:
                model_folder, old_folder = model.place.folder, old.place.folder
                raise Conflict(f"{model_folder} and {old_folder} are both version {model.version} of {model.name}.")
            versions[model.version] = model
            labels = self._labels(model)
        self.metrics.models.labels(*labels).set(1)
        if old:
            self._retire(old)

    @staticmethod
    def _labels(model: Model) -> tuple[str, str, str, str, str]:
        engine = model.engine
        return model.name, str(model.version), engine.provider, engine.precision, model.bundle.digest[:12]

    def _retire(self, model: Model) -> None:
        """Closes a version, which no new request gets any more, as soon as its last request is done."""

        def wait_and_close() -> None:
            with self._idle:
                while model.leases:
                    self._idle.wait()
            model.close()
            with self._lock:
                same = self._models.get(model.name, {}).get(model.version)
            if not (same and self._labels(same) == self._labels(model)):
                with contextlib.suppress(KeyError):
                    self.metrics.models.remove(*self._labels(model))
            log.info("unloaded", extra={"model": model.name, "version": model.version})

        thread = threading.Thread(target=wait_and_close, name=f"retire-{model.name}-{model.version}", daemon=True)
        self._closers = [closer for closer in self._closers if closer.is_alive()] + [thread]
        thread.start()

    def poll(self) -> bool:
        """Loads and unloads what changed at the sources; returns whether anything did. Blocks while a model loads."""
        with self._poll_lock:
            changed = False
            for source in self.sources:
                places = self._places(source)[-self.keep_versions :]
                self._forget_failures(source, places)
                if not places:  # Perhaps it is being renamed: what is loaded stays.
                    continue
                loaded = {model.place.folder: model for model in self._all() if self._is_from(model.place, source)}
                for place in places:
                    model = loaded.get(place.folder)
                    if (model is None or model.place.stamp != place.stamp) and self._try(place):
                        changed = True
                changed |= self._unload(source, places)
            return changed

    @staticmethod
    def _is_from(place: Place, source: pathlib.Path) -> bool:
        return source in (place.folder, place.folder.parent)

    def _forget_failures(self, source: pathlib.Path, places: list[Place]) -> None:
        """Forgets failures of versions that are gone, or too old to be tried again."""
        wanted = {place.folder for place in places}
        with self._lock:
            for folder, (place, _, _) in list(self._failed.items()):
                if self._is_from(place, source) and folder not in wanted:
                    del self._failed[folder]

    def _try(self, place: Place) -> bool:
        failed = self._failed.get(place.folder)
        if failed and failed[0] == place and time.monotonic() - failed[1] < RETRY_SECONDS:
            return False
        try:
            self._load(place)
        except Exception as error:
            _log_failure(place, error)
            return False
        return True

    def _load(self, place: Place) -> None:
        """Loads a version for new requests; notes a failure and raises it."""
        try:
            self._put(self._open(place))
        except Exception as error:
            with self._lock:
                self._failed[place.folder] = (place, time.monotonic(), str(error))
            self.metrics.loads.labels(place.folder.name, "failed").inc()
            raise
        with self._lock:
            self._failed.pop(place.folder, None)

    def _unload(self, source: pathlib.Path, places: list[Place]) -> bool:
        """Retires versions of a source that are no longer wanted, once the newest one is loaded."""
        wanted = {place.folder for place in places}
        with self._lock:
            loaded = [model for versions in self._models.values() for model in versions.values()]
            stale = [m for m in loaded if self._is_from(m.place, source) and m.place.folder not in wanted]
            # The bundle in a folder may have become another version.
            by_folder: dict[pathlib.Path, list[Model]] = {}
            for model in loaded:
                by_folder.setdefault(model.place.folder, []).append(model)
            stamps = {place.folder: place.stamp for place in places}
            for folder, models in by_folder.items():
                current = [model for model in models if model.place.stamp == stamps.get(folder)]
                stale += [model for model in models if current and model not in current and model not in stale]
            if not any(model.place.folder == places[-1].folder for model in loaded):
                return False
            for model in stale:
                del self._models[model.name][model.version]
                if not self._models[model.name]:
                    del self._models[model.name]
        for model in stale:
            self._retire(model)
        return bool(stale)

    def _all(self) -> list[Model]:
        with self._lock:
            return [model for versions in self._models.values() for model in versions.values()]

    def models(self) -> list[Model]:
        """Loaded versions, by name and version, to look at. To run one, use `lease`."""
        return sorted(self._all(), key=lambda model: (model.name, model.version))

    @property
    def default_name(self) -> str:
        """The model for requests that name none: the first source's."""
        with self._lock:
            for source in self.sources:
                for name, versions in self._models.items():
                    if any(self._is_from(model.place, source) for model in versions.values()):
                        return name
        raise Unavailable("No model is loaded yet.")

    def find(self, name: str | None = None, version: int | None = None) -> Model:
        """The newest version of a model, or the one asked for.

        Raises:
            NotFound: There is no such model or version.
        """
        name = self.default_name if name is None else name
        with self._lock:
            return self._find(name, version)

    def _find(self, name: str, version: int | None) -> Model:
        versions = self._models.get(name)
        if not versions:
            raise NotFound(f"Servable not found for request: Latest({name})")
        if version is None:
            return versions[max(versions)]
        if version not in versions:
            raise NotFound(f"Servable not found for request: Specific({name}, {version})")
        return versions[version]

    @contextlib.contextmanager
    def lease(self, name: str | None = None, version: int | None = None) -> Iterator[Model]:
        """A version that is not closed while the block runs.

        Raises:
            NotFound: There is no such model or version.
        """
        name = self.default_name if name is None else name
        with self._lock:
            model = self._find(name, version)
            model.leases += 1
        try:
            yield model
        finally:
            with self._idle:
                model.leases -= 1
                self._idle.notify_all()

    def status(self, name: str) -> list[VersionStatus]:
        """States of a model's versions, newest first, including versions that failed to load.

        Raises:
            NotFound: There is no such model.
        """
        with self._lock:
            versions = self._models.get(name)
            if not versions:
                raise NotFound(f"Could not find any versions of model {name}")
            states = {version: VersionStatus(version, "AVAILABLE") for version in versions}
            parents = {model.place.folder.parent for model in versions.values() if model.place.version}
            for folder, (place, _, error) in self._failed.items():
                if folder.parent in parents and place.version and place.version not in states:
                    states[place.version] = VersionStatus(place.version, "END", error)
        return [states[version] for version in sorted(states, reverse=True)]

    @property
    def alive(self) -> bool:
        """False once an engine fails batch after batch."""
        return all(model.batcher.alive for model in self._all())

    def close(self) -> None:
        """Closes everything after the running requests."""
        models = self._all()
        with self._lock:
            self._models = {}
        for model in models:
            self._retire(model)
        for thread in self._closers:
            thread.join()


def _stamp(folder: pathlib.Path) -> tuple[int, int, int]:
    try:
        stat = (folder / "bundle.json").stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


def _log_failure(place: Place, error: Exception) -> None:
    log.error("cannot load", extra={"folder": str(place.folder), "error": str(error)})
