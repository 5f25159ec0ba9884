"""What an endpoint may ask for and what it costs: GPU types, regions, prices. A built-in list of GPU types that the
operator extends by a TOML file.

```toml
regions = ["us-east-3"]           # optional: the only regions that are known; any without it

[storage]
price_per_gb_hour = 0.0001        # optional, like every price: 0 without it

[[gpu]]
name = "NVIDIA_H100_80G"          # what the API answers; matched in any case
aliases = ["NVIDIA_H100"]         # optional: other names for it
price_per_hour = 2.49             # of one
```
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from queue_engine.domain.endpoints import EndpointConfig

COST_DIGITS = 6
"""Digits after the point of a cost."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Price = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class InvalidCatalogue(ValueError):
    """The text is not a catalogue; the message says where and why."""


class _Gpu(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    aliases: list[str] = []
    price_per_hour: Price | None = None


class _Storage(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    price_per_gb_hour: Price


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    regions: Annotated[list[str], Field(min_length=1)] | None = None
    storage: _Storage | None = None
    gpu: list[_Gpu] = []


@dataclass(frozen=True)
class Catalogue:
    """The known GPU types and regions, and their prices."""

    names: tuple[str, ...] = ()
    """The GPU types as the API answers them."""
    regions: tuple[str, ...] = ()
    """The only known regions; none here: any region."""
    storage_price: float | None = None
    """Of one GB for an hour; None: not said."""
    _by_lower_name: Mapping[str, str] = field(default_factory=dict, repr=False)
    _prices: Mapping[str, float] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str) -> Catalogue:
        """Read a TOML file's text. Raises InvalidCatalogue."""
        try:
            content = _File.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise InvalidCatalogue(f"is not TOML: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidCatalogue(f"{_path_of(first['loc'])}: {first['msg']}") from None
        spellings = (((gpu.name, *gpu.aliases), f"gpu[{index}]") for index, gpu in enumerate(content.gpu))
        return cls(
            names=tuple(gpu.name for gpu in content.gpu),
            regions=_regions(content.regions or []),
            storage_price=content.storage.price_per_gb_hour if content.storage else None,
            _by_lower_name=_by_lower_name(spellings),
            _prices={gpu.name: gpu.price_per_hour for gpu in content.gpu if gpu.price_per_hour is not None},
        )

    def extended_by(self, other: Catalogue) -> Catalogue:
        """Both lists; what is in both is as `other` says."""

        def renamed(name: str) -> str:
            return other._by_lower_name.get(name.lower(), name)

        mine = {lower: renamed(name) for lower, name in self._by_lower_name.items()}
        return Catalogue(
            names=tuple(dict.fromkeys((*map(renamed, self.names), *other.names))),
            regions=other.regions or self.regions,
            storage_price=self.storage_price if other.storage_price is None else other.storage_price,
            _by_lower_name=mine | dict(other._by_lower_name),
            _prices={renamed(name): price for name, price in self._prices.items()} | dict(other._prices),
        )

    def canonical(self, name: str) -> str | None:
        """The GPU type as the catalogue spells it, whatever its case; None when it is unknown."""
        return self._by_lower_name.get(name.lower())

    def canonical_region(self, name: str) -> str | None:
        """The region as the catalogue spells it, whatever its case; None when it is unknown."""
        if not self.regions:
            return name
        return next((region for region in self.regions if region.lower() == name.lower()), None)

    def cost_per_hour(self, config: EndpointConfig) -> float:
        """Price of the desired workers with their storage. Of several resources the first counts.

        Whatever has no price is free: a GPU type that was taken out of the catalogue too.
        """
        gpus = sum(self._price_of(one.gpu_type) * one.gpu_count for one in config.resources[:1])
        storage = (self.storage_price or 0.0) * config.container_volume_in_gb
        return round(config.workers * (gpus + storage), COST_DIGITS)

    def _price_of(self, gpu_type: str) -> float:
        return self._prices.get(self.canonical(gpu_type) or gpu_type, 0.0)


def _by_lower_name(spellings: Iterable[tuple[tuple[str, ...], str]]) -> dict[str, str]:
    """The canonical name, which comes first in each group, by every spelling. `where` is for errors."""
    names: dict[str, str] = {}
    for group, where in spellings:
        for spelling in group:
            if _NAME.fullmatch(spelling) is None:
                raise InvalidCatalogue(f"{where}: {spelling!r} is not a name of 1–64 letters, digits, _, . and -")
            if spelling.lower() in names:
                raise InvalidCatalogue(f"{where}: {spelling!r} is given twice")
            names[spelling.lower()] = group[0]
    return names


def _regions(names: list[str]) -> tuple[str, ...]:
    _by_lower_name(((name,), f"regions[{index}]") for index, name in enumerate(names))
    return tuple(names)


def _path_of(location: tuple[int | str, ...]) -> str:
    """`gpu[2].price_per_hour`."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return path.removeprefix(".")
