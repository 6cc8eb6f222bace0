"""Prepares clips for training: python prepare.py SOURCE --out=DIR [--flags].

SOURCE is a folder, an archive or an array file: video files, folders of frames, strips, animations, arrays, flat or in
one folder per class, with or without train/val/test above. `python prepare.py --help` lists the flags,
docs/datasets.md the layouts.
"""

import functools
import sys

from absl import flags

from mocogan_tf import cli
from mocogan_tf.data.shards import options as prepare_options

FLAGS = flags.FLAGS


def _define_flags():
    flags.DEFINE_string("out", None, "Folder to write: new, empty, or written by an earlier run, which then goes on.")
    flags.DEFINE_integer(
        "workers", 0, "Processes that read clips. 0: as many as processors. Does not change the result.", lower_bound=0
    )
    prepare_options.define_flags()
    flags.adopt_module_key_flags(prepare_options)  # So that --help shows them.


def main(argv):
    """Returns 0 when everything is prepared, 1 after an error, 130 after Ctrl-C."""
    if len(argv) != 2 or not FLAGS.out:
        raise ValueError(f"Give one source and --out: python prepare.py SOURCE --out=DIR. Received: {argv[1:]}")
    options = prepare_options.from_flags()
    from mocogan_tf.data.shards import prepare  # Only now: TensorFlow takes seconds, and workers do without.

    try:
        make = functools.partial(prepare.make_in_processes, workers=FLAGS.workers or None)
        manifest = prepare.prepare(argv[1], FLAGS.out, options, make)
    except KeyboardInterrupt:
        print("stopped: finished shards are kept; the same command goes on", file=sys.stderr)
        return 130
    print(prepare.summary(manifest, prepare.read_rejected(FLAGS.out)))
    print(f"Train with: {prepare.training_command(FLAGS.out, manifest)}")
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main, positional=1)
