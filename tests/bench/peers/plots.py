"""Draw the plots of a result of `make bench`: `plots.py BENCH_JSON GROWTH_JSON FOLDER`; prints the names of the files.

A plot without data is left out. GROWTH_JSON may be missing: then the plot of cost against history is.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

OURS = "queue-engine"
COLOURS = {OURS: "#1f5fbf", "arq": "#d98c3f", "bullmq": "#3f9a5f"}
PEER_COLOUR, SECOND_COLOUR = "#9aa5b1", "#d98c3f"
THROUGHPUT = {
    "agent": "tasks through one worker",
    "submit": "submits through one process",
    "deliveries": "deliveries by one process",
    "end-to-end": "submit → webhook, two cores",
}


def main():
    result, growth_file, folder = (Path(word) for word in sys.argv[1:])
    document = json.loads(result.read_text())
    rows = {row["name"]: row for row in document["rows"]}
    growth = json.loads(growth_file.read_text()) if growth_file.exists() else None
    drawn = {
        "throughput.png": throughput(rows),
        "latency.png": latency(rows),
        "history.png": history(growth),
        "memory.png": memory(rows, growth),
    }
    for name, figure in drawn.items():
        if figure is not None:
            figure.savefig(folder / name, dpi=110, metadata={"Software": None})
            sys.stdout.write(f"{name}\n")


def throughput(rows):
    """Bars of medians with the range of the rounds, a panel for each row."""
    shown = [name for name in THROUGHPUT if name in rows and rows[name]["figures"]]
    if not shown:
        return None
    figure, panels = panels_of(len(shown), height=3.2, columns=2)
    for panel, name in zip(panels, shown, strict=False):
        figures = sorted(rows[name]["figures"], key=lambda one: one["median"])
        medians = [one["median"] for one in figures]
        below = [one["median"] - min(one["values"]) for one in figures]
        above = [max(one["values"]) - one["median"] for one in figures]
        colours = [COLOURS[OURS] if one["subject"] == OURS else PEER_COLOUR for one in figures]
        labels = [f"{one['subject']}\n{one['median']:,.0f}" for one in figures]
        panel.barh(labels, medians, xerr=[below, above], color=colours, capsize=3)
        panel.set_title(THROUGHPUT[name], fontsize=10)
        panel.set_xlabel("per second; bars: median and range of the rounds", fontsize=8)
    return figure


def latency(rows):
    """The distribution of the time from submit to container, by subject."""
    samples = rows.get("latency", {}).get("samples", {})
    if not samples:
        return None
    figure, [panel] = panels_of(1, height=4)
    for subject, values in samples.items():
        ordered = sorted(values)
        shares = [(index + 1) / len(ordered) for index in range(len(ordered))]
        panel.step(
            ordered, shares, where="post", label=f"{subject} ({len(ordered)} requests)", color=COLOURS.get(subject)
        )
    panel.set_xscale("log")
    panel.axhline(0.99, color="#cccccc", linewidth=0.8)
    panel.set_title("submit → container at 50 tasks/s", fontsize=10)
    panel.set_xlabel("milliseconds, logarithmic")
    panel.set_ylabel("share of the requests")
    panel.legend(fontsize=8)
    return figure


def history(growth):
    """The store's time for each operation against the number of finished tasks."""
    if growth is None:
        return None
    figure, panels = panels_of(2, height=4)
    groups = (("submit", "claim", "finish", "purge"), ("first page", "middle page", "last page", "page of all"))
    for panel, names in zip(panels, groups, strict=True):
        for name in names:
            panel.plot(growth["sizes"], growth["microseconds"][name]["server"], marker="o", label=name)
        panel.set_xscale("log")
        panel.set_ylim(bottom=0)
        panel.set_xlabel("finished tasks in the store")
        panel.set_ylabel("µs of the server's commands")
        panel.legend(fontsize=8)
    figure.suptitle(f"cost against history: {growth['server']}", fontsize=10)
    return figure


def memory(rows, growth):
    """Resident memory of idle processes, and bytes in the store for each task."""
    idle = [
        (name, one["median"], COLOURS[OURS]) for name in ("idle-agent", "idle-up") for one in of(rows, name, "memory")
    ]
    stored = [
        (f"{one['subject']}, {state}", one["median"], COLOURS[OURS] if one["subject"] == OURS else PEER_COLOUR)
        for state in ("queued", "finished")
        for one in of(rows, "store", f"bytes {state}")
    ]
    bars = [found for found in (("idle, MB resident", idle), ("store, bytes for each task", stored)) if found[1]]
    if not bars:
        return None
    figure, panels = panels_of(len(bars) + bool(growth), height=3.4)
    for panel, (title, values) in zip(panels, bars, strict=False):
        names, medians, colours = zip(*values, strict=True)
        panel.barh(
            [f"{name}\n{median:,.0f}" for name, median in zip(names, medians, strict=True)], medians, color=colours
        )
        panel.set_title(title, fontsize=10)
    if growth:
        panels[-1].plot(growth["sizes"], growth["bytes per finished task"], marker="o", color=SECOND_COLOUR)
        panels[-1].set_xscale("log")
        panels[-1].set_ylim(bottom=0)
        panels[-1].set_title("store, bytes for each finished task", fontsize=10)
        panels[-1].set_xlabel("finished tasks in the store")
    return figure


def of(rows, name, measure):
    return [one for one in rows.get(name, {}).get("figures", ()) if one["measure"] == measure]


def panels_of(count, *, height, columns=3):
    columns = min(columns, count)
    lines = -(-count // columns)
    size = (max(6, 4.2 * columns), height * lines)
    figure, panels = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    for panel in panels.flat[count:]:
        panel.axis("off")
    return figure, list(panels.flat)


main()
