// The storefront shows the live stock and one customer's orders. It calls the public
// API of the replica that serves it.

import { newKey, now, request } from "./call.js";
import { Catalog } from "./catalog.js";
import { money } from "./money.js";
import { find, openStore, say, setText } from "./page.js";

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

// texts are messages for customers, by the slug of the problem's type.
const texts = {
  "sold-out": () => "Sold out. Units return if other buyers do not pay in time.",
  "insufficient-stock": () => "Not enough units are left. A smaller quantity may still succeed.",
  "sale-not-open": () => "The sale has not started yet.",
  "sale-over": () => "The sale is over.",
  "price-changed": () => "The price has changed, and nothing was ordered. Check the new price, then order again.",
  "customer-limit": ({ counts_until: until }) => "This is more than one customer may have." + (until
    ? ` Because of your cancelled orders, you can order this from ${clock.format(Date.parse(until) + 999)} on.` : ""),
  "too-many-unpaid": () => "You have too many orders that are not paid. Pay or cancel one of them first, then order again.",
  "too-many-requests": () => "Too many requests. Nothing was changed. Wait a moment, then try again.",
  "busy": () => "The shop is busy. Nothing was changed. Try again.",
  "unavailable": () => "The shop is temporarily unavailable. Nothing was changed. Try again.",
  "outcome-unknown": () => "There is no answer yet. Your request may have worked. Try again: nothing is done twice.",
  "unauthorized": () => "Your token is not valid or has expired. Enter another one.",
  "unknown-sku": () => "This item is no longer on sale.",
  "payment-window-over": () => "The payment came too late, and will be refunded. The units are on sale again.",
  "order-cancelled": () => "This order was cancelled.",
  "order-expired": () => "This order has expired.",
  "already-paid": () => "This order is already paid.",
  "payment-mismatch": () => "The payment does not match the order, and will be refunded.",
  "payment-reference-used": () => "This payment was made for another order.",
  "unreachable": () => "The shop cannot be reached. Try again: nothing is done twice.",
};

const explain = (problem) => {
  const text = texts[problem.slug];
  if (text) return text(problem);
  const fields = (problem.errors ?? []).map((e) => `${e.field} ${e.message}`).join("; ");
  return fields || problem.detail || problem.title || "Something went wrong.";
};

// The customer's token comes from the fragment (#) of the address, which browsers do
// not send, and is stored for this tab.
const store = openStore();
const token = () => store.getItem("token");

let started = false; // true once the page shows the customer

// takeToken takes a token out of the address, which must not keep it. Any site can link
// here, also into a new tab, so the token of a link is used only if the customer agrees:
// otherwise they might order as somebody else. Further links do not change what they are asked.
function takeToken() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  if (!fragment.has("token")) return;
  history.replaceState(null, "", location.pathname);
  const given = fragment.get("token");
  const dialog = find("#switch");
  if (!given || given === token() || dialog.open) return;
  const signedInNow = Boolean(token());
  dialog.querySelectorAll(".new").forEach((node) => setText(node, subject(given)));
  find(".now", dialog).hidden = !signedInNow;
  setText(find(".old", dialog), signedInNow ? subject() : "");
  find(".unsure", dialog).hidden = Object.keys(unsureOf).length === 0 || store.getItem("customer") === subject(given);
  setText(find("#stay"), signedInNow ? "Stay signed in" : "Do not sign in");
  setText(find("#become"), signedInNow ? "Change the customer" : "Sign in");
  find("#stay").onclick = () => dialog.close(); // as does the key Escape
  find("#become").onclick = () => {
    dialog.close();
    if (token()) signOut();
    store.setItem("token", given);
    if (started) signedIn();
  };
  dialog.showModal();
}

// subject is the customer in a token, unverified, for display only.
function subject(of = token()) {
  try {
    const claims = of.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(claims), (c) => c.charCodeAt(0)))).sub;
  } catch {
    return "?";
  }
}

// call returns the body of a 2xx answer, or throws the problem.
const call = async (method, path, options) => (await request(method, path, { ...options, token: token() })).body;

function duration(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  const two = (n) => String(n).padStart(2, "0");
  const clock = `${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  if (s < 3600) return clock;
  const days = Math.floor(s / 86400);
  return (days ? `${days} d ` : "") + `${two(Math.floor(s / 3600) % 24)}:${clock}`;
}

// place inserts a node into a sorted list, before the first child that comes after it.
function place(list, node, comesAfter) {
  let low = 0;
  for (let high = list.children.length; low < high;) {
    const middle = (low + high) >> 1;
    if (comesAfter(list.children[middle])) high = middle;
    else low = middle + 1;
  }
  list.insertBefore(node, list.children[low] ?? null);
}

// --- SKUs.

const count = new Intl.NumberFormat();
const catalog = new Catalog("/v1/skus", (path) => call("GET", path), showSKU); // items have a node

// unsureOf has the orders without an answer, by SKU. They are retried under their
// keys, also after a reload. It has no prototype: a SKU may be named "constructor".
const unsureOf = Object.assign(Object.create(null), JSON.parse(store.getItem("unsure") ?? "{}"));
const saveUnsure = () => store.setItem("unsure", JSON.stringify(unsureOf));

function showSKU(card) {
  const { sku } = card.sku;
  if (!card.node) {
    const node = find("#sku-card").content.cloneNode(true).firstElementChild;
    card.node = node;
    node.dataset.sku = sku;
    find("form", node).onsubmit = (event) => {
      event.preventDefault();
      buy(card);
    };
    place(find("#skus"), node, (other) => other.dataset.sku > sku);
  }
  find("#empty").hidden = true;
  drawSKU(card);
}

function drawSKU({ sku, gone, node, busy }) {
  const unsure = unsureOf[sku.sku];
  setText(find("h3", node), sku.name);
  setText(find(".price", node), money(sku.price_cents, sku.currency));
  const soldOut = sku.available <= 0;
  setText(find(".left strong", node), gone ? "Not on sale" : soldOut ? "Sold out" : count.format(sku.available));
  setText(find(".left span", node), gone || soldOut ? "" : `of ${count.format(sku.units)} left`);
  const bar = find("progress", node);
  bar.max = Math.max(sku.units, 1);
  bar.value = Math.max(sku.available, 0);
  bar.setAttribute("aria-label", `Units left of ${sku.name}`);
  const starts = sku.sale_starts_at && Date.parse(sku.sale_starts_at) - now();
  const ends = sku.sale_ends_at && Date.parse(sku.sale_ends_at) - now();
  const open = !(starts > 0) && !(ends !== null && ends <= 0);
  let when = "";
  if (gone) when = "";
  else if (starts > 0) when = `Starts in ${duration(starts)}`;
  else if (ends !== null) when = ends > 0 ? `Ends in ${duration(ends)}` : "The sale is over";
  setText(find(".when", node), when);
  setText(find(".limit", node), unsure ? `Your order of ${unsure.quantity} has no answer yet.`
    : sku.per_customer_limit ? `At most ${sku.per_customer_limit} per customer${sku.hold_policy === "strict" ? ", cancelled units included" : ""}` : "");
  const quantity = find("input", node);
  quantity.max = sku.per_customer_limit ?? 2147483647;
  quantity.readOnly = Boolean(unsure);
  if (unsure) quantity.value = unsure.quantity;
  const button = find("form button", node);
  setText(button, busy ? "Ordering" : unsure ? "Try again" : gone ? "Not on sale" : soldOut ? "Sold out" : "Buy");
  button.setAttribute("aria-label", `${button.textContent} ${sku.name}`);
  const off = !unsure && (!open || soldOut || Boolean(gone));
  if (off && document.activeElement === button) node.focus(); // a disabled button loses it
  button.disabled = off;
  button.setAttribute("aria-disabled", Boolean(busy)); // keeps the focus
  node.classList.toggle("gone", soldOut || Boolean(gone));
}

async function buy(card) {
  if (card.busy) return;
  if (!token()) {
    say("Enter your customer token first.", true);
    find("#token").focus();
    return;
  }
  const { sku } = card;
  // The order has the price that the customer sees.
  const order = unsureOf[sku.sku]
    ?? { key: newKey(), quantity: Number(find("input", card.node).value), price_cents: sku.price_cents, currency: sku.currency };
  // Save the order before sending it, so that a reload can retry it.
  unsureOf[sku.sku] = order;
  saveUnsure();
  card.busy = true;
  drawSKU(card);
  let unsure = false;
  const { key, ...body } = order;
  try {
    const placed = await call("POST", "/v1/orders", { key, body: { sku: sku.sku, ...body } });
    const what = `${placed.quantity} × ${sku.name}`;
    say(placed.status === "paid" ? `Ordered: ${what}. There is nothing to pay.`
      : `Reserved for you: ${what}. Pay within ${duration(Date.parse(placed.expires_at) - now())}.`);
    showOrder(placed);
  } catch (problem) {
    unsure = problem.unsure;
    say(explain(problem), true);
    if (problem.slug === "unauthorized") signOut();
    if (problem.slug === "price-changed") catalog.loadOne(sku.sku).catch(() => {});
  }
  if (!unsure) delete unsureOf[sku.sku];
  saveUnsure();
  card.busy = false;
  drawSKU(card);
}

function onNews({ live, missed }) {
  setText(find("#live"), live ? "Live" : missed ? "Reconnecting" : "Connecting");
  find("#live").classList.toggle("on", live);
  find("#skus").classList.toggle("stale", !live);
}

// --- My orders.

const orders = new Map(); // by id: {order, node}
// A payment service confirms payments, so this page only waits for them. The server says so.
const waits = document.documentElement.dataset.payments === "service";
let older = null; // the cursor of older orders, if any

function showOrder(order) {
  let row = orders.get(order.id);
  if (!row) {
    const node = find("#order-row").content.cloneNode(true).firstElementChild;
    row = { node };
    orders.set(order.id, row);
    node.dataset.order = order.id;
    find(".pay", node).onclick = () => close(row, "payment", { reference: "storefront-" + order.id });
    find(".pay", node).hidden = waits;
    find(".cancel", node).onclick = () => close(row, "cancellation");
    // Newer orders have larger ids.
    place(find("#orders"), node, (other) => other.dataset.order < order.id);
  }
  row.order = order;
  find("#no-orders").hidden = true;
  drawOrder(row);
}

const states = { reserved: "Reserved", paid: "Paid", cancelled: "Cancelled", expired: "Expired" };

function drawOrder({ order, node, busy }) {
  const name = catalog.items.get(order.sku)?.sku.name ?? order.sku;
  setText(find("strong", node), `${order.quantity} × ${name}`);
  setText(find(".sum", node), money(order.total_cents, order.currency));
  setText(find(".badge", node), states[order.status]);
  const left = Date.parse(order.expires_at) - now();
  const reserved = order.status === "reserved";
  setText(find(".until", node), !reserved ? "" : left > 0 ? `Pay within ${duration(left)}` + (waits ? ". The shop's payment service confirms the payment; this page then shows it." : "") : "The payment window is over");
  if (!reserved && find(".row", node).contains(document.activeElement)) node.focus();
  find(".row", node).hidden = !reserved;
  for (const button of node.querySelectorAll("button")) {
    button.disabled = left <= 0;
    button.setAttribute("aria-disabled", Boolean(busy));
    button.setAttribute("aria-label", `${button.textContent} order of ${order.quantity} × ${name}`);
  }
  node.className = "card order " + order.status;
}

// close pays or cancels an order. Both may be repeated.
async function close(row, how, body) {
  if (row.busy) return;
  row.busy = true;
  drawOrder(row);
  try {
    row.order = await call("POST", `/v1/orders/${row.order.id}/${how}`, { body });
    say(how === "payment" ? "Paid. Thank you." : "Cancelled. The units are on sale again.");
  } catch (problem) {
    say(explain(problem), true);
    loadOrder(row).catch(() => {});
  }
  row.busy = false;
  drawOrder(row);
}

async function loadOrder(row) {
  row.order = await call("GET", "/v1/orders/" + row.order.id);
  drawOrder(row);
}

// loadOrders shows the newest orders, or those after a cursor.
async function loadOrders(cursor = "") {
  const whose = token();
  try {
    const list = await call("GET", "/v1/orders?limit=50" + (cursor && "&cursor=" + encodeURIComponent(cursor)));
    if (token() !== whose) return; // the customer has changed
    list.items.forEach((order) => showOrder(order));
    older = list.next_cursor;
    find("#older").hidden = older === null;
  } catch (problem) {
    if (token() !== whose) return;
    say(explain(problem), true);
    if (problem.slug === "unauthorized") signOut();
  }
}

find("#older").onclick = async ({ target }) => {
  target.disabled = true;
  await loadOrders(older);
  target.disabled = false;
};

function signedIn() {
  const hasToken = Boolean(token());
  find("#enter").hidden = hasToken;
  find("#who").hidden = find("#mine").hidden = !hasToken;
  if (!hasToken) return;
  setText(find("#who span"), subject());
  // Keep orders without an answer for a new token of the same customer only.
  if (store.getItem("customer") !== subject()) forgetUnsure();
  store.setItem("customer", subject());
  loadOrders();
}

function signOut() {
  store.removeItem("token");
  orders.forEach(({ node }) => node.remove());
  orders.clear();
  find("#older").hidden = true;
  find("#no-orders").hidden = false;
  signedIn();
}

function forgetUnsure() {
  for (const sku in unsureOf) delete unsureOf[sku];
  saveUnsure();
}

find("#leave").onclick = () => {
  forgetUnsure();
  signOut();
};
find("#enter").onsubmit = (event) => {
  event.preventDefault();
  store.setItem("token", find("#token").value.trim());
  find("#token").value = "";
  signedIn();
};
addEventListener("hashchange", takeToken);

// Redraw the countdowns every second. Reload an order whose payment window is over until it
// is expired, and one that a payment service may have confirmed.
setInterval(() => {
  if (document.hidden) return;
  catalog.items.forEach((card) => {
    if (card.sku.sale_starts_at || card.sku.sale_ends_at) drawSKU(card);
  });
  orders.forEach((row) => {
    const over = Date.parse(row.order.expires_at) + 2000 < now();
    if (row.order.status === "reserved" && (over || waits) && !(row.askAgain > now())) {
      row.askAgain = now() + (over ? 10_000 : 5000);
      loadOrder(row).then(() => { if (row.order.status === "paid") say("Paid. Thank you."); }).catch(() => {});
    }
    drawOrder(row);
  });
}, 1000);

takeToken();
await catalog.load().then(() => { find("#empty").hidden = catalog.items.size > 0; }, (problem) => say(explain(problem), true));
catalog.follow(onNews);
started = true;
signedIn();
