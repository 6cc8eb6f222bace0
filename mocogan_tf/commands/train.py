"""Trains MoCoGAN, or a baseline.

Start with: python train.py --dataset=taichi
To animate pictures: python train.py --dataset=taichi --task=image_to_video
With your own clips: python train.py --data_dir=CLIPS, after python prepare.py CLIPS --out=DIR where they are large.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

from absl import flags

from mocogan_tf import cli, recipes
from mocogan_tf.config import SECTIONS, Config
from mocogan_tf.distribution import hardware

FLAGS = flags.FLAGS
START = ("dataset", "data_dir", "model", "task", "profile", "preset", "steps", "run_dir", "resume", "dry_run")
OTHER = {"data": ["allow_changed_data"]}  # Flags that are no fields of `Config`, by their group.


def _define_flags() -> None:
    cli.define_config_flags()
    flags.DEFINE_string(
        "run_dir",
        None,
        "Folder of the run. Default: runs/NAME-PROFILE, or runs/NAME-MODEL-PROFILE, runs/NAME-TASK-PROFILE.",
    )
    flags.DEFINE_enum(
        "resume",
        "auto",
        ["auto", "never", "must"],
        "Whether to go on with the run in --run_dir: if there is one, never, or only if there is one.",
    )
    flags.DEFINE_bool("dry_run", False, "Print configuration, parameter counts and the shapes of a batch, and end.")
    flags.DEFINE_bool("allow_changed_data", False, "Go on with a run although its clips have changed.")


def help_text() -> str:
    """Returns the grouped help, with the defaults of the profile, preset and model that the other flags choose."""
    sees_gpu = hardware.has_nvidia_gpu() and not hardware.hides_gpus()
    profile = FLAGS.profile if FLAGS.profile != "auto" else "paper" if sees_gpu else "cpu"
    why = "" if FLAGS.profile != "auto" else ", which --profile=auto takes on this machine"
    groups: dict[str, list[str]] = {"start here": list(START)}
    title = ""
    for field in dataclasses.fields(Config):
        title = SECTIONS.get(field.name, title)
        groups.setdefault(title, [*OTHER.get(title, [])])
        if field.name not in START:
            groups[title].append(field.name)
    try:
        config = cli.config_from_flags(profile)
    except ValueError:  # The help must not depend on flags that contradict each other.
        config = recipes.configuration(profile, "none", {})
    introduction = f"{__doc__}\nDefaults are those of --profile={profile}{why}, for --model={config.model}."
    return cli.flag_help(introduction, groups, dataclasses.asdict(config))


def _check_flags() -> None:
    """Reports what can be reported without TensorFlow.

    Raises:
        ValueError: No profile that may be taken fits the flags, the clips are not there, or the run cannot be.
    """
    from mocogan_tf.data import datasets  # Here, so that --help need not wait for Pillow.
    from mocogan_tf.distribution import cluster
    from mocogan_tf.training import run_directory

    config = None
    for profile in ("cpu", "paper") if FLAGS.profile == "auto" else (FLAGS.profile,):
        try:
            config = cli.config_from_flags(profile)
        except ValueError as error:
            failure = error
    if config is None:
        raise failure
    if not config.dataset.startswith(datasets.TFDS_PREFIX):
        datasets.get_dataset(config.dataset)
    if config.data_dir and "://" not in config.data_dir and not pathlib.Path(config.data_dir).exists():
        raise ValueError(f"--data_dir={config.data_dir} does not exist.")
    if FLAGS.run_dir and not FLAGS.dry_run and cluster.from_environment().is_chief:
        run_directory.check_place(FLAGS.run_dir, FLAGS.resume)


def _default_run_dir(config: Config, profile: str) -> str:
    own = config.dataset == "folder" and config.data_dir
    name = config.data_dir.rstrip("/").rpartition("/")[2] or "clips" if own else config.dataset
    if own and "://" not in config.data_dir:
        name = pathlib.Path(config.data_dir).resolve().name
    kind = [] if config.model == "mocogan" else [config.model]
    kind += [] if config.task == "generate" else [config.task]
    return os.path.join("runs", "-".join([name, *kind, profile]))


def main(argv: list[str]) -> int:
    """Returns 0 when all steps are done, 1 after an error, 130 after Ctrl-C and 143 after SIGTERM."""
    del argv
    _check_flags()
    with cli.quiet_start():  # TensorFlow takes seconds: whatever is wrong with the flags has been said by now.
        from mocogan_tf.distribution import devices
        from mocogan_tf.training import loop

    profile = devices.choose_profile(FLAGS.profile)
    config = cli.config_from_flags(profile)
    if FLAGS.dry_run:
        loop.dry_run(config)
        return 0
    run_dir = FLAGS.run_dir or _default_run_dir(config, profile)
    return loop.train(config, run_dir, resume=FLAGS.resume, allow_changed_data=FLAGS.allow_changed_data, may_exit=True)


def run() -> None:
    """Entry point of `mocogan-train`."""
    _define_flags()
    cli.run(main, help_text)
