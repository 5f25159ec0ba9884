import { useState } from "preact/hooks";
import { ApiError, get, type Schemas, send } from "../api.ts";
import { Action, Card, Confirm, CopyButton, Empty, ErrorNotice, Foreign, Notice, Read, Time, Title, useActions } from "../parts/common.tsx";
import { usePolled } from "../polled.ts";
import { me } from "../state.ts";
import { countText } from "../times.ts";

type Key = Schemas["KeyView"];
type NewKey = Schemas["NewKeyView"];

const SIZE = 100;
const DAY_MS = 86_400_000;
const ROLES: [Schemas["CreateKey"]["role"], string][] = [
  ["read", "sees everything but secrets, keys and the audit log"], ["submit", "submits tasks; reads and cancels its own"],
  ["operate", "also cancels, retries, pauses and scales"], ["admin", "everything of the tenant"],
];

export function KeysScreen() {
  const [number, setNumber] = useState(1);
  const [made, setMade] = useState<NewKey | null>(null);
  const shown = usePolled(`keys ${number}`, 15_000, (signal) => get<Schemas["KeyPageView"]>(["keys"], { pageNumber: number, pageSize: SIZE }, signal));
  const keep = (key: NewKey) => { setMade(key); shown.again(); };
  return (
    <>
      <Title text="API keys" />
      <h1>API keys</h1>
      {made === null ? null : <MadeKey made={made} close={() => setMade(null)} />}
      <NewKeyForm made={keep} />
      <Read from={shown} lines={6}>
        {(page) => (
          <Card id="keys" title="Keys" aside={<span class="muted">{countText(page.total)} that are valid</span>}>
            <KeyTable keys={page.items} again={shown.again} made={keep} />
            {page.pages > 1 ? (
              <nav class="row pager" aria-label="Pages">
                {number > 1 ? <button class="btn" type="button" onClick={() => setNumber(number - 1)}>Newer</button> : null}
                <span class="muted">Page {page.page} of {page.pages}</span>
                {number < page.pages ? <button class="btn" type="button" onClick={() => setNumber(number + 1)}>Older</button> : null}
              </nav>
            ) : null}
          </Card>
        )}
      </Read>
    </>
  );
}

function MadeKey({ made, close }: { made: NewKey; close: () => void }) {
  return (
    <Notice tone="info">
      <p><b>The key of <Foreign text={made.name} limit={80} /> is shown only now.</b> It is not stored, so nobody can read it again.</p>
      <p class="row"><code class="secret">{made.key}</code> <CopyButton text={() => made.key}>Copy</CopyButton> <button class="btn" type="button" onClick={close}>I have it</button></p>
    </Notice>
  );
}

function NewKeyForm({ made }: { made: (key: NewKey) => void }) {
  const [role, setRole] = useState<string>("submit");
  const [name, setName] = useState("");
  const [endpoints, setEndpoints] = useState("");
  const [days, setDays] = useState("");
  const [error, setError] = useState<ApiError | null>(null);
  const create = async () => {
    setError(null);
    const ids = endpoints.split(/[\s,]+/).filter(Boolean);
    const body = { name, role, ...(ids.length > 0 ? { endpoints: ids } : {}), ...(days === "" ? {} : { expiresAt: Math.round((me.value?.time ?? Date.now()) + Number(days) * DAY_MS) }) };
    try {
      made(await send<NewKey>("POST", ["keys"], JSON.stringify(body)));
      setName("");
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
    }
  };
  return (
    <Card id="new-key" title="New key">
      <form class="body stack tight" onSubmit={(event) => event.preventDefault()}>
        <div class="grid4">
          <div><label for="key-name">Purpose</label><input id="key-name" class="field" maxLength={200} value={name} onInput={(event) => setName(event.currentTarget.value)} /></div>
          <div><label for="key-role">Role</label><select id="key-role" class="field" value={role} aria-describedby="role-hint" onChange={(event) => setRole(event.currentTarget.value)}>{ROLES.map(([one]) => <option key={one} value={one}>{one}</option>)}</select></div>
          <div><label for="key-endpoints">Only endpoints</label><input id="key-endpoints" class="field" placeholder="all; or ids such as 7, 12" value={endpoints} onInput={(event) => setEndpoints(event.currentTarget.value)} /></div>
          <div><label for="key-days">Ends after days</label><input id="key-days" class="field" type="number" min="1" max="3650" placeholder="never" value={days} onInput={(event) => setDays(event.currentTarget.value)} /></div>
        </div>
        <p class="hint" id="role-hint">A key with the role {role} {ROLES.find(([one]) => one === role)?.[1]}.</p>
        {error ? <ErrorNotice error={error} /> : null}
        <div><Action right="manage" kind="main" act={create} because={name.trim() === "" ? "A purpose is needed" : null}>Create the key</Action></div>
      </form>
    </Card>
  );
}

function KeyTable({ keys, again, made }: { keys: Key[]; again: () => void; made: (key: NewKey) => void }) {
  const { run, error } = useActions(again);
  const [revoked, setRevoked] = useState<Key | null>(null);
  if (keys.length === 0) return <Empty>There is no key on this page.</Empty>;
  return (
    <>
      {error}
      <div class="wrap" tabIndex={0} role="region" aria-label="Keys">
        <table>
          <thead><tr><th scope="col">Purpose</th><th scope="col">Id</th><th scope="col">Role</th><th scope="col">Endpoints</th><th scope="col">Created</th><th scope="col">Last used</th><th scope="col">Ends</th><th scope="col"><span class="vh">Actions</span></th></tr></thead>
          <tbody>
            {keys.map((one) => (
              <tr key={one.id}>
                <td><Foreign text={one.name} limit={80} />{one.id === me.value?.keyId ? <span class="muted"> (this session's)</span> : null}</td>
                <td class="mono">{one.id}</td>
                <td>{one.role}</td>
                <td class="clip">{one.endpoints === null ? "all" : one.endpoints.join(", ")}</td>
                <td><Time at={one.createdAt} /></td>
                <td>{one.lastUsedAt === null ? <span class="muted">never</span> : <Time at={one.lastUsedAt} />}</td>
                <td>{one.expiresAt === null ? <span class="muted">never</span> : <Time at={one.expiresAt} />}{one.replaced ? <span class="muted"> replaced</span> : null}</td>
                <td class="row">
                  {one.replaced ? null : <Action right="manage" act={run(async () => made(await send<NewKey>("POST", ["keys", one.id, "rotate"])))}>Rotate<span class="vh"> {one.name}</span></Action>}
                  <Action right="manage" kind="danger" act={async () => setRevoked(one)}>Revoke…<span class="vh"> {one.name}</span></Action>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {revoked === null ? null : (
        <Confirm
          question={<>Revoke the key <b><Foreign text={revoked.name} limit={80} /></b> (<code>{revoked.id}</code>)? Programs that use it are refused within two seconds, and so is the console if this session is of that key.</>}
          yes="Revoke the key" close={() => setRevoked(null)} act={async () => { await send("DELETE", ["keys", revoked.id]); again(); }}
        />
      )}
    </>
  );
}
