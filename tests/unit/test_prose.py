"""The check of prose finds the phrases that the style rules out, and only in prose."""

from pathlib import Path

import pytest

from tests.prose import hits


def phrases(name: str, source: str) -> list[str]:
    return [hit.phrase for hit in hits(Path(name), source)]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.py", '"""What an endpoint is."""'),
        ("a.py", 'def f():\n    """Whether it is there."""'),
        ("a.py", 'LIMIT = 3\n"""Of one worker so many."""'),
        ("a.py", "x = 1  # nobody reads this"),
        ("a.py", "def f(x):\n    raise ValueError(f'{x}: is not wanted')"),
        ("a.py", "x = Field(description='Sent anew')"),
        ("a.py", "x = typer.Option(help=f'{x} is given back')"),
        ("a.md", "It works. Nobody waits."),
        ("a.md", "| `x` | Those that wait |"),
        ("a.lua", "local x = 1 -- what was told"),
    ],
)
def test_a_phrase_in_prose_is_found(name: str, source: str) -> None:
    assert phrases(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.py", "answer = wanted(told)"),
        ("a.py", "x = {'answer': 'nobody'}"),
        ("a.py", '"""Return the `answer`."""'),
        ("a.py", '"""Return “nobody”."""'),
        ("a.md", "```\nnobody\n```"),
        ("a.md", "See [the page](answers.md)."),
        ("a.md", "What happens when a worker dies?"),
        ("a.lua", "local answer = nobody"),
    ],
)
def test_names_code_and_questions_are_no_prose(name: str, source: str) -> None:
    assert phrases(name, source) == []


def test_a_hit_names_file_line_and_what_to_write_instead() -> None:
    (hit,) = hits(Path("a.py"), '"""Return it.\n\nIt is sent anew.\n"""')
    assert str(hit) == "a.py:3: “anew”: again, new"
