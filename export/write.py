"""Writes a bundle under a temporary name, proves it there, and only then gives it its name."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from export.contract import FILES, Contract, read_contract
from export.model_card import SAMPLE, model_card
from export.onnx_model import to_onnx
from export.packs import write_packs
from export.proof import CHECKSUMS, Check, bundle_files, table, verify_content, verify_files
from export.saved_model import Pictures, write_saved_model, write_warmup
from mocogan_tf import sampling, video
from mocogan_tf.files import sha256
from mocogan_tf.latents import sample_latents
from mocogan_tf.training.run_directory import NUM_PICTURES

GOLDEN_SEED = 2018
GOLDEN_VIDEOS = 2  # The second shows that the clip's index enters the draw.
_SAMPLE_SIZE = 64  # Pixels. The card's picture shows smaller frames enlarged to at most this, by a whole factor.


def next_version(out: pathlib.Path) -> int:
    """Returns the version of the next bundle written to `out`: one more than that of the bundle there, or 1.

    Raises:
        ValueError: `out` is something other than a bundle or an empty folder.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return 1
    try:
        return read_contract(out)[0].version + 1
    except ValueError as error:
        raise ValueError(
            f"{out} exists and is no bundle, so it is left alone. Choose another --out. ({error})"
        ) from error


def write_bundle(
    generator: Any, contract: Contract, provenance: dict[str, Any], out: pathlib.Path, *, uint8: bool = False
) -> list[Check]:
    """Exports a generator and proves what was written.

    Args:
        generator: Keras model with the weights to export, in float32. Where content comes from pictures, it has some.
        contract: The bundle's contract, with the version of `next_version`.
        provenance: Where the weights are from, for bundle.json.
        out: The bundle's folder. A bundle in this folder is replaced once the new one is proven.
        uint8: Also write model.uint8.onnx.

    Returns:
        The findings, all passed.

    Raises:
        ValueError: A weight is not finite, something cannot be converted, or a check failed. `out` is as before.
        OSError: The bundle cannot be written. `out` is as before.
    """
    for weight in generator.weights:
        if not np.isfinite(weight.numpy()).all():
            raise ValueError(f"Weight {weight.path} has values that are not finite. Export an earlier checkpoint.")
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        staging.chmod(0o777 & ~_umask())  # mkdtemp's own mode would keep out the user that a server runs as.
        checks = _write_and_verify(generator, contract, provenance, staging, uint8)
        failed = [check for check in checks if not check.passed]
        if failed:
            raise ValueError(
                f"The export was discarded: {len(failed)} of {len(checks)} checks failed, first "
                f"{failed[0].name}: {failed[0].found} (allowed: {failed[0].allowed})."
            )
        _replace(out, staging)
    except tf.errors.OpError as error:  # TensorFlow's writers do not raise OSError.
        raise OSError(f"Cannot write {out}: {error.message}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return checks


def _write_and_verify(
    generator: Any, contract: Contract, provenance: dict[str, Any], folder: pathlib.Path, uint8: bool
) -> list[Check]:
    models = to_onnx(generator, contract, uint8=uint8)
    for role, model in models.items():
        onnx.save(model, str(folder / FILES[role]))
    pictures = None
    if contract.content_from == "pictures":
        pictures = _write_contents(generator, folder / FILES["contents"])
    saved_model = folder / FILES["saved_model"] / str(contract.version)
    write_saved_model(generator, contract, saved_model, pictures)
    write_warmup(contract, saved_model, pictures)
    _write_golden(generator, contract, folder / FILES["golden"], pictures)
    _write_sample(generator, contract, folder / SAMPLE)
    write_packs(contract, folder)
    files = {role: name for role, name in FILES.items() if (folder / name).exists()}
    described = contract.to_dict(files, provenance)
    (folder / "bundle.json").write_text(json.dumps(described, indent=2) + "\n")
    checks = verify_content(folder, generator)
    (folder / "MODEL_CARD.md").write_text(model_card(contract, provenance, table(checks)))
    lines = [f"{sha256(folder / name)}  {name}\n" for name in bundle_files(folder)]
    (folder / CHECKSUMS).write_text("".join(lines))
    return [*verify_files(folder), *checks]


def _write_contents(generator: Any, path: pathlib.Path) -> Pictures:
    """Records pictures and what the encoder makes of them, from which a seed chooses."""
    if generator.pictures is None:
        raise ValueError("The generator has no pictures for seeds to choose from: set `generator.pictures`.")
    pictures = generator.pictures[:NUM_PICTURES]
    contents = generator.encode(pictures)
    np.savez_compressed(path, pictures=pictures, contents=contents)
    return Pictures(pictures, contents)


def _write_golden(generator: Any, contract: Contract, path: pathlib.Path, pictures: Pictures | None) -> None:
    """Records the clips that Keras makes of one seed, which every runtime must reproduce."""
    latents = sample_latents(
        contract.latents,
        GOLDEN_VIDEOS,
        contract.video_length,
        seed=GOLDEN_SEED,
        contents=pictures.contents if pictures else None,
    )
    made = generator(latents, training=False)
    outputs = {name: np.asarray(made[name]) for name in contract.outputs}
    arrays: dict[str, Any] = {"seed": np.int64(GOLDEN_SEED), **latents, **outputs}
    np.savez_compressed(path, **arrays)


def _write_sample(generator: Any, contract: Contract, path: pathlib.Path) -> None:
    """Writes the card's picture: the clips of the run's own sample grids."""
    clips, columns = sampling.overview(generator, contract.video_length, seed=0)
    clips = video.scale_up(clips, max(1, _SAMPLE_SIZE // contract.image_size))
    video.write_video(path, video.grid(clips, columns), contract.fps / generator.frame_stride)


def _replace(out: pathlib.Path, staging: pathlib.Path) -> None:
    """Gives the proven bundle its name, and only then removes the bundle that had it."""
    if not out.exists():
        staging.rename(out)
        return
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    try:
        out.rename(aside / "bundle")
        try:
            staging.rename(out)
        except OSError:
            (aside / "bundle").rename(out)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
