"""Proves a bundle: compares every file with what it must be.

The proof checks checksums, holds the graphs against the rules of `export.lint`, and compares ONNX Runtime and
TensorFlow's session with Keras, on recorded and on fresh clips. It rebuilds Keras from the bundle itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from export.contract import Contract, TensorSpec, read_contract
from export.lint import lint_onnx, lint_saved_model
from export.onnx_model import part_inputs
from export.saved_model import Pictures, Session, read_warmup, sample_inputs, signatures
from mocogan_tf.files import sha256
from mocogan_tf.latents import sample_latents
from mocogan_tf.training.trained import rebuild_generator
from mocogan_tf.video import from_uint8, to_uint8

Array = NDArray[Any]
Arrays = dict[str, Array]
Model = Callable[[Arrays], Arrays]

CHECKSUMS = "SHA256SUMS"
FLOAT_LIMIT = 1e-4  # For values in [-1, 1], where a pixel level is 8e-3.
HALF_LIMIT, HALF_PSNR = 2e-2, 40.0
PIXEL_LIMIT = 1  # Level: a value halfway between two may round either way.
STATE_LIMIT = 1e-5
LATENT_LIMIT = 1e-6


@dataclasses.dataclass(frozen=True)
class Check:
    """A finding: what was checked, what was found, what is allowed, and whether the check passed."""

    name: str
    found: str
    allowed: str
    passed: bool


def verify(bundle: pathlib.Path, generator: Any = None) -> list[Check]:
    """Runs every check on a bundle.

    Args:
        bundle: The bundle's folder.
        generator: Keras model to compare with; if None, it is rebuilt from the SavedModel's weights.

    Returns:
        All findings, passed and failed.

    Raises:
        ValueError: The folder is not a bundle of this format.
    """
    read_contract(bundle)
    checks = list(verify_files(bundle))
    if all(check.passed for check in checks):  # No runtime should have to read a damaged file.
        checks += verify_content(bundle, generator)
    return checks


def verify_content(bundle: pathlib.Path, generator: Any = None) -> list[Check]:
    """Runs every check of `verify` except that of the checksums."""
    contract, described = read_contract(bundle)
    checks: list[Check] = []
    with contextlib.ExitStack() as stack:
        proof = _Proof(bundle, contract, described, generator, stack)
        steps = [
            proof.graphs,
            proof.recorded_clips,
            proof.fresh_clips,
            proof.batches,
            *([proof.chunks] if "motion_state" in contract.outputs else []),
            *([proof.encoder] if contract.content_from == "pictures" else []),
            proof.served_signatures,
            proof.warmup,
            proof.command_line,
        ]
        for step in steps:
            try:
                checks += step()
            except Exception as error:  # A faulty file can make a runtime raise anything: that is a finding.
                text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                checks.append(Check(step.__name__.replace("_", " "), text, "no error", False))
    return checks


def verify_files(bundle: pathlib.Path) -> Iterator[Check]:
    """Compares every file with its checksum; a missing and an unlisted file are faults too."""
    lines = (bundle / CHECKSUMS).read_text().splitlines() if (bundle / CHECKSUMS).exists() else []
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    faults = []
    for name, digest in listed.items():
        path = bundle / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif sha256(path) != digest:
            faults.append(f"{name} differs from its checksum")
    faults += [f"{name} is not listed in {CHECKSUMS}" for name in bundle_files(bundle) if name not in listed]
    yield Check("checksums", "; ".join(faults) or f"{len(listed)} files", "all equal", not faults and bool(listed))


def bundle_files(bundle: pathlib.Path) -> list[str]:
    """Returns the relative names of a bundle's files, sorted, without the list of checksums."""
    paths = (path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != CHECKSUMS)


def table(checks: list[Check]) -> str:
    """Lays out findings for the terminal."""
    rows = [("", "check", "found", "allowed")]
    rows += [("ok" if check.passed else "FAIL", check.name, check.found, check.allowed) for check in checks]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    )


class _Proof:
    """The checks of one bundle; each method yields findings."""

    def __init__(
        self,
        bundle: pathlib.Path,
        contract: Contract,
        described: dict[str, Any],
        generator: Any,
        stack: contextlib.ExitStack,
    ) -> None:
        self.bundle, self.contract, self.described, self.files = bundle, contract, described, described["files"]
        self.saved_model = bundle / self.files["saved_model"] / str(contract.version)
        self.given_generator, self.stack = generator, stack
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.in_parts = "motion" in self.files

    @functools.cached_property
    def generator(self) -> Any:
        """The Keras model that everything is compared with."""
        if self.given_generator is not None:
            return self.given_generator
        return rebuild_generator(self.saved_model, self.described)

    @functools.cached_property
    def pictures(self) -> Pictures | None:
        """What a seed chooses from, where content comes from pictures."""
        return Pictures.read(self.bundle / self.files["contents"]) if "contents" in self.files else None

    @functools.cached_property
    def served(self) -> Session:
        """TensorFlow's session with the SavedModel."""
        return self.stack.enter_context(Session(self.saved_model))

    def keras(self, inputs: Arrays) -> Arrays:
        latents = {name: inputs[name] for name in self.contract.inputs}
        outputs = self.generator(latents, training=False)
        return {name: np.asarray(outputs[name]) for name in self.contract.outputs}

    def onnx(self, inputs: Arrays, role: str = "onnx") -> Arrays:
        if role not in self.sessions:
            path = str(self.bundle / self.files[role])
            self.sessions[role] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        session = self.sessions[role]
        names = [output.name for output in session.get_outputs()]
        given = {item.name: inputs[item.name] for item in session.get_inputs()}
        return dict(zip(names, session.run(names, given), strict=True))

    def pair(self, inputs: Arrays, frames: str = "frames") -> Arrays:
        motion = self.onnx(inputs, "motion")
        return {**self.onnx({**inputs, **motion}, frames), "motion_state": motion["motion_state"]}

    def latents(self, num_videos: int, num_frames: int, seed: int = 1) -> Arrays:
        contents = self.pictures.contents if self.pictures else None
        return dict(sample_latents(self.contract.latents, num_videos, num_frames, seed=seed, contents=contents))

    def graphs(self) -> Iterator[Check]:
        """Lints every graph."""
        contract, inputs, outputs = self.contract, self.contract.inputs, self.contract.outputs
        others = [spec for name, spec in outputs.items() if name != "video"]
        interfaces: dict[str, tuple[list[TensorSpec], list[TensorSpec]]] = {
            "onnx_uint8": ([*inputs.values()], [contract.video("video_uint8", "uint8"), *others]),
            "encode": ([contract.image], [contract.content]),
        }
        if self.in_parts:
            to_motion, to_frames = part_inputs(contract)
            frames = ([*(inputs[name] for name in to_frames), contract.motion], [outputs["video"]])
            interfaces |= {
                "motion": ([inputs[name] for name in to_motion], [contract.motion, *others]),
                "frames": frames,
                "frames_fp16": frames,
            }
        for role in (role for role, name in self.files.items() if name.endswith(".onnx")):
            model = onnx.load(str(self.bundle / self.files[role]))
            expected = interfaces.get(role, ([*inputs.values()], [*outputs.values()]))
            yield _faultless(
                f"graph of {self.files[role]}", lint_onnx(model, *expected, contract), f"{len(model.graph.node)} nodes"
            )
        faults = lint_saved_model(self.saved_model, len(self.generator.weights))
        yield _faultless("graph of SavedModel", faults, f"{len(self.generator.weights)} weights, once")

    def recorded_clips(self) -> Iterator[Check]:
        """Compares every ONNX file with the recorded clips."""
        with np.load(self.bundle / self.files["golden"]) as file:
            golden = dict(file)
        seed, video = int(golden["seed"]), golden["video"]
        drawn = self.latents(video.shape[0], video.shape[1], seed)
        # Nearly, because another machine's logarithm may differ in the last place.
        faults = [
            f"{name} is not what seed {seed} draws"
            for name in drawn
            if not np.allclose(drawn[name], golden[name], rtol=0, atol=LATENT_LIMIT)
        ]
        yield _faultless("golden: latents", faults, f"seed {seed}")
        yield _close("golden: Keras", self.keras(golden), golden)
        yield _close("golden: model.onnx", self.onnx(golden), golden)
        if self.in_parts:
            yield _close("golden: motion.onnx + frames.onnx", self.pair(golden), golden)
            yield _close("golden: motion.onnx + frames.fp16.onnx", self.pair(golden, "frames_fp16"), golden, HALF_LIMIT)
        half = self.onnx(golden, "onnx_fp16")
        yield _close("golden: model.fp16.onnx", half, golden, HALF_LIMIT)
        psnr = 10 * np.log10(4 / max(float(np.mean((half["video"] - video) ** 2)), 1e-20))
        yield Check(
            "golden: model.fp16.onnx, PSNR", f"{psnr:.1f} dB", f">= {HALF_PSNR:.0f} dB", bool(psnr >= HALF_PSNR)
        )
        if "onnx_uint8" in self.files:
            yield _close_pixels("golden: model.uint8.onnx", self.onnx(golden, "onnx_uint8")["video_uint8"], video)

    def fresh_clips(self) -> Iterator[Check]:
        """Compares ONNX Runtime and TensorFlow's session with Keras on clips of several numbers and lengths."""
        trained = self.contract.video_length
        sizes = [(1, 1), (2, trained), (1, max(self.contract.frame_buckets)), (3, 5)]
        if self.contract.length != "time":
            sizes = [(1, trained), (2, trained), (3, trained)]
        for num_videos, num_frames in sizes:
            inputs = self.latents(num_videos, num_frames)
            expected, name = self.keras(inputs), f"{num_videos} x {num_frames} frames"
            yield _close(f"{name}: model.onnx, Keras", self.onnx(inputs), expected)
            yield _close(f"{name}: SavedModel, Keras", self.served.run("generate", inputs), expected)

    def encoder(self) -> Iterator[Check]:
        """Compares encode.onnx with Keras, and what seeds choose from with what it makes of their pictures."""
        assert self.pictures is not None
        images = from_uint8(self.pictures.pictures)
        made = self.onnx({"image": images}, "encode")["content"]
        yield _near("encode.onnx, Keras", made, self._encoded(images))
        yield _near("contents.npz, encode.onnx", self.pictures.contents, made)
        yield _near("one picture, the same in a batch", self.onnx({"image": images[:1]}, "encode")["content"], made[:1])

    def batches(self) -> Iterator[Check]:
        """Compares a clip alone with the same clip in a batch."""
        inputs = self.latents(3, self.contract.video_length)
        alone = {name: value[1:2] for name, value in inputs.items()}
        models: dict[str, Model] = {"model.onnx": self.onnx}
        if self.in_parts:
            models["motion.onnx + frames.onnx"] = self.pair
        for name, model in models.items():
            together = {key: value[1:2] for key, value in model(inputs).items()}
            yield _close(f"one clip, the same in a batch: {name}", model(alone), together)

    def chunks(self) -> Iterator[Check]:
        """Compares a clip made in chunks, each from the state of the one before, with the clip made at once."""
        inputs = self.latents(2, 2 * self.contract.video_length + 1)

        def proceed(given: Arrays) -> Arrays:
            renamed = {("motion_state" if key == "motion_init" else key): value for key, value in given.items()}
            return self.served.run("continue", renamed)

        models: dict[str, Model] = {"model.onnx": self.onnx, "SavedModel": proceed}
        for name, model in models.items():
            yield _close(f"in chunks, at once: {name}", self._in_chunks(model, inputs), self.onnx(inputs))

    def _in_chunks(self, model: Model, inputs: Arrays) -> Arrays:
        videos, state = [], inputs["motion_init"]
        for noise in np.array_split(inputs["motion_noise"], 3, axis=1):
            outputs = model({**inputs, "motion_init": state, "motion_noise": noise})
            videos.append(outputs["video"])
            state = outputs["motion_state"]
        return {"video": np.concatenate(videos, axis=1), "motion_state": state}

    def served_signatures(self) -> Iterator[Check]:
        """Runs every signature in TensorFlow's session, as TensorFlow Serving does."""
        expected_signatures = signatures(self.contract)
        found = {name for name in self.served.signatures if not name.startswith("__saved_model")}
        faults = [f"{name} is missing or not expected" for name in sorted(found ^ set(expected_signatures))]
        yield _faultless("signatures", faults, f"{len(found)}")
        for name, signature in expected_signatures.items():
            inputs = sample_inputs(signature.inputs, self.contract, num_videos=2, seed=3, pictures=self.pictures)
            outputs = self.served.run(name, inputs)
            if name == "encode":
                yield _near("signature encode", outputs["content"], self._encoded(inputs["image"]))
                continue
            expected = self.keras(self._latents_of(inputs))
            if set(outputs) != set(signature.outputs):
                yield Check(f"signature {name}", f"gives {', '.join(outputs)}", ", ".join(signature.outputs), False)
            elif "video" in outputs:
                yield _close(f"signature {name}", outputs, expected)
            else:
                pixels = outputs.get("video_uint8")
                pixels = _decode(outputs["png_bytes"], self.contract.channels) if pixels is None else pixels
                yield _close_pixels(f"signature {name}", pixels, expected["video"])

    def _latents_of(self, inputs: Arrays) -> Arrays:
        """Returns the latents that a signature's inputs stand for."""
        if "seed" in inputs:
            clips = [self.latents(1, self.contract.video_length, int(seed)) for seed in inputs["seed"]]
            return {name: np.concatenate([clip[name] for clip in clips]) for name in clips[0]}
        latents = {("motion_init" if name == "motion_state" else name): value for name, value in inputs.items()}
        if "image" in latents:
            latents["content"] = self._encoded(latents.pop("image"))
        return latents

    def _encoded(self, images: Array) -> Array:
        return np.asarray(self.generator.encoder(images, training=False))

    def command_line(self) -> Iterator[Check]:
        """Runs `saved_model_cli run` on the default signature, in a process of its own."""
        inputs = self.latents(2, self.contract.video_length)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for key, value in inputs.items():
                np.save(folder / f"{key}.npy", value)
            given = ";".join(f"{key}={folder / key}.npy" for key in inputs)
            command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run"]
            command += ["--dir", str(self.saved_model), "--tag_set", "serve", "--signature_def", "serving_default"]
            command += ["--inputs", given, "--outdir", name]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                last = (run.stderr.strip() or run.stdout.strip() or "no message").splitlines()[-1]
                yield Check("saved_model_cli run", last[:200], "exit code 0", False)
                return
            outputs = {key: np.load(folder / f"{key}.npy") for key in self.contract.outputs}
        yield _close("saved_model_cli run", outputs, self.keras(inputs))

    def warmup(self) -> Iterator[Check]:
        """Replays the warm-up records: TensorFlow Serving does not load a model if one of them fails."""
        records = read_warmup(self.saved_model)
        covered = {name for name, _ in records}
        faults = [f"{name} has no record" for name in signatures(self.contract) if name not in covered]
        for name, inputs in records:
            self.served.run(name, inputs)
        yield _faultless("warm-up records", faults, f"{len(records)} replayed")


def _faultless(name: str, faults: list[str], found: str) -> Check:
    return Check(name, "; ".join(faults) or found, "no fault", not faults)


def _close(name: str, found: Arrays, expected: Arrays, limit: float = FLOAT_LIMIT) -> Check:
    """Compares videos, and motion states if there are any, by their largest difference; NaN is never close."""
    if found["video"].shape != expected["video"].shape:
        return Check(name, f"shape {found['video'].shape}", f"{expected['video'].shape}", False)
    video = float(np.max(np.abs(found["video"] - expected["video"])))
    if "motion_state" in expected:
        state = float(np.max(np.abs(found["motion_state"] - expected["motion_state"])))
        if not state <= STATE_LIMIT:
            return Check(name, f"motion_state {state:.1e}", f"{STATE_LIMIT:.0e}", False)
    return Check(name, f"{video:.1e}", f"{limit:.0e}", video <= limit)


def _near(name: str, found: Array, expected: Array) -> Check:
    """Compares encoded pictures, whose values have no bounds, by the largest difference beside the largest value."""
    if found.shape != expected.shape:
        return Check(name, f"shape {found.shape}", f"{expected.shape}", False)
    difference = float(np.max(np.abs(found - expected)) / max(1.0, float(np.max(np.abs(expected)))))
    return Check(name, f"{difference:.1e}", f"{STATE_LIMIT:.0e}", difference <= STATE_LIMIT)


def _close_pixels(name: str, found: Array, video: Array) -> Check:
    difference = int(np.max(np.abs(found.astype(np.int16) - to_uint8(video))))
    return Check(name, f"{difference} of 255", f"{PIXEL_LIMIT}", difference <= PIXEL_LIMIT)


def _decode(pictures: Array, channels: int) -> Array:
    frames = [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures.ravel()]
    return np.stack(frames).reshape(*pictures.shape, *frames[0].shape[:2], channels)
