"""One-line errors about settings."""

from __future__ import annotations

from mipnet.errors import ConfigError


class Problem(ConfigError):
    """A setting whose value cannot work: names the field, the value, why, and the nearest valid choice."""

    def __init__(self, name: str, value: object, why: str, hint: str) -> None:
        super().__init__(f"{name}: {format_value(value)} {why}", hint)

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:
        return ConfigError, (self.what, self.hint, self.exit_code)


def format_value(value: object) -> str:
    """A value as it is typed in YAML."""
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(str, value)) + "]"
    return repr(value) if isinstance(value, str) else str(value)


def require(
    name: str,
    value: float,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raise a ``Problem`` unless the number lies in the range; the nearest valid value is in the message."""
    if at_least is not None and not value >= at_least:
        raise Problem(name, value, f"is below {at_least}", f"nearest is {at_least}")
    if above is not None and not value > above:
        raise Problem(name, value, f"is not above {above}", f"use a number above {above}")
    if at_most is not None and not value <= at_most:
        raise Problem(name, value, f"is above {at_most}", f"nearest is {at_most}")
