"""Which GPU types an endpoint may ask for: a built-in list that the operator can extend by a TOML file.

```toml
[[gpu]]
name = "NVIDIA_H100_80G"      # what the API answers; matched in any case
aliases = ["NVIDIA_H100"]     # optional: other names for it
```
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, ValidationError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class InvalidCatalogue(ValueError):
    """The text is not a catalogue; the message says where and why."""


class _Gpu(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    aliases: list[str] = []


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    gpu: list[_Gpu] = []


@dataclass(frozen=True)
class GpuCatalogue:
    """The known GPU types."""

    names: tuple[str, ...] = ()
    _by_lower_name: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> GpuCatalogue:
        """Read a TOML file's text. Raises InvalidCatalogue."""
        try:
            content = _File.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise InvalidCatalogue(f"is not TOML: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidCatalogue(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return cls._of((gpu.name, gpu.aliases) for gpu in content.gpu)

    def extended_by(self, other: GpuCatalogue) -> GpuCatalogue:
        """Both lists; a name that is in both means what `other` says."""
        names = dict.fromkeys((*self.names, *other.names))
        return GpuCatalogue(tuple(names), self._by_lower_name | other._by_lower_name)

    def canonical(self, name: str) -> str | None:
        """The name as the catalogue spells it, whatever its case; None when it is unknown."""
        return self._by_lower_name.get(name.lower())

    @classmethod
    def _of(cls, entries: Iterable[tuple[str, list[str]]]) -> GpuCatalogue:
        names: dict[str, str] = {}
        canonical = []
        for name, aliases in entries:
            canonical.append(name)
            for spelling in (name, *aliases):
                if _NAME.fullmatch(spelling) is None:
                    raise InvalidCatalogue(f"{spelling!r} is not a name of 1–64 letters, digits, _, . and -")
                if spelling.lower() in names:
                    raise InvalidCatalogue(f"{spelling!r} is given twice")
                names[spelling.lower()] = name
        return cls(tuple(canonical), names)
