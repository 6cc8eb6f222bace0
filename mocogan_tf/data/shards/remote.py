"""Prepared folders at a URI: `s3://`, `http(s)://`, `az://`, `hdfs://` by tensorflow-io, `gs://` by TensorFlow itself.

The shards stream, once, into the same cache as local clips, in a process of their own. That process loads
tensorflow-io, which may abort at the interpreter's exit after it has read from S3, and leaves without that exit; the
process that trains never loads it.
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

import mocogan_tf
from mocogan_tf.config import Config
from mocogan_tf.data.videos import VideoSet, load_videos

WITH_TENSORFLOW_IO = ("s3", "http", "https", "az", "azfs", "hdfs", "viewfs", "har")


def open_remote(config: Config, split: str, few: int = 0) -> VideoSet:
    """Opens the prepared folder at the URI `config.data_dir`; `few` as in `cached_videos`.

    Raises:
        ValueError: tensorflow-io is needed and missing, or as `records.open_prepared`.
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
        "CUDA_VISIBLE_DEVICES": "",  # It only reads; the GPU belongs to the process that trains.
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
    """Fills the cache as a request on standard input says, and answers with one line of JSON."""
    from mocogan_tf.data.shards import records

    request = json.loads(sys.stdin.read())
    config = Config(**request["config"])
    decode_webp = None
    try:
        if config.data_dir.split("://")[0].lower() in WITH_TENSORFLOW_IO:
            tensorflow_io = importlib.import_module("tensorflow_io")  # Registers the file systems.

            def decode_webp(frame, channels):
                return tensorflow_io.image.decode_webp(frame)[..., :channels]  # It returns RGBA.

        videos = records.open_prepared(config, request["split"], decode_webp, request["few"])
        answer = {"done": str(videos.folder)}
    except ValueError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
    sys.stderr.flush()
    os._exit(0)  # Without the exit at which tensorflow-io may abort.


if __name__ == "__main__":
    _main()
