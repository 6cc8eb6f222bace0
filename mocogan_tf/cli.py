"""What the commands share: flags made from `Config`, their help, and errors that end in one line."""

from __future__ import annotations

import contextlib
import logging as python_logging
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags, logging

from mocogan_tf import dataclass_flags, recipes
from mocogan_tf.config import Config

_HELP = {"--help", "-help", "-h", "-?", "--helpfull", "-helpfull", "--helpshort", "-helpshort"}
_TF_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_INDENT = 28  # Column at which a flag's help begins.


def define_config_flags() -> None:
    """Defines one flag per field of `Config`, `--profile` and `--preset`."""
    flags.DEFINE_enum(
        "profile",
        "auto",
        ["auto", *recipes.PROFILES],
        "Sizes to start from: `paper` for GPUs, `cpu` for two cores and an hour, `smoke` for a minute; `auto` takes "
        "`paper` if a GPU is visible and `cpu` if not. Other flags override it.",
    )
    flags.DEFINE_enum(
        "preset",
        "none",
        list(recipes.PRESETS),
        "A recipe on top of the profile: `authors` is the authors' code under their published command, sizes included; "
        "`plain` is the paper's networks with 24 filters and R1, the recipe that single options are compared on. "
        "Other flags override it.",
    )
    dataclass_flags.define(Config)


def config_from_flags(profile: str) -> Config:
    """Builds the configuration that the flags describe, on the profile of that name.

    Clips without a set's name are of the kind `folder`.

    Raises:
        ValueError: As `recipes.configuration`.
    """
    given = dataclass_flags.given(Config)
    if given.get("data_dir"):
        given.setdefault("dataset", "folder")
    return recipes.configuration(profile, flags.FLAGS.preset, given)


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Keeps the lines to itself that TensorFlow writes while it is imported, unless `--verbosity` asks for them.

    Its level of messages does not govern these. They are shown after all if the import fails.
    """
    if os.environ.get(_TF_LOG_LEVEL) != "3":
        yield
        return
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            said.seek(0)
            os.write(before, said.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


def run(main: Callable[[list[str]], int], help: Callable[[], str] | str = "", positional: int = 0) -> None:
    """Runs a command and exits with its code. An expected error becomes one line and exit code 1.

    Args:
        main: Takes the program's name and the arguments that are no flags; returns the exit code.
        help: What `--help` prints: a text before the list of flags, or a function that returns everything.
        positional: How many arguments that are no flags are allowed.
    """

    def parse(argv: list[str]) -> list[str]:
        if _HELP & set(argv[1:]):
            # The other flags still count: they decide which defaults are shown.
            with contextlib.suppress(flags.Error):
                flags.FLAGS([argument for argument in argv if argument not in _HELP])
            _print_to_pipe(help() if callable(help) else flag_help(help))
            sys.exit(0)
        try:
            return list(flags.FLAGS(argv))
        except flags.Error as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    def guarded(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
            logging.get_absl_handler().setFormatter(_PlainFormatter())
            os.environ.setdefault(_TF_LOG_LEVEL, "3")
        # TensorFlow would take a GPU's whole memory, and leave none to another command beside it.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        if len(argv) > 1 + positional:
            print(
                f"error: unexpected argument {argv[1 + positional]!r}; flags are written --name=value", file=sys.stderr
            )
            return 1
        try:
            return main(argv)
        except KeyboardInterrupt:  # Where a command has no state to save, such as while clips are decoded.
            print("stopped", file=sys.stderr)
            return 130
        except (ValueError, FloatingPointError, OSError, MemoryError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    app.run(guarded, flags_parser=parse)


def _print_to_pipe(text: str) -> None:
    """Prints a text to a reader who may have enough before its end, as `head` has."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at its end.


class _PlainFormatter(python_logging.Formatter):
    """A message as people read it, without date, process and line of code."""

    def format(self, record: python_logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def flag_help(
    introduction: str,
    groups: dict[str, list[str]] | None = None,
    defaults: dict[str, Any] | None = None,
) -> str:
    """Lays out the help of a command: an introduction, then its flags with their defaults.

    Args:
        introduction: Says what the command does.
        groups: Names of flags by the title of their group; all that the command defines in one group if None.
        defaults: Values to show in place of the flags' own defaults, by name.
    """
    found = flags.FLAGS
    if groups is None:
        of_modules = found.flags_by_module_dict()
        own = [flag.name for module, many in of_modules.items() if not module.startswith("absl.") for flag in many]
        groups = {"flags": own}
    lines = [introduction.strip()]
    for title, names in groups.items():
        lines += ["", f"{title}:"]
        for name in names:
            lines += _flag_lines(found[name], {**{name: found[name].default}, **(defaults or {})}[name])
    return "\n".join([*lines, "", "--verbosity=0 also shows what TensorFlow says while it starts."])


def _flag_lines(flag: Any, default: Any) -> list[str]:
    if flag.boolean:
        head = f"  --[no]{flag.name} ({'on' if default else 'off'})"
    else:
        shown = "" if default is None else ",".join(default) if isinstance(default, list) else default
        head = f"  --{flag.name}={shown}"
    width = min(120, max(80, shutil.get_terminal_size((100, 24)).columns)) - _INDENT
    body = textwrap.wrap(" ".join(flag.help.split()), width)
    if len(head) < _INDENT - 1:
        head, body = head.ljust(_INDENT) + body[0], body[1:]
    return [head, *(" " * _INDENT + line for line in body)]
