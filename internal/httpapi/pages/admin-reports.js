// The audit, and the payments to refund.

import { call, explain } from "./admin-session.js";
import { once } from "./admin-form.js";
import { Table } from "./admin-table.js";
import { find, setText } from "./page.js";

const auditTimeout = 5 * 60_000;
const count = new Intl.NumberFormat();
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

// tell shows a section's status.
function tell(section, text, kind = "") {
  const status = find(section + " .status");
  setText(status, text);
  status.className = "status " + kind;
}

// --- The audit.

const violations = new Table(find("#violations"), {
  key: ({ sku, invariant, detail }) => JSON.stringify([sku, invariant, detail]),
  cells: ({ sku, invariant, detail }) => [sku, { text: invariant, bad: true }, detail],
});

const balances = new Table(find("#balances"), {
  key: (balance) => balance.sku,
  cells: ({ sku, ok, oversold, ...units }) => [sku, ok ? "ok" : { text: "violation", bad: true },
    ...["units", "available", "reserved", "paid", "returned"].map((name) => count.format(units[name])), { text: count.format(oversold), bad: oversold > 0 }],
});

once(find("#run-audit"), async () => {
  const began = performance.now();
  const seconds = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;
  const showTime = () => tell("#audit", `Running for ${Math.floor((performance.now() - began) / 1000)} s`);
  showTime();
  const timer = setInterval(showTime, 1000);
  violations.show([]);
  balances.show([]);
  try {
    const { body } = await call("GET", "/v1/admin/audit", { tries: 1, timeout: auditTimeout });
    violations.show(body.violations);
    balances.show(body.skus.sort((a, b) => a.ok - b.ok));
    const what = body.ok ? "Every invariant holds" : `${count.format(body.violations.length)} ${body.violations.length === 1 ? "violation" : "violations"}`;
    tell("#audit", `${what}: ${count.format(body.skus.length)} SKUs, checked in ${seconds()}`, body.ok ? "good" : "bad");
  } catch (problem) {
    tell("#audit", `No result after ${seconds()}. ${explain(problem)}`, "bad");
  } finally {
    clearInterval(timer);
  }
});

// --- Late payments.

const late = new Table(find("#late table"), {
  key: ({ order_id: order, reference }) => JSON.stringify([order, reference]),
  cells: ({ reference, received_at: received, customer, order_id: order }) => [reference, date.format(Date.parse(received)), customer, order],
});
let payments = [];
let next = null; // the cursor of more payments, if any

// readLate shows the oldest payments, or those after a cursor as well.
async function readLate(cursor = "") {
  try {
    const { body } = await call("GET", "/v1/admin/late-payments?limit=200" + (cursor && "&cursor=" + encodeURIComponent(cursor)));
    payments = cursor ? [...payments, ...body.items] : body.items;
    next = body.next_cursor;
    late.show(payments);
    find("#more-late").hidden = next === null;
    tell("#late", payments.length === 0 ? "There are none." : `Payments to refund: ${count.format(payments.length)}${next ? " and more" : ""}`);
  } catch (problem) {
    tell("#late", explain(problem), "bad");
  }
}

export const showLate = () => readLate();
once(find("#read-late"), showLate);
once(find("#more-late"), () => readLate(next));
