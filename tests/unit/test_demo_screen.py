"""What the demo shows where there is no terminal, and on one."""

import io
import re

from deploy.demo.screen import Column, Screen, cell

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(output: io.StringIO, environment: dict[str, str]) -> str:
    errors = io.StringIO()
    screen = Screen(output, errors, environment=environment)
    screen.say("[bold]literally[/bold] :smile: \x1b[31m")
    with screen.bar("files", 120) as bar:
        for done in range(121):
            bar.show(done)
    table = screen.table(Column("name", may_shrink=True), Column("number", is_number=True))
    table.add_row(cell("[red]\x1b[2J" + "x" * 300), "1")
    screen.show("A table", table)
    screen.complain("broken:\n\x1b[31m\tred")
    assert errors.getvalue().splitlines()[1].split() == ["?[31m", "red"]
    assert not CONTROL.search(errors.getvalue())
    return output.getvalue()


def test_without_a_terminal_there_are_plain_lines() -> None:
    text = shown(io.StringIO(), {"TERM": "xterm", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"})
    assert not CONTROL.search(text)
    assert [line for line in text.splitlines() if "/120" in line] == [
        "  files: 30/120",
        "  files: 60/120",
        "  files: 90/120",
        "  files: 120/120",
    ]
    assert "[bold]literally[/bold] :smile: ?[31m" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_terminal_without_abilities_gets_plain_lines_too() -> None:
    assert not CONTROL.search(shown(Terminal(), {"TERM": "dumb"}))


def test_a_terminal_gets_a_bar() -> None:
    text = shown(Terminal(), {"TERM": "xterm-256color"})
    assert "\x1b[" in text
    assert "\x1b[2J" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"
