import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.backends.images import InvalidReference, parse_reference

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "registry", "complete"),
    [
        ("nginx", None, "docker.io/library/nginx:latest"),
        ("nginx:1.27", None, "docker.io/library/nginx:1.27"),
        ("demo/image:1", None, "docker.io/demo/image:1"),
        ("docker.io/nginx", None, "docker.io/library/nginx:latest"),
        ("index.docker.io/demo/image", None, "docker.io/demo/image:latest"),
        ("localhost/mine", None, "localhost/mine:latest"),
        ("localhost:5000/mine:2", None, "localhost:5000/mine:2"),
        ("ghcr.io/owner/app", None, "ghcr.io/owner/app:latest"),
        (f"ghcr.io/owner/app@{DIGEST}", None, f"ghcr.io/owner/app@{DIGEST}"),
        (f"ghcr.io/owner/app:2@{DIGEST}", None, f"ghcr.io/owner/app@{DIGEST}"),
        ("app:1", "registry.example:5000", "registry.example:5000/app:1"),
        ("app:1", "https://registry.example/", "registry.example/app:1"),
        ("app:1", "https://index.docker.io/v1/", "docker.io/library/app:1"),
        ("app:1", "europe-docker.pkg.dev/project/repository", "europe-docker.pkg.dev/project/repository/app:1"),
        ("ghcr.io/owner/app:1", "registry.example", "ghcr.io/owner/app:1"),
        ("app", "[::1]:5000", "[::1]:5000/app:latest"),
    ],
)
def test_a_reference_is_completed(text: str, registry: str | None, complete: str) -> None:
    assert str(parse_reference(text, registry)) == complete


@pytest.mark.parametrize(
    "text",
    ["Nginx", "a b", "nginx:", "nginx:a/b", "nginx@sha256:12", "/nginx", "ghcr.io/", "a//b", "-x", "../x", "x;y", "é"],
)
def test_a_text_that_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference, match="is not an image"):
        parse_reference(text)


@pytest.mark.parametrize("registry", ["host name", "-x", "a?b", "user@host"])
def test_a_registry_that_is_no_host_is_refused(registry: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference("app:1", registry)


def test_an_image_without_a_registry_may_have_been_built_on_the_host() -> None:
    assert parse_reference("app:1").names == ("docker.io/library/app:1", "localhost/app:1")
    assert parse_reference("app:1", "ghcr.io").names == ("ghcr.io/app:1",)
    assert parse_reference("docker.io/app:1").names == ("docker.io/library/app:1",)


@given(st.text(max_size=255), st.none() | st.text(max_size=60))
def test_any_text_gives_a_reference_that_is_complete_or_an_error(text: str, registry: str | None) -> None:
    try:
        reference = parse_reference(text, registry)
    except InvalidReference:
        return
    assert parse_reference(str(reference)) == parse_reference(str(reference))
    assert str(parse_reference(str(reference))) == str(reference)
