"""How a config's sections say what a value must be."""

from __future__ import annotations

from maskdpo_ray.errors import ConfigError, shown


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise ConfigError, one line, unless `condition` holds of the option `name`."""
    if not condition:
        raise ConfigError(f"{name}: expected {expected}, got {shown(got)}")


def require_some(count: int | None, name: str) -> None:
    """Raise ConfigError unless the option `name` is a count above 0, or none."""
    require(count is None or count >= 1, name, "at least 1", count)
