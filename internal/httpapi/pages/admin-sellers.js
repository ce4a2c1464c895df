// Who sells what, by the locks of all replicas and the metrics of one.

import { call, explain, signedIn } from "./admin-session.js";
import { prepare } from "./admin-form.js";
import { Table } from "./admin-table.js";
import { sleep } from "./call.js";
import { find, say, setText } from "./page.js";

const spacing = 2000; // ms between two reads
const timeout = 10_000; // of each
const count = new Intl.NumberFormat();
const rate = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

// follow reads again and again while the tab is visible, until a read returns true. It
// shows problems in the section's status.
async function follow(section, read) {
  const status = find(".status", section);
  for (;;) {
    if (!document.hidden && signedIn()) {
      try {
        if (await read(status)) return;
        status.classList.remove("bad");
      } catch (problem) {
        status.classList.add("bad");
        setText(status, "Out of date: " + explain(problem));
      }
    }
    await sleep(spacing);
  }
}

let following = false;

export function showSellers() {
  if (following) return;
  following = true;
  follow(find("#sellers"), readLocks);
  follow(find("#replica"), readMetrics);
}

// --- Locks.

const locks = new Table(find("#sellers table"), {
  key: (held) => held.sku,
  cells: ({ sku, replica, holder, token, since, queue }) => [sku, replica || holder || "not reported", token || "not reported",
    since ? date.format(Date.parse(since)) : "not reported", queue.length === 0 ? "empty" : `${count.format(queue.length)}: ${queue.join(", ")}`],
  buttons: { Revoke: revoke },
});

async function readLocks(status) {
  try {
    const { body } = await call("GET", "/v1/admin/locks", { tries: 1, timeout });
    locks.show(body.locks);
    setText(status, body.locks.length === 0 ? `No lock is held: no SKU had an order in the last moments. Read at ${clock.format()}` : `Locks held: ${count.format(body.locks.length)}. Read at ${clock.format()}`);
  } catch (problem) {
    if (problem.slug !== "locks-not-shown") throw problem;
    setText(status, problem.detail);
    return true;
  }
}

let revoked;

const openRevoke = prepare(find("#revoke-dialog"), async () => {
  try {
    // Not sent again: the lock may have another holder by then.
    await call("DELETE", "/v1/admin/locks/" + encodeURIComponent(revoked), { tries: 1 });
  } catch (problem) {
    if (problem.unsure) problem.text = "It is not known whether the lock was revoked. See below who holds it now, then try again if necessary. " + explain(problem);
    throw problem;
  }
  say(`Revoked the lock of ${revoked}.`);
});

function revoke({ sku, replica, holder, token }) {
  openRevoke(() => {
    revoked = sku;
    setText(find("#revoke-dialog-title"), `Revoke the lock of ${sku}, held by ${replica || holder || "a replica"}${token ? ` with token ${token}` : ""}?`);
  });
}

// --- Metrics.

// measures have a gauge, a counter, or both.
const measures = [
  { name: "Orders placed", counter: "flashsale_orders_placed_total" },
  { name: "Orders forwarded to sellers", counter: "flashsale_forward_orders_sent_total" },
  { name: "Orders received from other replicas", counter: "flashsale_forward_orders_received_total" },
  { name: "Orders waiting at desks", gauge: "flashsale_desk_waiting_orders" },
  { name: "Orders refused by a full desk", counter: "flashsale_desk_full_total" },
  { name: "Tenures: locks held now, and tenures ended", gauge: "flashsale_locks_held", counter: "flashsale_lock_hold_seconds_count" },
  { name: "Take-overs from dead sellers", counter: 'flashsale_takeovers_total{reason="dead"}' },
  { name: "Take-overs from silent sellers", counter: 'flashsale_takeovers_total{reason="silent"}' },
  { name: "Writes refused by the fence", counter: "flashsale_fence_refusals_total" },
];

let last; // {replica, at, values} of the previous read

const replica = new Table(find("#replica table"), {
  key: (measure) => measure.name,
  cells: ({ name, now, total, speed }) => [name, ...[now, total].map((n) => (n === undefined ? "" : count.format(n))), speed === undefined ? "" : rate.format(speed)],
});

async function readMetrics(status) {
  let answer;
  try {
    answer = await call("GET", "/metrics", { text: true, tries: 1, timeout });
  } catch (problem) {
    if (problem.status < 400 || problem.status === 429 || problem.status >= 500) throw problem;
    setText(status, `Metrics are not served at this address (${problem.status}): a proxy keeps them private. To see them, open this page at a replica's own address.`);
    return true;
  }
  const values = new Map(answer.body.split("\n").filter((line) => line && line[0] !== "#").map((line) => {
    const end = line.lastIndexOf(" ");
    return [line.slice(0, end), Number(line.slice(end + 1))];
  }));
  const read = { replica: answer.headers.get("X-Replica"), at: performance.now(), values };
  const before = last?.replica === read.replica ? last : null;
  last = read;
  replica.show(measures.map(({ name, gauge, counter }) => {
    const total = values.get(counter);
    return { name, now: values.get(gauge), total, speed: before && total !== undefined ? (total - before.values.get(counter)) / (read.at - before.at) * 1000 : undefined };
  }));
  const started = values.get("process_start_time_seconds");
  setText(status, `${read.replica}, started ${date.format(started * 1000)}, read at ${clock.format()}`);
}
