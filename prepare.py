"""Prepares clips for training: python prepare.py SOURCE --out=DIR [--flags].

SOURCE is a folder, an archive or an array file: video files, folders of frames, strips, animations, arrays, flat or in
one folder per class, with or without train/val/test above. `python prepare.py --help` lists the flags,
docs/datasets.md the layouts.
"""

import functools
import os
import sys

from absl import app, flags

from mocogan_tf.data import prepare_options

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # What matters is said in our words.
flags.DEFINE_string("out", None, "Folder to write: new, empty, or written by an earlier run, which then goes on.")
flags.DEFINE_integer("workers", 0, "Processes that read clips. 0: as many as processors. Does not change the result.")
prepare_options.define_flags()


def main(argv: list[str]) -> None:
    out = flags.FLAGS.out
    try:
        if len(argv) != 2 or not out:
            raise ValueError(f"Give one source and --out: python prepare.py SOURCE --out=DIR. Received: {argv[1:]}")
        options = prepare_options.from_flags()
        from mocogan_tf.data import prepare  # Only now: TensorFlow takes seconds, and workers do without.

        make = functools.partial(prepare.make_in_processes, workers=flags.FLAGS.workers or None)
        manifest = prepare.prepare(argv[1], out, options, make)
    except ValueError as error:
        sys.exit(f"prepare.py: {error}")
    except KeyboardInterrupt:
        sys.exit("prepare.py: stopped. Finished shards are kept; the same command goes on.")
    print(prepare.summary(manifest, prepare.read_rejected(out)))
    print(f"Train with: python train.py --dataset=folder --data_dir={out} --image_size={options.image_size}")


if __name__ == "__main__":
    app.run(main)
