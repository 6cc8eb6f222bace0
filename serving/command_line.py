"""The command lines of this package: absl flags in groups, each command's on a `FlagValues` of its own."""

from __future__ import annotations

import sys
from typing import Any

from absl import flags


class CommandLine:
    """One command's flags. Its `main` may be called any number of times in one process.

    Args:
        program: What the user typed, such as `python -m serving`.
        purpose: What the command does, in a sentence.
        positional: Names of the arguments that are no flags; all are needed.
    """

    def __init__(self, program: str, purpose: str, positional: tuple[str, ...] = ()) -> None:
        self.program, self.purpose, self.positional = program, purpose, positional
        self.values = flags.FlagValues()
        self._groups: list[str] = []

    def group(self, title: str) -> dict[str, Any]:
        """Returns the arguments with which absl's `DEFINE_...` adds a flag to a group of the help."""
        self._groups.append(title)
        return {"flag_values": self.values, "module_name": title}

    def help(self) -> str:
        """Returns the flags by group, with their defaults."""
        usage = " ".join([self.program, *self.positional, "[--flag=value ...]"])
        groups = "\n".join(self.values.module_help(title) for title in self._groups)
        return f"{self.purpose}\n\n{usage}\n{groups}"

    def parse(self, argv: list[str] | None) -> list[str]:
        """Sets `values` and returns the positional arguments.

        Args:
            argv: Without the program's name; this process's arguments if None.

        Raises:
            SystemExit: With code 0 after `--help`, or with code 2 after a line that says what is wrong.
        """
        flags.DEFINE_boolean("help", False, "Shows this text and ends.", short_name="h", **self.group("help"))
        try:
            _, *positional = self.values([self.program, *(sys.argv[1:] if argv is None else argv)])
            if self.values.help:
                print(self.help())
                sys.exit(0)
            if len(positional) > len(self.positional):
                extra = positional[len(self.positional)]
                raise flags.Error(f"unexpected argument {extra!r}; flags are written --name=value")
            if missing := self.positional[len(positional) :]:
                raise flags.Error(f"{missing[0]} is missing")
        except flags.Error as error:
            print(f"{self.program}: {' '.join(str(error).split())} (--help lists the flags)", file=sys.stderr)
            sys.exit(2)
        return positional
