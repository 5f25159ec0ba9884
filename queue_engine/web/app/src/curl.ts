// A call of the API as a command for a shell.

/** Return the command. `origin` is where the API is, with the prefix of a proxy. */
export function curlText(origin: string, method: string, path: string, body: string): string {
  const quoted = body.replaceAll("'", "'\\''");
  return `curl -s -X ${method} '${origin}${path}' -H "X-Api-Key: $QUEUE_ENGINE_API_KEY" -H 'Content-Type: application/json' -d '${quoted}'`;
}
