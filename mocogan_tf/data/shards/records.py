"""Writes and reads shards, which are TFRecord files of clips.

A record is one clip, a `tf.train.Example` with `name`, `category`, `split`, `group` (bytes), `num_frames` (int64),
`fps` (float, 0 if unknown) and `frames` (bytes: one encoded picture per frame, or with `raw` encoding all pixels in one
piece). The manifest says what all clips have in common, such as the order of the classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from mocogan_tf.config import Config
from mocogan_tf.data.cache import DEFAULT_FPS, CachedVideo, VideoSet, cached_videos
from mocogan_tf.data.parallel import Outcome
from mocogan_tf.data.shards.clip import PreparedClip
from mocogan_tf.data.sources.layouts import MANIFEST, choose_split
from mocogan_tf.files import sha256

FORMAT_VERSION = 1

Decoder = Callable[[tf.Tensor, int], tf.Tensor]  # One encoded frame and the number of channels -> [H, W, C] uint8.


def to_example(clip: PreparedClip) -> bytes:
    """Returns the record of one clip."""
    entry = clip.entry

    def texts(*values: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    features = {name: texts(entry[name].encode()) for name in ("name", "category", "split", "group")}
    features["num_frames"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[entry["frames"]]))
    features["fps"] = tf.train.Feature(float_list=tf.train.FloatList(value=[entry["fps"] or 0.0]))
    features["frames"] = texts(*clip.frames)
    # A map's entries have no order of their own, but the same clip must give the same bytes.
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def write_shard(out: pathlib.Path, shard: str, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Writes the clips that could be prepared under a temporary name, and renames the file when it is whole.

    Returns:
        `clips`: their entries in the manifest; `rejected`: pairs of name and reason; `bytes` and `sha256` of the file.
        Without clips there is no file.

    Raises:
        OSError: The disk is full or not writable; nothing is left.
    """
    partial, entries, rejected = out / f"{shard}.partial", [], []
    try:
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for outcome in outcomes:
                if outcome.error:
                    rejected.append((outcome.item.name, outcome.error))
                else:
                    writer.write(to_example(outcome.value))
                    entries.append(outcome.value.entry)
        if not entries:
            (out / shard).unlink(missing_ok=True)
            return {"clips": [], "rejected": rejected, "bytes": 0, "sha256": ""}
        size, digest = partial.stat().st_size, sha256(partial)
        os.replace(partial, out / shard)
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
    finally:
        partial.unlink(missing_ok=True)
    return {"clips": entries, "rejected": rejected, "bytes": size, "sha256": digest}


def read_manifest(folder: str) -> dict[str, Any]:
    """Reads the manifest of a prepared folder, which may be a URI.

    Raises:
        ValueError: There is none, or it has another version.
    """
    path = f"{folder.rstrip('/')}/{MANIFEST}"
    try:
        manifest = json.loads(tf.io.gfile.GFile(path).read())
        version = manifest["format_version"]
    except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
        reason = error.message if isinstance(error, tf.errors.OpError) else str(error)
        raise ValueError(f"Cannot read {path}: {' '.join(reason.split())}") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}; this program reads {FORMAT_VERSION}. Prepare it again.")
    return manifest


def open_prepared(config: Config, split: str, decode_webp: Decoder | None = None, few: int = 0) -> VideoSet:
    """Opens a prepared folder (path or URI) and reads its shards once into the cache; `few` as in `cached_videos`.

    Raises:
        ValueError: The folder is not a prepared one, is damaged, or was prepared for another size or colour.
    """
    manifest = read_manifest(config.data_dir)
    for field in ("image_size", "channels"):
        if manifest[field] != getattr(config, field):
            raise ValueError(
                f"{config.data_dir} was prepared with --{field}={manifest[field]}. Train with that, or prepare again. "
                f"Received: --{field}={getattr(config, field)}"
            )
    chosen = choose_split({clip["split"] for clip in manifest["clips"]}, split, config.data_dir)
    return cached_videos(
        key={"manifest": hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest(), "split": chosen},
        produce=lambda: read_clips(config.data_dir, manifest, chosen, decode_webp),
        total=sum(clip["split"] == chosen for clip in manifest["clips"]),
        name=config.data_dir,
        doing="Reading",
        categories=tuple(manifest["categories"]),
        default_fps=manifest["fps"] or DEFAULT_FPS,
        image_size=config.image_size,
        channels=config.channels,
        cache_dir=config.cache_dir,
        few=few,
    )


def read_clips(
    folder: str, manifest: dict[str, Any], split: str, decode_webp: Decoder | None = None
) -> Iterator[Outcome]:
    """Yields the clips of a prepared folder as `CachedVideo`s, in a fixed order, one shard after the other.

    Each shard is read once and in sequence, so it can be streamed; frames are decoded in the graph.

    Args:
        folder: Path or URI.
        manifest: The folder's manifest.
        split: The split; "" if the folder is not divided.
        decode_webp: Decoder of WebP frames; Pillow if None.

    Raises:
        ValueError: A shard is missing or damaged, or does not have as many clips as the manifest says.
    """
    shards = Counter(clip["shard"] for clip in manifest["clips"] if clip["split"] == split)
    shape = [manifest["image_size"], manifest["image_size"], manifest["channels"]]
    decode = _frame_decoder(manifest["encoding"], shape, decode_webp or _decode_webp_with_pillow)
    for shard, expected in sorted(shards.items()):
        path, count = f"{folder.rstrip('/')}/{shard}", 0
        clips = tf.data.TFRecordDataset(path).map(_parse).map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
        try:
            for clip in clips.as_numpy_iterator():
                count += 1
                name, category = clip["name"].decode(), clip["category"].decode()
                yield Outcome(name, CachedVideo(name, category, clip["frames"], float(clip["fps"])))
        except tf.errors.OpError as error:
            raise ValueError(f"The shard {path} is missing or damaged: {' '.join(error.message.split())}") from error
        if count != expected:  # A file that ends between two records reads like a whole one.
            raise ValueError(f"The shard {path} is missing or damaged: {count} of its {expected} clips can be read")


def _parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
    text = tf.io.FixedLenFeature([], tf.string)
    return tf.io.parse_single_example(
        record,
        {
            "name": text,
            "category": text,
            "fps": tf.io.FixedLenFeature([], tf.float32),
            "num_frames": tf.io.FixedLenFeature([], tf.int64),
            "frames": tf.io.RaggedFeature(tf.string),
        },
    )


def _frame_decoder(encoding: str, shape: list[int], decode_webp: Decoder) -> Callable[..., dict[str, tf.Tensor]]:
    """Returns a function that replaces the encoded `frames` of a parsed clip with uint8 `[F, H, W, C]`."""
    channels = shape[-1]

    def one(frame: tf.Tensor) -> tf.Tensor:
        if encoding == "webp":
            pixels = decode_webp(frame, channels)
        elif encoding == "jpeg":
            # The fast method would make frames depend on the machine.
            pixels = tf.io.decode_jpeg(frame, channels=channels, dct_method="INTEGER_ACCURATE")
        else:
            pixels = tf.io.decode_png(frame, channels=channels)
        return tf.ensure_shape(pixels, shape)

    def decode(clip: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if encoding == "raw":
            frames = tf.reshape(tf.io.decode_raw(clip["frames"][0], tf.uint8), [-1, *shape])
        else:
            frames = tf.map_fn(one, clip["frames"], fn_output_signature=tf.TensorSpec(shape, tf.uint8))
        return {**clip, "frames": frames}

    return decode


def _decode_webp_with_pillow(frame: tf.Tensor, channels: int) -> tf.Tensor:
    import io

    from PIL import Image

    def decode(encoded: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(encoded)).convert("L" if channels == 1 else "RGB")
        return np.asarray(image).reshape(image.height, image.width, channels)

    return tf.numpy_function(decode, [frame], tf.uint8, stateful=False)
