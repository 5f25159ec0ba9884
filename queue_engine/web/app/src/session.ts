// The half of the session that this origin keeps. The other half is in a cookie that no script can read.

const NAME = "queue-engine.session";

export function sessionHalf(): string | null {
  return localStorage.getItem(NAME);
}

export function keepSession(half: string): void {
  localStorage.setItem(NAME, half);
}

export function forgetSession(): void {
  localStorage.removeItem(NAME);
}

/** Call `told` when another tab of this browser logs in or out. Return a function that ends that. */
export function followSession(told: (half: string | null) => void): () => void {
  const heard = (event: StorageEvent) => {
    if (event.key === NAME || event.key === null) told(sessionHalf());
  };
  addEventListener("storage", heard);
  return () => removeEventListener("storage", heard);
}

/** Return the token of a link in the address, and remove it from there, so that it is in no history. */
export function takeLinkToken(): string | null {
  const found = /^#login=(.+)$/.exec(location.hash);
  if (found === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return found[1] ?? null;
}
