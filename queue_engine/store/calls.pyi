# Made from the headers of the scripts by `make stubs`; a test compares the two.

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from queue_engine.store.keys import EndpointKeys, Partition, TaskKeys, WorkerKeys
from queue_engine.store.scripts import Argument, Submit

class AppendLogsOk:
    word: Literal["OK"]
    surplus: list[str]

class AppendLogsAlready:
    word: Literal["ALREADY"]

class AppendLogsGone:
    word: Literal["GONE"]

class CreateCredentialOk:
    word: Literal["OK"]
    created_ms: int

class CreateCredentialExists:
    word: Literal["EXISTS"]
    created_ms: int

class DeleteCredentialOk:
    word: Literal["OK"]

class DeleteCredentialInUse:
    word: Literal["IN_USE"]

class DeleteCredentialNotFound:
    word: Literal["NOT_FOUND"]

class DropLogsOk:
    word: Literal["OK"]

class HoldLeadershipOk:
    word: Literal["OK"]

class HoldLeadershipHeld:
    word: Literal["HELD"]

class MarkOk:
    word: Literal["OK"]

class PutApiKeyOk:
    word: Literal["OK"]
    tenant: str
    name: str
    created_ms: int

class PutApiKeyRevoked:
    word: Literal["REVOKED"]

class ReleaseCredentialOk:
    word: Literal["OK"]

class ResealFieldOk:
    word: Literal["OK"]

class ResealFieldStale:
    word: Literal["STALE"]

class RevokeApiKeyOk:
    word: Literal["OK"]

class UpdateCredentialOk:
    word: Literal["OK"]

class UpdateCredentialNotFound:
    word: Literal["NOT_FOUND"]

class UseCredentialOk:
    word: Literal["OK"]

class UseCredentialNotFound:
    word: Literal["NOT_FOUND"]

class YieldLeadershipOk:
    word: Literal["OK"]

class YieldLeadershipHeld:
    word: Literal["HELD"]

class Scripts:
    def __init__(self, submit: Submit) -> None: ...
    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any: ...
    async def append_logs(
        self,
        keys: WorkerKeys,
        /,
        *,
        worker_id: str,
        batch_id: str,
        retention_ms: int,
        lines: Sequence[str],
    ) -> AppendLogsOk | AppendLogsAlready | AppendLogsGone:
        """Append lines to a worker's log. Not allowed at maxmemory: logs give way to tasks. Without lines, only say
        that the worker lives.
        """
    async def create_credential(
        self,
        *,
        credential: str,
        credentials: str,
        credential_id: int,
        fields: Mapping[str, str | int],
    ) -> CreateCredentialOk | CreateCredentialExists:
        """Store a new credential."""
    async def delete_credential(
        self,
        *,
        credential: str,
        users: str,
        credentials: str,
        tenant: str,
        credential_id: int,
    ) -> DeleteCredentialOk | DeleteCredentialInUse | DeleteCredentialNotFound:
        """Remove a credential, unless a user of it was noted lately. The caller has looked before whether one that was
        noted earlier still uses it.
        """
    async def drop_logs(
        self,
        keys: EndpointKeys,
        /,
        *,
        worker_logs: Sequence[str],
        worker_ids: Sequence[str],
    ) -> DropLogsOk:
        """Forget the logs of some workers."""
    async def hold_leadership(
        self,
        *,
        leader: str,
        controller_id: str,
        lease_ms: int,
    ) -> HoldLeadershipOk | HoldLeadershipHeld:
        """Take the leadership when it is free, or renew one's own."""
    async def mark(self, *, mark: str) -> MarkOk:
        """Write something: what waits for replicas or a disk waits for everything before this, whichever process wrote
        it.
        """
    async def put_api_key(
        self,
        *,
        api_key: str,
        api_keys: str,
        revoked: str,
        tenants: str,
        key_hash: str,
        tenant: str,
        name: str,
    ) -> PutApiKeyOk | PutApiKeyRevoked:
        """Store a new API key, so that it can be listed and revoked from the moment on which it is valid. A known one
        stays as it is, and a revoked one stays revoked.
        """
    async def release_credential(self, *, users: str, endpoint_id: str) -> ReleaseCredentialOk:
        """Note that an endpoint no longer uses a credential."""
    async def reseal_field(
        self,
        *,
        record: str,
        field: str,
        before: str,
        after: str,
        has_version: bool,
    ) -> ResealFieldOk | ResealFieldStale:
        """Replace a sealed text by the same secret sealed with another key, unless the text has changed since it was
        read.
        """
    async def revoke_api_key(self, *, api_key: str, api_keys: str, revoked: str, key_hash: str) -> RevokeApiKeyOk:
        """Revoke an API key for good."""
    async def update_credential(
        self,
        *,
        credential: str,
        tenant: str,
        fields: Mapping[str, str | int],
    ) -> UpdateCredentialOk | UpdateCredentialNotFound:
        """Change some fields of a credential; those that are not given stay."""
    async def use_credential(
        self,
        *,
        credential: str,
        users: str,
        tenant: str,
        endpoint_id: str,
    ) -> UseCredentialOk | UseCredentialNotFound:
        """Note that an endpoint uses a credential, or is about to. The note counts for USE_GRACE_MS by itself and is
        kept no longer.
        """
    async def yield_leadership(self, *, leader: str, controller_id: str) -> YieldLeadershipOk | YieldLeadershipHeld:
        """Give up one's own leadership at once."""
