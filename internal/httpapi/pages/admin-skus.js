// The SKUs: a table with live stock, and the dialogs that create, change, restock and
// withdraw them.

import { call, explain, signedIn } from "./admin-session.js";
import { invalid, prepare, tell, whole } from "./admin-form.js";
import { Table } from "./admin-table.js";
import { newKey, now, sleep } from "./call.js";
import { Catalog } from "./catalog.js";
import { money } from "./money.js";
import { find, openStore, say, setText } from "./page.js";

const count = new Intl.NumberFormat();
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const status = find("#skus .status");
const pathOf = (sku) => "/v1/admin/skus/" + encodeURIComponent(sku);

// --- The table.

const table = new Table(find("#skus table"), {
  key: (item) => item.sku.sku,
  cells: ({ sku }) => [sku.sku, sku.name, money(sku.price_cents, sku.currency), count.format(sku.available), count.format(sku.units),
    sku.per_customer_limit === null ? "no limit" : count.format(sku.per_customer_limit), saleOf(sku)],
  buttons: { Change: ({ sku }) => change(sku.sku), Restock: ({ sku }) => restock(sku), Withdraw: ({ sku }) => withdraw(sku) },
  fixed: ({ sku }) => Boolean(sku.withdrawn_at),
});

function saleOf({ visible_from: visible, sale_starts_at: starts, sale_ends_at: ends, withdrawn_at: withdrawn }) {
  const time = (text) => date.format(Date.parse(text));
  if (withdrawn) return `withdrawn since ${time(withdrawn)}`;
  if (visible && Date.parse(visible) > now()) return `hidden until ${time(visible)}`;
  if (starts && Date.parse(starts) > now()) return `starts ${time(starts)}`;
  if (ends) return (Date.parse(ends) > now() ? "ends " : "over since ") + time(ends);
  return "open";
}

const catalog = new Catalog("/v1/admin/skus", async (path) => (await call("GET", path)).body, draw);
let drawing = false;

// draw draws the table before the next frame.
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const wanted = find("#filter").value.trim().toLowerCase();
    const found = [...catalog.items.values()].filter(({ sku }) => `${sku.sku} ${sku.name}`.toLowerCase().includes(wanted));
    table.show(found.sort((a, b) => (a.sku.sku < b.sku.sku ? -1 : 1)));
    const all = `${count.format(catalog.items.size)} SKUs`;
    setText(status, wanted ? `${count.format(found.length)} of ${all}` : all);
  });
}
find("#filter").oninput = draw;

let following = false;

// showSKUs loads all SKUs, and follows their stock.
export async function showSKUs() {
  for (;;) {
    try {
      await catalog.load();
      break;
    } catch (problem) {
      if (!signedIn()) return;
      setText(status, "The list is not complete; trying again. " + explain(problem));
      await sleep(5000);
    }
  }
  draw();
  if (following) return;
  following = true;
  catalog.follow(({ live, missed }) => {
    setText(find("#live"), live ? "Live" : missed ? "Reconnecting" : "Connecting");
    find("#live").classList.toggle("on", live);
    find("#skus").classList.toggle("stale", !live);
  });
}

// --- Creating and changing.

let editing = null; // {etag, sku} of the SKU as it was read; null to create one

const edit = prepare(find("#sku-dialog"), async (form) => {
  const want = values(form);
  const name = form.elements.sku.value.trim();
  if (!/^[^.]/.test(name)) throw invalid("sku", "must start with a letter or digit"); // "" and ".." are no SKU's path
  const headers = editing ? { "If-Match": editing.etag } : { "If-None-Match": "*" };
  const saved = await call("PUT", pathOf(name), { body: want, headers })
    .then(({ body }) => body, (problem) => mend(form, name, want, problem));
  catalog.show(saved);
  say(`Saved ${saved.sku}.`);
});

// mend explains why a SKU is not in the state that a PUT requires. It returns the SKU if
// it has the wanted values: the answer to an earlier try may have been lost.
async function mend(form, name, want, problem) {
  if (problem.status !== 412) throw problem;
  const { etag, sku } = await read(name);
  if (fields.every((field) => equal(field, sku, want)) && (editing || sku.units === want.units)) return sku;
  if (!editing) throw invalid("sku", "exists already, with other values");
  const errors = fields.filter((field) => !equal(field, sku, editing.sku)).map((field) => ({ field, message: "was changed to " + shown(field, sku) }));
  editing = { etag, sku };
  form.elements.theirs.hidden = false;
  throw { errors, text: `Somebody has changed ${name} since you opened it. Nothing of yours was saved. Save again to put your values in place of theirs. (request ${problem.id})` };
}

const times = ["visible_from", "sale_starts_at", "sale_ends_at"];
const fields = ["name", "price_cents", "currency", "per_customer_limit", "hold_policy", ...times];
const equal = (field, a, b) => (a[field] ?? null) === (b[field] ?? null) || (times.includes(field) && Date.parse(a[field]) === Date.parse(b[field]));

function shown(field, sku) {
  const value = sku[field];
  if (value === null) return "empty";
  if (field === "price_cents") return `${value} (${money(value, sku.currency)})`;
  return times.includes(field) ? date.format(Date.parse(value)) : String(value);
}

// read returns a SKU with its ETag, which a compressing proxy makes weak.
async function read(name) {
  const { body, headers } = await call("GET", pathOf(name));
  return { sku: body, etag: headers.get("ETag").replace(/^W\//, "") };
}

function values({ elements }) {
  const time = (input) => {
    if (input.validity.badInput) throw invalid(input.name, "is not complete");
    // A field shows no fractions of a second: unless it was changed, keep them.
    return input.value === input.dataset.shown ? input.dataset.time || null : new Date(input.value).toISOString();
  };
  return {
    name: elements.name.value, price_cents: whole(elements.price_cents), currency: elements.currency.value.trim(), units: whole(elements.units),
    per_customer_limit: whole(elements.per_customer_limit) ?? null, hold_policy: elements.hold_policy.value,
    ...Object.fromEntries(times.map((name) => [name, elements[name].value || elements[name].validity.badInput ? time(elements[name]) : null])),
  };
}

function fill({ elements }, sku) {
  for (const name of ["sku", "units", ...fields]) elements[name].value = sku?.[name] ?? "";
  if (!sku) elements.hold_policy.value = "lenient";
  for (const name of times) {
    const input = elements[name];
    const at = sku?.[name] && new Date(sku[name]);
    input.value = at ? new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19) : "";
    input.dataset.shown = input.value;
    input.dataset.time = sku?.[name] ?? "";
  }
  elements.sku.readOnly = elements.units.readOnly = Boolean(sku);
  elements.theirs.hidden = true;
  price(elements);
}

// price shows the price as buyers see it.
function price({ price_cents: { value }, currency }) {
  const known = /^\d+$/.test(value) && /^[A-Z]{3}$/.test(currency.value);
  setText(find("#sku-dialog output"), known ? "Buyers see " + money(Number(value), currency.value) : "");
}
find("#sku-dialog form").oninput = ({ currentTarget }) => price(currentTarget.elements);
find("#sku-dialog form").elements.theirs.onclick = ({ target }) => {
  tell(target.form);
  fill(target.form, editing.sku);
  target.form.elements.name.focus(); // the button is hidden
};

function open(read) {
  edit((form) => {
    editing = read;
    setText(find("#sku-dialog-title"), read ? `Change ${read.sku.sku}` : "New SKU");
    fill(form, read?.sku);
  });
  if (read) find("#sku-dialog form").elements.name.focus(); // the first field cannot be changed
}

find("#create").onclick = () => open(null);

let reading = false;
async function change(name) {
  if (reading) return;
  reading = true;
  try {
    open(await read(name));
  } catch (problem) {
    if (signedIn()) say(explain(problem), true);
  }
  reading = false;
}

// --- Restocking.

// unsure has the restocks that may have been applied, {key, units} by SKU. They are sent
// again under their keys, also after a reload. A SKU may be named "constructor".
const store = openStore();
const unsure = Object.assign(Object.create(null), JSON.parse(store.getItem("restocks") ?? "{}"));
const save = () => store.setItem("restocks", JSON.stringify(unsure));
let restocked; // the SKU of the dialog

const openRestock = prepare(find("#restock-dialog"), async (form) => {
  const name = restocked;
  const given = whole(form.elements.units);
  if (given === undefined) throw invalid("units", "is missing");
  // Store it before it is sent, so that a reload can send it again.
  const { key, units } = unsure[name] ??= { key: newKey(), units: given };
  save();
  try {
    await call("POST", pathOf(name) + "/restocks", { key, body: { units } });
    delete unsure[name];
    say(`Added ${count.format(units)} units to ${name}.`);
  } catch (problem) {
    if (problem.proof) delete unsure[name];
    drawRestock(form);
    throw problem;
  } finally {
    save();
  }
});

function drawRestock(form) {
  const { units } = form.elements;
  const before = unsure[restocked];
  units.readOnly = Boolean(before);
  if (before) units.value = before.units;
  setText(find(".hint", form), before ? "It is not known whether these units were added. Send them again: they are added only once." : "");
}

function restock({ sku }) {
  openRestock((form) => {
    restocked = sku;
    setText(find("#restock-dialog-title"), `Restock ${sku}`);
    form.elements.units.value = "";
    drawRestock(form);
  });
}

// --- Withdrawing.

let withdrawn; // the SKU of the dialog

const openWithdraw = prepare(find("#withdraw-dialog"), async () => {
  await call("DELETE", pathOf(withdrawn));
  say(`Withdrew ${withdrawn}.`);
  catalog.loadOne(withdrawn).catch(() => {}); // a lost answer only leaves the row as it was
});

function withdraw({ sku }) {
  openWithdraw(() => {
    withdrawn = sku;
    setText(find("#withdraw-dialog-title"), `Withdraw ${sku}?`);
  });
}
