"""absl flags made from a dataclass: every field becomes one flag with the field's type, default, choices and help.

A field says these in its metadata: `help`, and `choices` where there are any. A field whose default depends on another
field has the default None, and names the value that its flag shows as `default`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags


def define(options: Any) -> None:
    """Defines one flag per field of a dataclass."""
    makers: dict[type, Callable[..., Any]] = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
        bool: flags.DEFINE_bool,
    }
    for field in dataclasses.fields(options):
        default = field.metadata["default"] if field.default is None else field.default
        choices, help = field.metadata["choices"], field.metadata["help"]
        if choices and isinstance(default, str):
            flags.DEFINE_enum(field.name, default, list(choices), help)
        else:
            makers[type(default)](field.name, default, help)


def given(options: Any) -> dict[str, Any]:
    """Returns the values of the fields whose flags stand on the command line."""
    found = flags.FLAGS
    return {field.name: found[field.name].value for field in dataclasses.fields(options) if found[field.name].present}
