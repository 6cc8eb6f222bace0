"""The generator's inputs: their names, shapes and distributions, and the one rule by which a seed draws them.

A seed means the same clip in every language and on every device, so the draw is a contract and not left to a library's
generator. It is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in counter mode:

* key: the low and the high 32 bits of the seed;
* counter: block index (low, high 32 bits), stream, index of the clip within the request;
* a block's four words give two pairs `(a, b)`; in float64 `u = (a + 0.5) / 2^32`, `v = (b + 0.5) / 2^32`, and the
  normals are `sqrt(-2 ln u) cos(2 pi v)` and `sqrt(-2 ln u) sin(2 pi v)`, in this order, cast to float32 (Box and
  Muller 1958). Arrays fill in row-major order;
* category: the first word of its stream modulo `dim_category`;
* content that is an encoded picture: one of N contents, number (the first word of the content's stream) modulo N;
* a uniform code takes one number per word, in order: `2 (w + 0.5) / 2^32 - 1` in float64, cast to float32.

So clip i of a seed does not depend on how many clips are asked for, content and motion can have seeds of their own, and
a longer clip begins with the shorter one. Training does not use this module's draws (it uses TensorFlow's stateless
ops); everything that leaves the library does.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The counter's third word. Part of the contract.
STREAM_CONTENT, STREAM_MOTION_INIT, STREAM_MOTION_NOISE, STREAM_CATEGORY, STREAM_CODE = range(5)

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


@dataclasses.dataclass(frozen=True)
class LatentSpec:
    """Sizes of the inputs of MoCoGAN's generator.

    Args:
        dim_content: Size of the content code, fixed over a clip.
        dim_motion: Size of the motion code and of the noise that drives it.
        dim_category: Number of categories; 0 if there are none, and then there is no `category` input.
        content_from: "noise", or "pictures": then `content` is an encoded picture, and a seed chooses one of several.
    """

    dim_content: int = 50
    dim_motion: int = 10
    dim_category: int = 0
    content_from: str = "noise"

    def shapes(self, num_videos: int | None, num_frames: int | None) -> dict[str, tuple[int | None, ...]]:
        """Returns the shape of every input by name, `None` where the size is free."""
        shapes: dict[str, tuple[int | None, ...]] = {
            "content": (num_videos, self.dim_content),
            "motion_init": (num_videos, self.dim_motion),
            "motion_noise": (num_videos, num_frames, self.dim_motion),
        }
        if self.dim_category:
            shapes["category"] = (num_videos, self.dim_category)
        return shapes

    @property
    def distributions(self) -> dict[str, str]:
        """What every input is drawn from, by name: "standard_normal", "one_hot" or, of pictures, "encoded"."""
        other = {"category": "one_hot", **({"content": "encoded"} if self.content_from == "pictures" else {})}
        return {name: other.get(name, "standard_normal") for name in self.shapes(None, None)}


@dataclasses.dataclass(frozen=True)
class CodeSpec:
    """Sizes of the inputs of a generator that makes clips of one length out of one code, `z`: VGAN and TGAN.

    Args:
        num_frames: Frames of its clips.
        dim_z: Size of the code.
        distribution: "standard_normal", or "uniform" on (-1, 1).
    """

    num_frames: int
    dim_z: int = 100
    distribution: str = "standard_normal"
    dim_category: int = dataclasses.field(default=0, init=False)

    def shapes(self, num_videos: int | None, num_frames: int | None) -> dict[str, tuple[int | None, ...]]:
        """Returns the shape of every input by name, `None` where the size is free.

        Raises:
            ValueError: The generator does not make clips of `num_frames`.
        """
        if num_frames not in (None, self.num_frames):
            raise ValueError(
                f"This generator makes clips of {self.num_frames} frames only. Received: num_frames={num_frames}"
            )
        return {"z": (num_videos, self.dim_z)}

    @property
    def distributions(self) -> dict[str, str]:
        """What every input is drawn from, by name."""
        return {"z": self.distribution}


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32 with ten rounds.

    Args:
        counter: uint32 `[..., 4]`.
        key: Two 32-bit words.

    Returns:
        uint32 `[..., 4]`, four random words per counter.
    """
    x0, x1, x2, x3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        product0, product1 = MULTIPLIERS[0] * x0, MULTIPLIERS[1] * x2
        x0, x1, x2, x3 = (
            (product1 >> _32) ^ x1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _32) ^ x3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([x0, x1, x2, x3], axis=-1).astype(np.uint32)


def _words(seed: int, stream: int, clips: NDArray[np.uint32], first_block: int, num_blocks: int) -> NDArray[np.uint32]:
    """Random words `[len(clips), num_blocks, 4]` of one stream."""
    blocks = np.arange(first_block, first_block + num_blocks, dtype=np.uint64)
    counter = np.empty((len(clips), num_blocks, 4), np.uint32)
    counter[..., 0] = (blocks & _LOW).astype(np.uint32)
    counter[..., 1] = (blocks >> _32).astype(np.uint32)
    counter[..., 2] = stream
    counter[..., 3] = clips[:, None]
    return philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))


def _normals(
    seed: int, stream: int, clips: NDArray[np.uint32], shape: tuple[int, ...], skip: int = 0
) -> NDArray[np.float32]:
    """Standard normals `[len(clips), *shape]` of one stream, leaving out each clip's first `skip` numbers."""
    size = int(np.prod(shape))
    first, last = skip // 4, -(-(skip + size) // 4)
    pairs = _words(seed, stream, clips, first, last - first).reshape(len(clips), -1, 2)
    u, v = np.moveaxis((pairs.astype(np.float64) + 0.5) / 2.0**32, -1, 0)
    radius, angle = np.sqrt(-2.0 * np.log(u)), 2.0 * np.pi * v
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(len(clips), -1)
    skip -= 4 * first
    return normals[:, skip : skip + size].reshape(len(clips), *shape).astype(np.float32)


def _uniforms(seed: int, stream: int, clips: NDArray[np.uint32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Numbers uniform on (-1, 1), `[len(clips), *shape]`, of one stream."""
    size = int(np.prod(shape))
    words = _words(seed, stream, clips, 0, -(-size // 4)).reshape(len(clips), -1)[:, :size].astype(np.float64)
    return (2.0 * (words + 0.5) / 2.0**32 - 1.0).reshape(len(clips), *shape).astype(np.float32)


def check_seed(seed: int, name: str = "seed") -> int:
    """Returns the seed as an int.

    Raises:
        ValueError: It is not an integer in [0, 2^64).
    """
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if not 0 <= value < 2**64:
        raise ValueError(f"`{name}` must be an integer in [0, 2^64). Received: {name}={seed!r}")
    return value


def sample_latents(
    spec: LatentSpec | CodeSpec,
    num_videos: int,
    num_frames: int,
    *,
    seed: int,
    content_seed: int | None = None,
    motion_seed: int | None = None,
    category: int | None = None,
    first_clip: int = 0,
    first_frame: int = 0,
    contents: NDArray[np.float32] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Draws generator inputs from a seed, by the rule at the top of this module.

    Args:
        spec: Sizes of the inputs: a generator's `latents`.
        num_videos: Number of clips, B.
        num_frames: Frames per clip, T.
        seed: Integer in [0, 2^64).
        content_seed: Seed of `content`; `seed` if None.
        motion_seed: Seed of `motion_init` and `motion_noise`; `seed` if None.
        category: Category of all clips; drawn from `seed` if None.
        first_clip: Index of the first clip: clips 3 and 4 of a seed are `num_videos=2, first_clip=3`.
        first_frame: Frame at which `motion_noise` begins, to continue a clip.
        contents: float32 `[N, dim_content]`, encoded pictures that `content` is chosen from, where `spec.content_from`
            is "pictures".

    Returns:
        dict of float32 arrays: `content` [B, dim_content], `motion_init` [B, dim_motion], `motion_noise`
        [B, T, dim_motion], all N(0, 1) unless `contents` are given, and one-hot `category` [B, dim_category] unless
        `dim_category` is 0; of a `CodeSpec` `z` [B, dim_z] alone, from its distribution.

    Raises:
        ValueError: A seed or the category is out of range, the generator has no such input or clip length, or
            `contents` are missing, too much or of another size.
    """
    seed = check_seed(seed)
    _check_contents(spec, contents)
    if isinstance(spec, CodeSpec):
        if (content_seed, motion_seed, category, first_frame) != (None, None, None, 0):
            raise ValueError(
                "This generator has one code for the whole clip: no content, motion or category of their own, and no "
                "later frames. Give `seed` alone."
            )
        spec.shapes(num_videos, num_frames)  # Refuses another length.
        draw = _uniforms if spec.distribution == "uniform" else _normals
        clips = np.arange(first_clip, first_clip + num_videos, dtype=np.uint32)
        return {"z": draw(seed, STREAM_CODE, clips, (spec.dim_z,))}
    content_seed = seed if content_seed is None else check_seed(content_seed, "content_seed")
    motion_seed = seed if motion_seed is None else check_seed(motion_seed, "motion_seed")
    clips = np.arange(first_clip, first_clip + num_videos, dtype=np.uint32)
    latents = {
        "content": _normals(content_seed, STREAM_CONTENT, clips, (spec.dim_content,))
        if contents is None
        else contents[choose_contents(content_seed, num_videos, len(contents), first_clip)],
        "motion_init": _normals(motion_seed, STREAM_MOTION_INIT, clips, (spec.dim_motion,)),
        "motion_noise": _normals(
            motion_seed,
            STREAM_MOTION_NOISE,
            clips,
            (num_frames, spec.dim_motion),
            skip=first_frame * spec.dim_motion,
        ),
    }
    if category is not None and not 0 <= category < spec.dim_category:
        raise ValueError(f"`category` must be in [0, {spec.dim_category}). Received: category={category!r}")
    if spec.dim_category:
        if category is None:
            chosen = _words(seed, STREAM_CATEGORY, clips, 0, 1)[:, 0, 0] % np.uint32(spec.dim_category)
        else:
            chosen = np.full(num_videos, category)
        latents["category"] = np.eye(spec.dim_category, dtype=np.float32)[chosen]
    return latents


def choose_contents(content_seed: int, num_videos: int, num_contents: int, first_clip: int = 0) -> NDArray[np.int64]:
    """Returns which of N contents the clips `first_clip`, ... of a seed have: int64 `[num_videos]`."""
    clips = np.arange(first_clip, first_clip + num_videos, dtype=np.uint32)
    words = _words(content_seed, STREAM_CONTENT, clips, 0, 1)[:, 0, 0]
    return (words % np.uint32(num_contents)).astype(np.int64)


def _check_contents(spec: LatentSpec | CodeSpec, contents: NDArray[np.float32] | None) -> None:
    """Raises ValueError if `contents` do not go with the inputs."""
    if not isinstance(spec, LatentSpec) or spec.content_from != "pictures":
        if contents is not None:
            raise ValueError("This generator draws its content: leave `contents` out.")
        return
    if contents is None:
        raise ValueError("This generator's content is an encoded picture: give `contents`, [N, dim_content].")
    if contents.ndim != 2 or not len(contents) or contents.shape[1] != spec.dim_content or contents.dtype != np.float32:
        raise ValueError(
            f"`contents` must be float32 [N, {spec.dim_content}]. Received: {contents.dtype} {list(contents.shape)}"
        )


def slerp(start: NDArray[Any], end: NDArray[Any], share: float | NDArray[Any]) -> NDArray[np.float32]:
    """Interpolates on the great circle between two vectors (Shoemake 1985).

    Between two normal vectors the norm stays that of a normal vector. A straight line would shorten it, and the
    generator would be asked for less likely, greyer clips.

    Args:
        start: `[..., D]`; the computation has its precision.
        end: `[..., D]`.
        share: From 0 (`start`) to 1 (`end`); an array broadcasts against `[..., 1]`.

    Returns:
        float32 `[..., D]`; on the straight line where both vectors lie on one line through zero.
    """
    norms = np.linalg.norm(start, axis=-1, keepdims=True) * np.linalg.norm(end, axis=-1, keepdims=True)
    cosine = np.sum(start * end, axis=-1, keepdims=True) / np.maximum(norms, 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    sine = np.sin(angle)
    straight = sine < 1e-4
    sine = np.where(straight, 1.0, sine)
    first = np.where(straight, 1.0 - share, np.sin((1.0 - share) * angle) / sine)
    second = np.where(straight, share, np.sin(share * angle) / sine)
    mixed: NDArray[np.float32] = (first * start + second * end).astype(np.float32)
    return mixed
