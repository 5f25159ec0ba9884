// A state is a shape, a word and a colour, so that none of them has to do alone.

import type { ComponentChildren } from "preact";
import type { Endpoint, Task, Worker } from "../api.ts";

function Shape({ tone }: { tone: string }) {
  const line = { fill: "none", stroke: "currentColor" } as const;
  switch (tone) {
    case "queued": return <circle cx="6" cy="6" r="4.4" {...line} stroke-width="1.6" />;
    case "scheduled": return <><circle cx="6" cy="6" r="4.6" {...line} stroke-width="1.5" /><path d="M6 3.4V6l1.9 1.4" {...line} stroke-width="1.4" /></>;
    case "running": return <circle class="spin" cx="6" cy="6" r="4.4" {...line} stroke-width="2" stroke-dasharray="18 10" />;
    case "succeeded": return <path d="M2 6.4 4.8 9.2 10 3.4" {...line} stroke-width="1.9" />;
    case "delivered": return <path d="M.6 6.6 3 9 7.2 4M5.2 8.2l.9.9L11.4 3.4" {...line} stroke-width="1.6" />;
    case "timed-out": return <path d="M3 1.6h6M3 10.4h6M3.6 1.8C3.6 5 8.4 7 8.4 10.2M8.4 1.8C8.4 5 3.6 7 3.6 10.2" {...line} stroke-width="1.4" />;
    case "dead": return <rect x="1.6" y="1.6" width="8.8" height="8.8" rx="1.6" fill="currentColor" />;
    case "cancelled": return <><circle cx="6" cy="6" r="4.4" {...line} stroke-width="1.6" /><path d="m3 9 6-6" stroke="currentColor" stroke-width="1.6" /></>;
    case "expired": return <path d="M6 1.6 10.8 10H1.2Z" {...line} stroke-width="1.5" />;
    default: return <path d="m2.6 2.6 6.8 6.8m0-6.8L2.6 9.4" {...line} stroke-width="1.9" />;
  }
}

export function State({ tone, children }: { tone: string; children: ComponentChildren }) {
  return (
    <span class={`state s-${tone}`}>
      <svg viewBox="0 0 12 12" aria-hidden="true"><Shape tone={tone} /></svg>
      {children}
    </span>
  );
}

const TASK_WORDS: Record<string, [string, string]> = {
  queued: ["queued", "queued"], scheduled: ["scheduled", "scheduled"], running: ["running", "running"],
  succeeded: ["succeeded", "succeeded"], failed: ["failed", "failed"], timed_out: ["timed-out", "timed out"],
  dead: ["dead", "dead"], cancelled: ["cancelled", "cancelled"], expired: ["expired", "expired"],
};

export function TaskState({ task }: { task: Task }) {
  if (task.status === "DELIVERED") return <State tone="delivered">delivered</State>;
  const [tone, word] = TASK_WORDS[task.state] ?? ["queued", task.state];
  return <State tone={tone}>{word}{task.cancelRequested && task.finishedAt === null ? ", cancel requested" : ""}</State>;
}

export function DeliveryState({ task }: { task: Task }) {
  if (task.webhook === null) return null;
  if (task.deliveryStatus === "SUCCESS") return <State tone="delivered">delivered</State>;
  if (task.deliveryStatus === "MAX_RETRIES_EXCEEDED") return <State tone="failed">given up</State>;
  if (task.finishedAt === null) return <span class="muted">when it ends</span>;
  if (task.deliveryParked) return <State tone="scheduled">parked</State>;
  return <State tone="scheduled">{task.deliveryStatus === "FAILED" ? "tried again later" : "due"}</State>;
}

const PLATFORM_TONES: Record<string, string> = {
  INITIALIZING: "scheduled", RUNNING: "succeeded", STOPPING: "scheduled", STOPPED: "cancelled", FAILED: "failed", DEGRADED: "failed", DELETING: "scheduled",
};

export function PlatformState({ status }: { status: Endpoint["status"] | Worker["status"] }) {
  return <State tone={PLATFORM_TONES[status] ?? "queued"}>{status}</State>;
}
