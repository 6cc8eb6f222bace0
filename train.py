"""Trains MoCoGAN, or a baseline: python train.py --dataset=taichi [--model=vgan]"""

import os

from absl import flags

from mocogan_tf import cli

FLAGS = flags.FLAGS


def _define_flags():
    cli.define_config_flags()
    flags.adopt_module_key_flags(cli)  # So that --help shows them.
    flags.DEFINE_string(
        "run_dir", None, "Folder of the run. Default: runs/DATASET-PROFILE, for a baseline runs/DATASET-MODEL-PROFILE."
    )
    flags.DEFINE_enum(
        "resume",
        "auto",
        ["auto", "never", "must"],
        "Whether to go on with the run in --run_dir: where there is one, never, or only if there is one.",
    )
    flags.DEFINE_bool("dry_run", False, "Print configuration, parameter counts and one batch's shapes, and end.")


def main(argv):
    """Returns 0 when all steps are done, 1 after an error, 130 after Ctrl-C and 143 after SIGTERM."""
    del argv
    from mocogan_tf.distribution import devices
    from mocogan_tf.training import loop

    profile = devices.choose_profile(FLAGS.profile)
    config = cli.config_from_flags(FLAGS, profile)
    if FLAGS.dry_run:
        loop.dry_run(config)
        return 0
    model = [] if config.model == "mocogan" else [config.model]
    run_dir = FLAGS.run_dir or os.path.join("runs", "-".join([config.dataset, *model, profile]))
    return loop.train(config, run_dir, resume=FLAGS.resume)


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
