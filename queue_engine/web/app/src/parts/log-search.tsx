// What is looked for in a log, and since when. Both are in the URL of the view.

export interface LogQuery {
  keyword: string;
  since: string;
}

const MAX_KEYWORD = 255;

/** Return what a query of a view looks for. `since` is the name of its time there. */
export function logQueryIn(query: Record<string, string>, since: string): LogQuery {
  return { keyword: (query["keyword"] ?? "").slice(0, MAX_KEYWORD), since: query[since] ?? "" };
}

export function LogSearch({ keyword, since, look }: LogQuery & { look: (asked: LogQuery) => void }) {
  const submit = (event: Event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const text = (name: string) => ((form.get(name) as string | null) ?? "").trim();
    look({ keyword: text("keyword"), since: text("since") });
  };
  return (
    <form class="row" onSubmit={submit}>
      <input key={`k ${keyword}`} class="field narrow" name="keyword" type="search" defaultValue={keyword} maxLength={MAX_KEYWORD} aria-label="Only lines with this text" placeholder="only lines with …" />
      <input key={`s ${since}`} class="field narrow" name="since" type="search" defaultValue={since} aria-label="From this time on, in UTC" placeholder="from 2026-01-31T12:00:00" />
      <button class="btn" type="submit">Look</button>
    </form>
  );
}
