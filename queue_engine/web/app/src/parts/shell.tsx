// The frame of all views: top bar, sections, and the bar that says when the store is away.

import type { ComponentChildren } from "preact";
import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { logOut, outage } from "../api.ts";
import { Foreign } from "./common.tsx";
import { Find } from "./find.tsx";
import { isLive } from "../events.ts";
import { useChords, useKeys } from "../keys.ts";
import { Help } from "./help.tsx";
import { BASE, keepZone, viewUrl } from "../place.ts";
import { forgetSession } from "../session.ts";
import { can, isPaused, me, setTheme, setZone, theme, tick, zone } from "../state.ts";

export function Brand() {
  return (
    <a class="brand" href={BASE}>
      <svg width="20" height="20" viewBox="0 0 20 20" aria-hidden="true">
        <rect class="f-running" x="1" y="3" width="18" height="3.4" rx="1.7" />
        <rect class="f-running" x="1" y="8.3" width="12" height="3.4" rx="1.7" />
        <rect class="f-succeeded" x="1" y="13.6" width="7" height="3.4" rx="1.7" />
      </svg>
      queue-engine
    </a>
  );
}

export function Shell({ children, ended }: { children: ComponentChildren; ended: () => void }) {
  useEffect(() => {
    const timer = window.setInterval(() => { if (!document.hidden) tick.value = Date.now(); }, 1000);
    return () => clearInterval(timer);
  }, []);
  const [helps, setHelps] = useState(false);
  const { route, url } = useLocation();
  useEffect(() => keepZone(zone.value), [url, zone.value]);
  const go = (...parts: string[]) => () => route(viewUrl(...parts));
  useKeys({
    "?": () => setHelps(true), l: () => { isPaused.value = !isPaused.value; },
    "g o": () => route(BASE), "g e": go("endpoints"), "g t": go("tasks"), "g d": go("deliveries"), "g w": go("workers"), "g b": go("bulk"), "g k": go("keys"), "g c": go("credentials"), "g a": go("audit"), "g s": go("system"),
  });
  useChords();
  return (
    <>
      <a class="skip" href="#main">Skip to the content</a>
      <header class="top">
        <Brand />
        <Environment />
        <Find />
        <Live />
        <button class="btn" type="button" aria-label={`Times are in ${zoneWords(zone.value)}: change`} onClick={() => setZone(zone.value === "UTC" ? "local" : "UTC")}>{zone.value === "local" ? "Local" : zone.value.split("/").at(-1)!.replaceAll("_", " ")}</button>
        <ThemeButton />
        <button class="btn" type="button" aria-label="Keys and help" onClick={() => setHelps(true)}>?</button>
        <KeyMenu ended={ended} />
      </header>
      <Sections />
      <main id="main" class="stack" tabIndex={-1}>
        {outage.value ? <div class="note bad" role="alert"><div><b>The store or the API is away.</b> <Foreign text={outage.value} /> What is shown is kept from before; actions do not work until it is back.</div></div> : null}
        {children}
      </main>
      {helps ? <Help close={() => setHelps(false)} /> : null}
    </>
  );
}

/** The name of the installation, so that nobody takes one for another. */
function Environment() {
  const name = me.value?.environment ?? null;
  if (name === null) return null;
  return <span class={`env ${name.toLowerCase() === "production" ? "production" : ""}`}><span class="vh">Environment: </span>{name}</span>;
}

/** How what is shown stays true, and a button that stops it. */
function Live() {
  const [word, title] = outage.value ? ["no contact", "The API or the store does not respond; it is asked again by itself"]
    : isPaused.value ? ["paused", "What is shown does not change until you press the button again"]
    : isLive.value ? ["live", "One stream of events while this tab is visible"]
    : ["every 3 s", "What is shown is read again every few seconds while this tab is visible"];
  const tone = outage.value ? "f-failed" : isPaused.value ? "f-scheduled" : "f-succeeded";
  return (
    <button class="btn live" type="button" aria-pressed={isPaused.value} title={title} onClick={() => { isPaused.value = !isPaused.value; }}>
      <svg width="8" height="8" viewBox="0 0 8 8" aria-hidden="true"><circle class={tone} cx="4" cy="4" r="4" /></svg>
      {word}<span class="vh">: {isPaused.value ? "go on" : "pause"}</span>
    </button>
  );
}

function zoneWords(name: string): string {
  return name === "UTC" ? "Coordinated Universal Time" : name === "local" ? "the zone of this browser" : name;
}

function ZoneChoice() {
  const names = Intl.supportedValuesOf("timeZone");
  const others = names.includes(zone.value) || zone.value === "UTC" || zone.value === "local" ? names : [zone.value, ...names];
  return (
    <div>
      <label for="zone">Zone of times</label>
      <select id="zone" class="field" value={zone.value} onChange={(event) => setZone(event.currentTarget.value)}>
        <option value="UTC">UTC</option>
        <option value="local">of this browser</option>
        {others.filter((one) => one !== "UTC").map((one) => <option key={one} value={one}>{one.replaceAll("_", " ")}</option>)}
      </select>
    </div>
  );
}

function ThemeButton() {
  const next = theme.value === "auto" ? "light" : theme.value === "light" ? "dark" : "auto";
  const word = { auto: "Auto", light: "Light", dark: "Dark" }[theme.value] ?? "Auto";
  return <button class="btn" type="button" aria-label={`Theme: ${word}. Change to ${next}`} onClick={() => setTheme(next)}>{word}</button>;
}

function KeyMenu({ ended }: { ended: () => void }) {
  const details = useRef<HTMLDetailsElement>(null);
  const [error, setError] = useState<string | null>(null);
  const [isOpen, setOpen] = useState(false);
  const leave = async (everywhere: boolean) => {
    try {
      await logOut(everywhere);
      forgetSession();
      ended();
    } catch (caught) {
      setError(caught instanceof Error ? caught.message : String(caught));
    }
  };
  const key = me.value;
  return (
    <details class="menu" ref={details} onToggle={(event) => setOpen(event.currentTarget.open)} onKeyDown={(event) => { if (event.key === "Escape") details.current?.removeAttribute("open"); }}>
      <summary class="btn" aria-label={`Key: ${key?.role ?? ""}`}>{key?.role ?? "key"}</summary>
      <div class="card body stack tight">
        <dl class="facts">
          <dt>Key</dt><dd><Foreign text={key?.keyName ?? ""} limit={80} /> <span class="muted mono">{key?.keyId}</span></dd>
          <dt>Tenant</dt><dd><Foreign text={key?.tenant ?? "none"} limit={80} /></dd>
          <dt>Role</dt><dd>{key?.role}</dd>
          <dt>Version</dt><dd>{key?.version}</dd>
        </dl>
        {error ? <div class="note bad" role="alert"><Foreign text={error} /></div> : null}
        {isOpen ? <ZoneChoice /> : null}
        <button class="btn" type="button" onClick={() => void leave(false)}>Log out</button>
        <button class="btn" type="button" onClick={() => void leave(true)}>Log out everywhere</button>
      </div>
    </details>
  );
}

function Sections() {
  const { path } = useLocation();
  const link = (url: string, word: string, isHere: boolean) => (
    <li><a href={url} aria-current={isHere ? "page" : undefined}><span>{word}</span></a></li>
  );
  const isIn = (section: string) => path.startsWith(viewUrl(section));
  const credentials = can("view_tenant") ? link(viewUrl("credentials"), "Credentials", isIn("credentials")) : null;
  const system = link(viewUrl("system"), "System", isIn("system"));
  return (
    <nav class="nav" aria-label="Sections">
      {me.value?.tenant === null ? null : <ul>
        {link(BASE, "Overview", path === BASE || path === `${BASE}/`)}
        {link(viewUrl("endpoints"), "Endpoints", isIn("endpoints"))}
        {link(viewUrl("workers"), "Workers", isIn("workers"))}
        {link(viewUrl("tasks"), "Tasks", isIn("tasks"))}
        {link(viewUrl("deliveries"), "Deliveries", isIn("deliveries"))}
        {link(viewUrl("bulk"), "Bulk operations", isIn("bulk"))}
        {can("manage_tenant") ? link(viewUrl("start"), "First task", isIn("start")) : null}
      </ul>}
      {can("manage") ? (
        <>
          <h2>Settings</h2>
          <ul>
            {link(viewUrl("keys"), "API keys", isIn("keys"))}
            {credentials}
            {can("manage_tenant") ? link(viewUrl("audit"), "Audit log", isIn("audit")) : null}
            {system}
          </ul>
        </>
      ) : <ul>{credentials}{system}</ul>}
    </nav>
  );
}
