"""`/v2/console-links`: links that log a browser in to the web console."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field
from starlette.requests import Request
from starlette.types import Scope

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.domain.principals import Right

TAG = "keys"


class ConsoleLinkView(View):
    """A link that was just created. It is not stored, so no other response has it."""

    url: str = Field(
        description="Address of the console with a token in its fragment. It begins one session of the key"
    )
    expires_at: int = Field(description="End of the link, ten minutes after its creation")


class ConsoleLinkRoutes:
    """Create links. `console_of` returns the console's address for the client of a request."""

    def __init__(self, services: Services, console_of: Callable[[Scope], str]) -> None:
        self._services = services
        self._console_of = console_of

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST", "/v2/console-links", self.create_console_link, right=Right.IDENTIFY,
                summary="Create a link that logs a browser in to the web console", tag=TAG,
                response=Success[ConsoleLinkView],
            ),
        ]  # fmt: skip

    async def create_console_link(self, request: Request) -> Response:
        """The link begins one session with the rights of the request's key, within ten minutes."""
        principal = await self._services.admit(request)
        link = await self._services.engine.sessions.create_link(principal)
        url = f"{self._console_of(request.scope)}#login={link.token}"
        return success({"url": url, "expiresAt": link.ends_at_ms})
