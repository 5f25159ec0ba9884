import { render } from "preact";
import { LocationProvider, Route, Router } from "preact-iso";
import { useEffect, useState } from "preact/hooks";
import { ApiError, get, isLoggedOut, logIn, type Me } from "./api.ts";
import { ErrorNotice, Title } from "./parts/common.tsx";
import { CredentialsScreen } from "./parts/later.tsx";
import { Shell } from "./parts/shell.tsx";
import { BASE } from "./place.ts";
import { AuditScreen } from "./screens/audit.tsx";
import { BulkScreen, OperationScreen } from "./screens/bulk.tsx";
import { CreateScreen } from "./screens/create.tsx";
import { DeliveriesScreen, DestinationScreen } from "./screens/deliveries.tsx";
import { EndpointScreen } from "./screens/endpoint.tsx";
import { EndpointsScreen } from "./screens/endpoints.tsx";
import { KeysScreen } from "./screens/keys.tsx";
import { Login } from "./screens/login.tsx";
import { OverviewScreen } from "./screens/overview.tsx";
import { StartScreen } from "./screens/start.tsx";
import { SystemScreen } from "./screens/system.tsx";
import { TaskScreen } from "./screens/task.tsx";
import { TasksScreen } from "./screens/tasks.tsx";
import { WorkerScreen } from "./screens/worker.tsx";
import { WorkersScreen } from "./screens/workers.tsx";
import { followSession, forgetSession, keepSession, sessionHalf, takeLinkToken } from "./session.ts";
import { forgetMe, keepMe, me, setTheme, theme } from "./state.ts";

type Stage = { kind: "opening" } | { kind: "login"; because: string | null } | { kind: "open" } | { kind: "failed"; error: ApiError };

function Console() {
  const [stage, setStage] = useState<Stage>({ kind: "opening" });
  const enter = async () => {
    try {
      keepMe(await get<Me>(["me"]));
      isLoggedOut.value = false;
      setStage({ kind: "open" });
    } catch (caught) {
      const error = caught instanceof ApiError ? caught : new ApiError(-1, String(caught));
      setStage(error.status === 401 ? { kind: "login", because: "The session has ended." } : { kind: "failed", error });
    }
  };
  const begin = async () => {
    const token = takeLinkToken();
    if (token !== null) {
      try {
        keepSession(await logIn({ login: token }));
      } catch (caught) {
        if (sessionHalf() === null) return setStage({ kind: "login", because: caught instanceof Error ? caught.message : String(caught) });
      }
    }
    if (sessionHalf() === null) return setStage({ kind: "login", because: null });
    await enter();
  };
  useEffect(() => void begin(), []);
  // Tabs share the session. What one shows for a key is not shown any more when another tab has ended it, or logs in with another key.
  useEffect(() => followSession((half) => {
    if (half !== null) {
      setStage({ kind: "opening" });
      return void enter();
    }
    forgetMe();
    setStage({ kind: "login", because: "You were logged out in another tab." });
  }), []);

  const hasEnded = isLoggedOut.value && stage.kind === "open";
  if (hasEnded) return <Login because="The session has ended. What was shown is read again after you log in." done={() => void enter()} />;
  switch (stage.kind) {
    case "opening": return <main id="main" class="login" aria-busy="true"><Title text="Console" /></main>;
    case "login": return <Login because={stage.because} done={() => void enter()} />;
    case "failed": return <main id="main" class="login"><Title text="Console" /><ErrorNotice error={stage.error} again={() => void enter()} /></main>;
    case "open": return <Views ended={() => { forgetSession(); forgetMe(); setStage({ kind: "login", because: "You are logged out." }); }} />;
  }
}

function Views({ ended }: { ended: () => void }) {
  if (me.value?.tenant === null) return <OperatorViews ended={ended} />;
  return (
    <LocationProvider scope={BASE}>
      <Shell ended={ended}>
        <Router>
          <Route path={BASE} component={OverviewScreen} />
          <Route path={`${BASE}/start`} component={StartScreen} />
          <Route path={`${BASE}/endpoints`} component={EndpointsScreen} />
          <Route path={`${BASE}/endpoints/new`} component={CreateScreen} />
          <Route path={`${BASE}/endpoints/:endpoint/:tab?`} component={EndpointScreen} />
          <Route path={`${BASE}/tasks`} component={TasksScreen} />
          <Route path={`${BASE}/tasks/:endpoint/:task`} component={TaskScreen} />
          <Route path={`${BASE}/deliveries`} component={DeliveriesScreen} />
          <Route path={`${BASE}/deliveries/:origin`} component={DestinationScreen} />
          <Route path={`${BASE}/workers`} component={WorkersScreen} />
          <Route path={`${BASE}/workers/:endpoint/:worker`} component={WorkerScreen} />
          <Route path={`${BASE}/bulk`} component={BulkScreen} />
          <Route path={`${BASE}/bulk/:endpoint/:operation`} component={OperationScreen} />
          <Route path={`${BASE}/keys`} component={KeysScreen} />
          <Route path={`${BASE}/credentials`} component={CredentialsScreen} />
          <Route path={`${BASE}/audit`} component={AuditScreen} />
          <Route path={`${BASE}/system`} component={SystemScreen} />
          <Route default component={NoView} />
        </Router>
      </Shell>
    </LocationProvider>
  );
}

/** An operator's key sees the installation and no tenant's data. */
function OperatorViews({ ended }: { ended: () => void }) {
  return (
    <LocationProvider scope={BASE}>
      <Shell ended={ended}><SystemScreen /><p class="muted">This is an operator's key. It manages tenants with <code>queue-engine tenants</code>, and sees no tenant's data: log in with a key of a tenant for that.</p></Shell>
    </LocationProvider>
  );
}

function NoView() {
  return <><Title text="Not found" /><h1>No such view</h1><p>This address names no view of the console. <a href={BASE}>Overview</a></p></>;
}

setTheme(theme.value);
const root = document.createElement("div");
root.id = "console";
document.body.append(root);
render(<Console />, root);
