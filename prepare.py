"""Prepares clips for training: python prepare.py SOURCE --out=DIR [--flags].

SOURCE is a folder, an archive or an array file: video files, folders of frames, strips, animations, arrays, flat or in
one folder per class, with or without train/val/test above. `python prepare.py --help` lists the flags,
docs/datasets.md the layouts.
"""

import dataclasses
import os
import sys

from absl import app, flags

from mocogan_tf.data.prepare_options import PrepareOptions

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # What matters is said in our words.
DEFINERS = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
flags.DEFINE_string("out", None, "Folder to write: new, empty, or written by an earlier run, which then goes on.")
flags.DEFINE_integer("workers", 0, "Processes that read clips. 0: as many as processors. Does not change the result.")
for field in dataclasses.fields(PrepareOptions):
    choices = field.metadata["choices"]
    if choices and isinstance(field.default, str):
        flags.DEFINE_enum(field.name, field.default, choices, field.metadata["help"])
    else:
        DEFINERS[type(field.default)](field.name, field.default, field.metadata["help"])


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    try:
        if len(argv) != 2 or not values.out:
            raise ValueError(f"Give one source and --out: python prepare.py SOURCE --out=DIR. Received: {argv[1:]}")
        options = PrepareOptions(
            **{field.name: getattr(values, field.name) for field in dataclasses.fields(PrepareOptions)}
        )
        from mocogan_tf.data import prepare  # After the flags were read: this takes seconds.

        manifest = prepare.prepare(argv[1], values.out, options, workers=values.workers or None)
    except ValueError as error:
        sys.exit(f"prepare.py: {error}")
    except KeyboardInterrupt:
        sys.exit("prepare.py: stopped. Finished shards are kept; the same command goes on.")
    print(prepare.summary(manifest, prepare.read_rejected(values.out)))
    print(f"Train with: python train.py --dataset=folder --data_dir={values.out} --image_size={options.image_size}")


if __name__ == "__main__":
    app.run(main)
