// The list of tasks as its URL: every view can be sent to a colleague.

export interface View {
  endpoint: string | null;
  status: string | null;
  page: number;
}

export const STATUSES = ["PROCESSING", "SUCCESS", "DELIVERED", "FAILED"] as const;
export const PAGE_SIZE = 50;

/** Return the view that a query names. What it cannot be is left out, because a link may be made by hand. */
export function viewOf(query: Record<string, string>): View {
  const endpoint = /^[1-9][0-9]{0,15}$/.test(query["endpoint"] ?? "") ? query["endpoint"]! : null;
  const status = STATUSES.find((one) => one === query["status"]) ?? null;
  const page = /^[1-9][0-9]{0,6}$/.test(query["page"] ?? "") ? Number(query["page"]) : 1;
  return { endpoint, status, page };
}

/** Return the query of a view, without what is the same by default. */
export function queryOf(view: View): string {
  const parts = new URLSearchParams();
  if (view.endpoint !== null) parts.set("endpoint", view.endpoint);
  if (view.status !== null) parts.set("status", view.status);
  if (view.page > 1) parts.set("page", String(view.page));
  const text = parts.toString();
  return text === "" ? "" : `?${text}`;
}
