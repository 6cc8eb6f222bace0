"""Sets of TensorFlow Datasets. Runs where that library is installed, on a set that the test defines."""

import numpy as np
import pytest

from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.pictures import pictures_to_animate
from tests.support.made_clips import frames_of


def test_without_the_library_the_error_names_the_extra(make_config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'mocogan-tf\[tfds\]'"):
        open_videos(make_config(dataset="tfds:ucf101"))


@pytest.fixture(scope="module")  # The library lets a set be defined once.
def library_folder(tmp_path_factory):
    """A folder of prepared sets with one that has videos and one that has none."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("tfds") / "library"
    features = {
        "made_videos": {
            "video": tfds.features.Video(shape=(None, 48, 32, 3)),
            "label": tfds.features.ClassLabel(names=["run", "walk"]),
        },
        "made_numbers": {"number": tfds.features.Scalar(np.int64)},
    }
    for name, columns in features.items():
        examples = {
            split: [
                (
                    i,
                    {
                        "video": np.pad(frames_of(8, first=20 * i + first), [(0, 0), (8, 8), (0, 0), (0, 0)]),
                        "label": i % 2,
                    },
                )
                if name == "made_videos"
                else (i, {"number": i})
                for i in range(4)
            ]
            for split, first in {"train": 0, "test": 100}.items()
        }

        def generate(self, split_examples):
            yield from split_examples

        builder_class = type(
            name.title().replace("_", ""),
            (tfds.core.GeneratorBasedBuilder,),
            {
                "name": name,
                "VERSION": tfds.core.Version("1.0.0"),
                "_info": lambda self, columns=columns: tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(columns)
                ),
                "_split_generators": lambda self, _, examples=examples: {
                    split: self._generate_examples(rows) for split, rows in examples.items()
                },
                "_generate_examples": generate,
                "__module__": __name__,
            },
        )
        builder_class(data_dir=str(folder)).download_and_prepare()
    return folder


@pytest.mark.parametrize("split, first", [("train", 0), ("test", 100)])
def test_a_set_with_a_video_and_a_class_is_read(library_folder, make_config, split, first):
    config = make_config(dataset="tfds:made_videos", data_dir=str(library_folder))
    videos = open_videos(config, split)
    assert videos.categories == ("run", "walk") and len(videos) == 4
    seen = sorted((int(videos[i][0, 0, 0, 0]), int(videos.labels[i])) for i in range(4))
    assert seen == [(first + 20 * i, i % 2) for i in range(4)]
    assert videos[0].shape == (8, 32, 32, 3)


def test_pictures_to_animate_are_of_the_sets_test_split(library_folder, make_config):
    config = make_config(dataset="tfds:made_videos", data_dir=str(library_folder))
    found = pictures_to_animate(config, open_videos(config), 16)
    assert found.held_out
    assert sorted(found.pixels[:, 0, 0, 0].tolist()) == [100, 120, 140, 160]


def test_sets_without_a_video_or_unknown_are_one_line(library_folder, make_config):
    for name in ("made_numbers", "nothing_of_this_name"):
        with pytest.raises(ValueError, match=name) as error:
            open_videos(make_config(dataset=f"tfds:{name}", data_dir=str(library_folder)))
        assert name == "made_numbers" or "\n" not in str(error.value)
