"""Load the catalogue of GPU types, regions and prices."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from queue_engine.domain.catalogue import Catalogue, InvalidCatalogue


def load_catalogue(extra: Path | None) -> Catalogue:
    """Return the built-in list, extended by the operator's file. Raises InvalidCatalogue that names the file."""
    builtin = Catalogue.parse((files("queue_engine.domain") / "catalogue.toml").read_text("utf-8"))
    return builtin if extra is None else builtin.extended_by(_read(extra))


def _read(path: Path) -> Catalogue:
    try:
        return Catalogue.parse(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidCatalogue(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not a catalogue
        raise InvalidCatalogue(f"{path}: {error}") from None
