// Credentials of registries. User names and passwords are only written: the API returns neither.

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, type Endpoint, get, type Schemas, send } from "../api.ts";
import { forgetDraft, useDraft } from "../drafts.ts";
import { type FieldErrors, fieldErrors } from "../new-endpoint.ts";
import { Action, Card, Confirm, Empty, Foreign, Notice, Read, Time, Title } from "../parts/common.tsx";
import { Broken, Labelled, NO_ERRORS } from "../parts/endpoint-form.tsx";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { countText } from "../times.ts";

type Credential = Schemas["CredentialView"];

const PATH = "container-registry-auths";
const NAMES = ["name", "type", "username", "password"];
const SHOWN_USERS = 5;
const TYPES: [Credential["type"], string][] = [["DOCKER_HUB", "Docker Hub"], ["GCR", "Google (GCR)"], ["ECR", "Amazon (ECR)"], ["ACR", "Azure (ACR)"], ["PRIVATE", "another registry"]];

interface Known {
  credentials: Credential[];
  users: Map<number, Endpoint[]>;
}

async function read(signal: AbortSignal): Promise<Known> {
  const [credentials, endpoints] = await Promise.all([get<Credential[]>([PATH], {}, signal), get<Endpoint[]>(["serverless"], {}, signal)]);
  const users = new Map<number, Endpoint[]>();
  for (const one of endpoints) if (one.containerRegistryAuthId !== null) users.set(one.containerRegistryAuthId, [...(users.get(one.containerRegistryAuthId) ?? []), one]);
  return { credentials, users };
}

export function CredentialsScreen() {
  const shown = usePolled("credentials with endpoints", 15_000, read);
  const [replaced, setReplaced] = useDraft<Credential | null>("replaced credential", null);
  const [told, tell] = useState<string | null>(null);
  const done = (text: string) => { tell(text); setReplaced(null); shown.again(); };
  return (
    <>
      <Title text="Credentials" />
      <h1>Credentials</h1>
      <p class="muted">Access to the registries that images come from. User names and passwords are encrypted at rest and never shown again.</p>
      {told === null ? null : <Notice tone="info">{told}</Notice>}
      {replaced === null ? <CredentialForm key="new" done={done} /> : <CredentialForm key={replaced.id} credential={replaced} done={done} close={() => setReplaced(null)} />}
      <Read from={shown} lines={6}>
        {(known) => (
          <Card id="credentials" title="Stored credentials" aside={<span class="muted">{countText(known.credentials.length)}</span>}>
            <Table known={known} replace={(one) => { tell(null); setReplaced(one); }} done={done} />
          </Card>
        )}
      </Read>
    </>
  );
}

interface Typed {
  name: string;
  type: string;
  username: string;
  password: string;
}

function CredentialForm({ credential, done, close }: { credential?: Credential; done: (text: string) => void; close?: () => void }) {
  const draft = `credential ${credential?.id ?? "new"}`;
  const [typed, setTyped] = useDraft<Typed>(draft, { name: credential?.name ?? "", type: credential?.type ?? "DOCKER_HUB", username: "", password: "" });
  const [error, setError] = useState<ApiError | null>(null);
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => { if (credential) form.current?.querySelector<HTMLElement>("input")?.focus(); }, []);
  useEffect(() => form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus(), [error]);
  const errors = error === null ? NO_ERRORS : fieldErrors(error.message, NAMES);
  const body = credential ? changed(typed, credential) : { ...typed };
  const save = async () => {
    setError(null);
    try {
      if (credential) await send("PATCH", [PATH, credential.id], JSON.stringify(body));
      else await send("POST", [PATH], JSON.stringify(body));
      setTyped({ name: "", type: typed.type, username: "", password: "" });
      forgetDraft(draft);
      done(credential ? `The credential ${credential.id} is changed. Workers that start from now on use it.` : "The credential is stored.");
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
    }
  };
  const because = credential && Object.keys(body).length === 0 ? "Nothing is changed" : null;
  const leave = () => { forgetDraft(draft); close?.(); };
  return (
    <Card id="credential-form" title={credential ? `Replace credential ${credential.id}` : "New credential"}>
      <form class="body stack tight" ref={form} onSubmit={(event) => event.preventDefault()}>
        <Inputs typed={typed} set={(change) => setTyped((before) => ({ ...before, ...change }))} errors={errors} isReplaced={credential !== undefined} />
        {error === null ? null : <Notice tone="bad"><b>{error.status === 0 ? "It is not known whether this was stored." : "Not stored."}</b> {errors.byField.size === 0 ? <Foreign text={error.message} /> : <Broken errors={errors} />}</Notice>}
        <div class="row">
          <Action right="manage_tenant" kind="main" act={save} because={because}>{credential ? "Replace it" : "Store the credential"}</Action>
          {credential ? <button class="btn" type="button" onClick={leave}>Keep it</button> : null}
        </div>
      </form>
    </Card>
  );
}

/** The members that a change sends. Empty secrets keep their stored value. */
function changed(typed: Typed, credential: Credential): Partial<Typed> {
  return {
    ...(typed.name === credential.name ? {} : { name: typed.name }),
    ...(typed.username === "" ? {} : { username: typed.username }),
    ...(typed.password === "" ? {} : { password: typed.password }),
  };
}

function Inputs({ typed, set, errors, isReplaced }: { typed: Typed; set: (change: Partial<Typed>) => void; errors: FieldErrors; isReplaced: boolean }) {
  const secret = isReplaced ? "stored, not shown" : "";
  return (
    <div class="grid4">
      <Labelled path="name" label="Name" errors={errors}>{(attributes) => <input {...attributes} class="field" spellcheck={false} autocomplete="off" value={typed.name} onInput={(event) => set({ name: event.currentTarget.value })} />}</Labelled>
      <Labelled path="type" label="Registry" errors={errors}>{(attributes) => <select {...attributes} class="field" disabled={isReplaced} value={typed.type} onChange={(event) => set({ type: event.currentTarget.value })}>{TYPES.map(([type, word]) => <option key={type} value={type}>{word}</option>)}</select>}</Labelled>
      <Labelled path="username" label="User name" errors={errors} hint={isReplaced ? "Empty: keeps the stored one" : ""}>{(attributes) => <input {...attributes} class="field" spellcheck={false} autocomplete="off" placeholder={secret} value={typed.username} onInput={(event) => set({ username: event.currentTarget.value })} />}</Labelled>
      <Labelled path="password" label="Password or token" errors={errors} hint={isReplaced ? "Empty: keeps the stored one" : ""}>{(attributes) => <input {...attributes} class="field" type="password" autocomplete="new-password" placeholder={secret} value={typed.password} onInput={(event) => set({ password: event.currentTarget.value })} />}</Labelled>
    </div>
  );
}

function Table({ known, replace, done }: { known: Known; replace: (one: Credential) => void; done: (text: string) => void }) {
  const [deleted, setDeleted] = useState<Credential | null>(null);
  if (known.credentials.length === 0) return <Empty>There is no credential. Images of public registries need none.</Empty>;
  return (
    <>
      <div class="wrap" tabIndex={0} role="region" aria-label="Credentials">
        <table>
          <thead><tr><th scope="col">Name</th><th scope="col">Id</th><th scope="col">Registry</th><th scope="col">Created</th><th scope="col">Used by</th><th scope="col"><span class="vh">Actions</span></th></tr></thead>
          <tbody>
            {known.credentials.map((one) => (
              <tr key={one.id}>
                <td><Foreign text={one.name} limit={80} /></td>
                <td class="mono">{one.id}</td>
                <td>{TYPES.find(([type]) => type === one.type)?.[1] ?? one.type}</td>
                <td><Time at={Date.parse(one.createdAt)} /></td>
                <td><Users endpoints={known.users.get(one.id) ?? []} /></td>
                <td class="row">
                  <Action right="manage_tenant" act={async () => replace(one)}>Replace…<span class="vh"> {one.name}</span></Action>
                  <Action right="manage_tenant" kind="danger" act={async () => setDeleted(one)}>Delete…<span class="vh"> {one.name}</span></Action>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {deleted === null ? null : (
        <Confirm
          question={<>Delete the credential <b><Foreign text={deleted.name} limit={80} /></b> (<code>{deleted.id}</code>)? The API refuses this while an endpoint uses it.</>}
          yes="Delete the credential" close={() => setDeleted(null)} act={async () => { await send("DELETE", [PATH, deleted.id]); done(`The credential ${deleted.id} is deleted.`); }}
        />
      )}
    </>
  );
}

function Users({ endpoints }: { endpoints: Endpoint[] }) {
  if (endpoints.length === 0) return <span class="muted">no endpoint</span>;
  const more = endpoints.length - SHOWN_USERS;
  return (
    <>
      {endpoints.slice(0, SHOWN_USERS).map((one, index) => <span key={one.id}>{index > 0 ? ", " : ""}<a href={viewUrl("endpoints", one.id, "settings")}><Foreign text={one.name} limit={40} /></a></span>)}
      {more > 0 ? ` and ${countText(more)} more` : ""}
    </>
  );
}
