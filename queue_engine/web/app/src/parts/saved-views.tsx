// The saved views of the list of tasks: open one, save this one, remove one.

import { useLocation } from "preact-iso";
import { useState } from "preact/hooks";
import { shortened, visible } from "../hostile.ts";
import { queryOf, type View } from "../filters.ts";
import { viewUrl } from "../place.ts";
import { keepViews, MAX_NAME, readViews, type SavedView, withoutView, withView } from "../saved.ts";
import { me } from "../state.ts";

export function SavedViews({ view }: { view: View }) {
  const { route } = useLocation();
  const keyId = me.value?.keyId ?? "";
  const [views, setViews] = useState(() => readViews(keyId));
  const [isNaming, setNaming] = useState(false);
  const keep = (next: SavedView[]) => { keepViews(keyId, next); setViews(next); };
  const current = queryOf({ ...view, cursor: "" });
  const shown = views.find((one) => one.query === current);
  const open = (event: Event) => {
    const chosen = views.find((one) => one.name === (event.currentTarget as HTMLSelectElement).value);
    if (chosen !== undefined) route(viewUrl("tasks") + chosen.query);
  };
  const save = (event: Event) => {
    event.preventDefault();
    const name = new FormData(event.currentTarget as HTMLFormElement).get("name");
    if (typeof name !== "string" || name.trim() === "") return;
    keep(withView(readViews(keyId), name, view));
    setNaming(false);
  };
  if (isNaming) {
    return (
      <form class="row" onSubmit={save}>
        <label for="view-name">Name of the view</label>
        <input id="view-name" name="name" class="field narrow" autocomplete="off" maxLength={MAX_NAME} required autofocus />
        <button class="btn main" type="submit">Save</button>
        <button class="btn" type="button" onClick={() => setNaming(false)}>Cancel</button>
      </form>
    );
  }
  return (
    <div class="row">
      {views.length === 0 ? null : (
        <select class="field narrow" aria-label="Saved views" value={shown?.name ?? ""} onChange={open}>
          <option value="">Saved views</option>
          {views.map((one) => <option key={one.name} value={one.name}>{visible(shortened(one.name, MAX_NAME).text)}</option>)}
        </select>
      )}
      {shown === undefined
        ? <button class="btn" type="button" onClick={() => setNaming(true)}>Save view</button>
        : <button class="btn" type="button" onClick={() => keep(withoutView(readViews(keyId), shown.name))}>Remove saved view</button>}
    </div>
  );
}
