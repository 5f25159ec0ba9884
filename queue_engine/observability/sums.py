"""The metrics of several processes that do the same work, on one page.

Counters and histograms are summed. A gauge cannot be summed in general, so each process keeps its own series, with the
label `process`:

    queue_engine_http_requests_total{code="200"} 12.0      (of process 1)
    queue_engine_http_requests_total{code="200"} 30.0      (of process 2)
    queue_engine_http_requests_total{code="200"} 42.0      (of the page)
    process_resident_memory_bytes{process="1"} 6.1e+07
    process_resident_memory_bytes{process="2"} 5.9e+07

A sum must not fall when a process is restarted: Prometheus would take that for a reset and count the other processes'
share a second time. So the caller passes the last known pages of processes that have ended. Only their counters and
histograms are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_SUMMED = frozenset({"counter", "histogram"})


@dataclass
class _Family:
    header: list[str] = field(default_factory=list)
    kind: str = ""
    samples: dict[str, float] = field(default_factory=dict)


def summed(pages: Mapping[str, str], ended: Iterable[str] = ()) -> bytes:
    """Return one page from the pages of processes, by the name of each, and from pages of processes that have ended."""
    families: dict[str, _Family] = {}
    for process, text in pages.items():
        _add(families, process, text.splitlines())
    for text in ended:
        _add(families, None, text.splitlines())
    lines: list[str] = []
    for family in families.values():
        lines += family.header
        lines += [f"{series} {value!r}" for series, value in family.samples.items()]
    return "\n".join([*lines, ""]).encode()


def _add(families: dict[str, _Family], process: str | None, lines: Iterable[str]) -> None:
    family = _Family()
    for line in lines:
        if line.startswith("# HELP "):
            family = families.setdefault(line.split(" ", 3)[2], _Family())
        if line.startswith("#"):
            if line.startswith("# TYPE "):
                family.kind = line.rsplit(" ", 1)[1]
            if line not in family.header:
                family.header.append(line)
        elif line:
            series, _, value = line.rpartition(" ")
            if family.kind not in _SUMMED:
                if process is None:
                    continue
                series = _labelled(series, f'process="{process}"')
            family.samples[series] = family.samples.get(series, 0.0) + float(value)


def _labelled(series: str, label: str) -> str:
    name, brace, rest = series.partition("{")
    return f"{name}{{{label},{rest}" if brace else f"{name}{{{label}}}"
