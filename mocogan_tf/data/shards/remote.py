"""Opens prepared folders at a URI: tensorflow-io reads `s3://`, `http(s)://`, `az://` and `hdfs://`, TensorFlow `gs://`.

The shards stream once into the same cache as local clips. A process of its own does this, because tensorflow-io may
abort when the interpreter exits after it has read from S3: that process ends without such an exit, and the process that
trains never loads tensorflow-io.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import mocogan_tf
from mocogan_tf.config import Config
from mocogan_tf.data.cache import VideoSet, load_videos

WITH_TENSORFLOW_IO = ("s3", "http", "https", "az", "azfs", "hdfs", "viewfs", "har")


def open_remote(config: Config, split: str, few: int = 0) -> VideoSet:
    """Opens the prepared folder at the URI `config.data_dir`; `few` as in `cached_videos`.

    Raises:
        ValueError: tensorflow-io is needed and missing, or as for `records.open_prepared`.
    """
    scheme = config.data_dir.split("://")[0].lower()
    if scheme in WITH_TENSORFLOW_IO and importlib.util.find_spec("tensorflow_io") is None:
        raise ValueError(
            f"Reading {scheme}:// needs tensorflow-io: pip install 'mocogan-tf[io]' (which brings TensorFlow 2.16), or "
            f"copy the prepared folder here. Received: --data_dir={config.data_dir}"
        )
    request = json.dumps({"config": dataclasses.asdict(config), "split": split, "few": few})
    root = str(pathlib.Path(mocogan_tf.__file__).parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "CUDA_VISIBLE_DEVICES": "",  # The GPU belongs to the process that trains.
    }
    command = [sys.executable, "-m", "mocogan_tf.data.shards.remote"]
    child = subprocess.run(command, input=request, stdout=subprocess.PIPE, text=True, env=environment)
    answer = json.loads(child.stdout.splitlines()[-1]) if child.stdout.strip() else {}
    if "error" in answer:
        raise ValueError(answer["error"])
    if "done" not in answer:
        raise RuntimeError(f"The process that reads {config.data_dir} ended with code {child.returncode}.")
    return load_videos(pathlib.Path(answer["done"]))[0]


def _main() -> None:
    """Fills the cache as a JSON request on standard input says, and answers with one line of JSON."""
    from mocogan_tf.data.shards import records

    request = json.loads(sys.stdin.read())
    config = Config(**request["config"])
    decode_webp = None
    try:
        if config.data_dir.split("://")[0].lower() in WITH_TENSORFLOW_IO:
            tensorflow_io = importlib.import_module("tensorflow_io")  # Registers the file systems.

            def decode_webp(frame: Any, channels: int) -> Any:
                return tensorflow_io.image.decode_webp(frame)[..., :channels]  # It returns RGBA.

        videos = records.open_prepared(config, request["split"], decode_webp, request["few"])
        answer = {"done": str(videos.folder)}
    except ValueError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
    sys.stderr.flush()
    os._exit(0)  # Skips the interpreter's exit, at which tensorflow-io may abort.


if __name__ == "__main__":
    _main()
