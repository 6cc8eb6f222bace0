"""The same batches from the same files in idiomatic PyTorch: map-style datasets and a DataLoader.

As is usual in such code, each request decodes a clip again, but only as much of it as the cut needs. `DecodedClips`
reads clips that were decoded before, from one memory-mapped file.
"""

import abc
import io
import json
import pathlib
import struct

import av
import numpy as np
import torch
from PIL import Image
from tensorflow.core.example import example_pb2

from mocogan_tf.data.cache import FRAMES_FILE, INDEX_FILE


class Clips(torch.utils.data.Dataset, abc.ABC):
    """Cuts of clips, and single frames of them. The key of an item is (kind, clip), where kind is "clip" or "image".

    Args:
        video_length: Frames of a cut.
        every_nth: Stride of a cut.
        image_size: Height and width of the frames.
    """

    def __init__(self, video_length, every_nth, image_size):
        self.video_length, self.every_nth, self.image_size = video_length, every_nth, image_size

    @abc.abstractmethod
    def __len__(self):
        """Returns the number of clips."""

    @abc.abstractmethod
    def length(self, clip):
        """Returns the number of frames of a clip."""

    @abc.abstractmethod
    def frames(self, clip, indices):
        """Returns uint8 `[len(indices), H, W, C]`; the indices must ascend."""

    def __getitem__(self, item):
        kind, clip = item
        if kind == "image":
            return kind, self.cut(clip, int(torch.randint(self.length(clip), ())), 1)[:, 0]
        source_frames = 1 + (self.video_length - 1) * self.every_nth
        start = int(torch.randint(self.length(clip) - source_frames + 1, ()))
        return kind, self.cut(clip, start, self.video_length)

    def cut(self, clip, start, number):
        """Returns float32 `[C, number, H, W]` in [-1, 1]."""
        frames = self.frames(clip, start + self.every_nth * np.arange(number))
        return torch.from_numpy(frames).permute(3, 0, 1, 2).float().div_(127.5).sub_(1)

    def resized(self, image):
        """Returns the central square of an image at `image_size`, as uint8."""
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if (side, side) != image.size:
            image = image.crop((left, top, left + side, top + side))
        if side != self.image_size:
            image = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return np.asarray(image)


class Strips(Clips):
    """PNG files with a clip's square frames side by side."""

    def __init__(self, folder, *sizes):
        super().__init__(*sizes)
        self.files = sorted(pathlib.Path(folder).rglob("*.png"))
        self.lengths = {}

    def __len__(self):
        return len(self.files)

    def length(self, clip):
        if clip not in self.lengths:
            with Image.open(self.files[clip]) as strip:  # Reads the header only.
                self.lengths[clip] = strip.width // strip.height
        return self.lengths[clip]

    def frames(self, clip, indices):
        strip = np.asarray(Image.open(self.files[clip]).convert("RGB"))
        frames = strip.reshape(len(strip), -1, len(strip), 3).swapaxes(0, 1)
        return np.stack([self.resized(Image.fromarray(frames[i])) for i in indices])


class Films(Clips):
    """Video files, decoded from the beginning to the last frame that is needed."""

    def __init__(self, folder, *sizes):
        super().__init__(*sizes)
        self.files = sorted(pathlib.Path(folder).rglob("*.mp4"))
        self.lengths = {}

    def __len__(self):
        return len(self.files)

    def length(self, clip):
        if clip not in self.lengths:
            with av.open(str(self.files[clip])) as film:
                self.lengths[clip] = film.streams.video[0].frames
        return self.lengths[clip]

    def frames(self, clip, indices):
        wanted, frames = set(indices.tolist()), []
        with av.open(str(self.files[clip])) as film:
            film.streams.video[0].thread_type = "NONE"  # The workers run in parallel already.
            for index, frame in enumerate(film.decode(video=0)):
                if index in wanted:
                    frames.append(self.resized(frame.to_image()))
                if index == indices[-1]:
                    break
        return np.stack(frames)


class Shards(Clips):
    """TFRecord shards of encoded or raw frames, read through an index of where the records begin."""

    def __init__(self, folder, *sizes):
        super().__init__(*sizes)
        folder = pathlib.Path(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        self.is_raw, self.records = manifest["encoding"] == "raw", []
        for shard in manifest["shards"]:
            path, at = folder / shard["file"], 0
            with open(path, "rb") as file:
                while header := file.read(12):  # Length and its checksum; 4 bytes of checksum follow the record.
                    (size,) = struct.unpack("<Q", header[:8])
                    self.records.append((path, at + 12, size))
                    at = file.seek(size + 4, 1)
        self.features, self.lengths = {}, {}

    def __len__(self):
        return len(self.records)

    def _read(self, clip):
        path, start, size = self.records[clip]
        with open(path, "rb") as file:
            file.seek(start)
            return example_pb2.Example.FromString(file.read(size)).features.feature

    def length(self, clip):
        if clip not in self.lengths:
            self.lengths[clip] = self._read(clip)["num_frames"].int64_list.value[0]
        return self.lengths[clip]

    def frames(self, clip, indices):
        encoded = self._read(clip)["frames"].bytes_list.value
        if self.is_raw:
            pixels = np.frombuffer(encoded[0], np.uint8).reshape(-1, self.image_size, self.image_size, 3)
            return pixels[indices]
        return np.stack([np.asarray(Image.open(io.BytesIO(encoded[i])).convert("RGB")) for i in indices])


class DecodedClips(Clips):
    """Clips that our reader has decoded, read from its memory-mapped file."""

    def __init__(self, folder, *sizes):
        super().__init__(*sizes)
        index = json.loads((pathlib.Path(folder) / INDEX_FILE).read_text())
        self.lengths = index["lengths"]
        self.offsets = np.cumsum(self.lengths) - self.lengths
        shape = (sum(self.lengths), *index["frame_shape"])
        self.pixels = np.memmap(pathlib.Path(folder) / FRAMES_FILE, np.uint8, mode="r", shape=shape)

    def __len__(self):
        return len(self.lengths)

    def length(self, clip):
        return self.lengths[clip]

    def frames(self, clip, indices):
        return self.pixels[self.offsets[clip] + indices]


class Steps(torch.utils.data.Sampler):
    """The items of each step of an epoch: `video_batch` clips and `image_batch` images, in random orders."""

    def __init__(self, dataset, video_batch, image_batch):
        self.dataset, self.video_batch, self.image_batch = dataset, video_batch, image_batch

    def __len__(self):
        return len(self.dataset) // self.video_batch

    def __iter__(self):
        clips = torch.randperm(len(self.dataset)).tolist()
        images = [i for _ in range(self.image_batch) for i in torch.randperm(len(self.dataset)).tolist()]
        for step in range(len(self)):
            at, image_at = step * self.video_batch, step * self.image_batch
            yield [("clip", i) for i in clips[at : at + self.video_batch]] + [
                ("image", i) for i in images[image_at : image_at + self.image_batch]
            ]


def collate(items):
    """Returns clips `[N, C, T, H, W]` and images `[N, C, H, W]`."""
    return tuple(torch.stack([value for kind, value in items if kind == wanted]) for wanted in ("clip", "image"))


def loader(dataset, video_batch, image_batch):
    """Returns a DataLoader of two workers that live as long as it does."""
    steps = Steps(dataset, video_batch, image_batch)
    return torch.utils.data.DataLoader(
        dataset, batch_sampler=steps, num_workers=2, collate_fn=collate, persistent_workers=True, prefetch_factor=4
    )
