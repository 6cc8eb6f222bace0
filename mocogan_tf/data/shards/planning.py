"""Decides, before anything is decoded, which clips go into which shard: classes, splits, mirrored copies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mocogan_tf.data.shards.options import PrepareOptions, parse_split
from mocogan_tf.data.sources.labels import Found, Rejected, natural_key
from mocogan_tf.data.sources.readers import ClipSource


@dataclasses.dataclass
class Plan:
    """The clips of each shard, the classes in label order, what is left out so far, and the layout of the source."""

    shards: dict[str, list[ClipSource]]
    categories: tuple[str, ...]
    rejected: list[Rejected]
    layout: str


def make_plan(found: Found, options: PrepareOptions) -> Plan:
    """Chooses classes, splits, mirrored copies and shards for the clips that were found.

    Raises:
        ValueError: The options do not fit the clips.
    """
    rejected = list(found.rejected)
    clips, categories = _choose_classes(found, options, rejected)
    clips = _assign_splits(clips, options)
    clips = _add_mirrored(clips, categories, options)
    shards: dict[str, list[ClipSource]] = {}
    for split in sorted({clip.split for clip in clips}):
        members = [clip for clip in clips if clip.split == split]
        # A power of two, so that a few more clips seldom move the others into other shards.
        number = 1 << max(0, (len(members) - 1) // options.clips_per_shard).bit_length()
        for clip in members:
            index = int.from_bytes(hashlib.sha256(clip.name.encode()).digest()[:8]) % number
            name = f"{split or 'clips'}-{index:05d}-of-{number:05d}.tfrecord"
            shards.setdefault(name, []).append(clip)
    return Plan(dict(sorted(shards.items())), categories, rejected, found.layout)


def _choose_classes(
    found: Found, options: PrepareOptions, rejected: list[Rejected]
) -> tuple[list[ClipSource], tuple[str, ...]]:
    renamed = _class_map(options.class_map)
    _check_known("class_map", renamed, found.categories)
    clips = [dataclasses.replace(clip, category=renamed.get(clip.category, clip.category)) for clip in found.clips]
    categories = tuple(dict.fromkeys(renamed.get(name, name) for name in found.categories))
    chosen = _names(options.classes)
    if not chosen:
        return clips, categories
    _check_known("classes", chosen, categories)
    rejected += [
        Rejected(clip.name, f"class {clip.category} is not in --classes")
        for clip in clips
        if clip.category not in chosen
    ]
    return [clip for clip in clips if clip.category in chosen], tuple(chosen)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _class_map(text: str) -> dict[str, str]:
    try:
        if text.endswith(".json"):
            return {str(old): str(new) for old, new in json.loads(pathlib.Path(text).read_text()).items()}
        return {old.strip(): new.strip() for old, new in (pair.split("=") for pair in _names(text))}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"`class_map` must be OLD=NEW,... or a JSON file of an object. Received: {text}") from error


def _check_known(option: str, names: Sequence[str] | dict[str, str], categories: Sequence[str]) -> None:
    unknown = [name for name in names if name not in categories]
    if unknown:
        known = ", ".join(categories) or "none, the clips have no classes"
        raise ValueError(f"`{option}` names classes that are not there: {', '.join(unknown)}. There are: {known}.")


def _assign_splits(clips: list[ClipSource], options: PrepareOptions) -> list[ClipSource]:
    """Divides the clips by whole groups, in an order that the seed and the groups' names decide."""
    fractions = parse_split(options.split)
    if not fractions:
        return clips
    if any(clip.split for clip in clips):
        raise ValueError(f"The clips have splits of their own; leave out --split. Received: --split={options.split}")
    sizes = Counter(clip.group or clip.name for clip in clips)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{options.seed} {group}".encode()).digest())
    bounds = np.cumsum(list(fractions.values())) * len(clips)
    middles = np.cumsum([sizes[group] for group in order]) - np.array([sizes[group] for group in order]) / 2
    splits = np.array(list(fractions))[np.searchsorted(bounds[:-1], middles)]
    missing = set(fractions) - set(splits.tolist())
    if missing:
        raise ValueError(
            f"{len(order)} groups cannot be divided as --split={options.split}: nothing would be left for "
            f"{', '.join(sorted(missing))}."
        )
    split_of = dict(zip(order, splits.tolist(), strict=True))
    return [dataclasses.replace(clip, split=split_of[clip.group or clip.name]) for clip in clips]


def _add_mirrored(clips: list[ClipSource], categories: tuple[str, ...], options: PrepareOptions) -> list[ClipSource]:
    classes = _names(options.mirror)
    if classes and classes != ["all"]:
        _check_known("mirror", classes, categories)
    copies = [
        dataclasses.replace(clip, name=f"{clip.name}@mirrored", group=clip.group or clip.name, mirrored=True)
        for clip in clips
        if classes == ["all"] or clip.category in classes
    ]
    return sorted([*clips, *copies], key=lambda clip: natural_key(clip.name))
