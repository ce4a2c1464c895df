// The storefront: what is on sale, live, and one customer's orders. It calls the
// API of the replica that it came from, as any other storefront would.

const find = (selector, within = document) => within.querySelector(selector);

// say shows a message, which screen readers read out.
function say(text, bad = false) {
  const message = document.createElement("p");
  message.classList.toggle("bad", bad);
  const close = document.createElement("button");
  close.textContent = "×";
  close.setAttribute("aria-label", "Dismiss");
  close.onclick = () => message.remove();
  message.append(text, close);
  const all = find("#messages");
  all.append(message);
  while (all.children.length > 2) all.firstChild.remove();
  setTimeout(() => message.remove(), bad ? 15_000 : 8_000);
}

// texts say what a customer can do about a problem, by the slug of its type.
const texts = {
  "sold-out": () => "Sold out. Units of orders that are not paid in time come back.",
  "insufficient-stock": () => "Fewer are left than you asked for. A smaller quantity may still succeed.",
  "sale-not-open": () => "The sale has not begun yet.",
  "sale-over": () => "The sale is over.",
  "price-changed": () => "The price has changed, and nothing was ordered. Look at it, then order again.",
  "customer-limit": () => "That would be more than one customer may have.",
  "too-many-requests": () => "You are too quick. Wait a moment, then try again. Nothing was ordered.",
  "busy": () => "Too many are buying right now. Nothing was changed: try again.",
  "unavailable": () => "The shop did not answer in time. Nothing was changed: try again.",
  "outcome-unknown": () => "There is no answer yet, and it may have worked. Ask again: nothing is done twice.",
  "unauthorized": () => "Your token is not valid, or not any more. Enter another one.",
  "unknown-sku": () => "This is not on sale any more.",
  "payment-window-over": () => "The payment came too late: the units went back on sale. It will be refunded.",
  "order-cancelled": () => "This order was cancelled.",
  "order-expired": () => "This order has expired.",
  "already-paid": () => "This order was paid already.",
  "unreachable": () => "The shop cannot be reached. Ask again: nothing is done twice.",
};

const explain = (problem) => {
  const text = texts[problem.slug];
  if (text) return text();
  const fields = (problem.errors ?? []).map((e) => `${e.field} ${e.message}`).join("; ");
  return fields || problem.detail || problem.title || "Something went wrong.";
};

// The customer's token: from the address behind #, which no server is sent, then
// kept for this tab.
const store = sessionStorage;
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  store.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}
const token = () => store.getItem("token");

// subject is who the token says that we are: to show it, no more.
function subject() {
  try {
    const claims = token().split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(claims), (c) => c.charCodeAt(0)))).sub;
  } catch {
    return "?";
  }
}

// ahead is how much the server's clock is ahead of ours, in ms.
let ahead = 0;
const now = () => Date.now() + ahead;

const tries = 6;
const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

// call answers the body of a 2xx, or throws the problem. What was not answered,
// or may be tried again, is tried again as it is: with the same key. unsure says
// of a problem that an earlier try may have worked all the same.
async function call(method, path, { body, key } = {}) {
  let unsure = false;
  for (let attempt = 1; ; attempt++) {
    let response, answer;
    try {
      const headers = { Accept: "application/json, application/problem+json" };
      if (token()) headers.Authorization = "Bearer " + token();
      if (key) headers["Idempotency-Key"] = `"${key}"`;
      if (body) headers["Content-Type"] = "application/json";
      response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(20_000) });
      answer = await response.json();
      const date = Date.parse(response.headers.get("Date"));
      if (date) ahead = date + 500 - Date.now(); // it is cut to the second
      if (response.ok) return answer;
      answer.slug = (answer.type ?? "").replace("/errors/", "");
    } catch {
      answer = { slug: "unreachable" };
    }
    const status = response?.status ?? 0;
    unsure ||= answer.slug === "unreachable" || status === 504 || status === 500;
    const again = answer.slug === "unreachable" || status === 503 || status === 504 || answer.slug === "request-in-flight";
    if (!again || attempt === tries) {
      // An answer that decides makes an end of doubt; a refusal to serve does not,
      // nor does one to let us in, nor that of an older replica that does not
      // understand what a newer one may have done.
      throw Object.assign(answer, { status, unsure: unsure && (again || status >= 500 || status === 401 || status === 400) });
    }
    const asked = Number(response?.headers.get("Retry-After")) * 1000 || 0;
    await sleep(Math.max(asked, 250 * 2 ** attempt) * (0.75 + Math.random() / 2));
  }
}

// newKey names one order, for all its tries.
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

function money(cents, currency) {
  const format = new Intl.NumberFormat(undefined, { style: "currency", currency });
  return format.format(cents / 10 ** format.resolvedOptions().maximumFractionDigits);
}

function duration(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  const two = (n) => String(n).padStart(2, "0");
  const clock = `${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  if (s < 3600) return clock;
  const days = Math.floor(s / 86400);
  return (days ? `${days} d ` : "") + `${two(Math.floor(s / 3600) % 24)}:${clock}`;
}

// --- What is on sale.

const cards = new Map(); // by SKU: {sku, seq, node}

// unsureOf are orders without an answer, by SKU: asked again under their keys,
// also after the page was loaded anew. A SKU may be called what objects have.
const unsureOf = Object.assign(Object.create(null), JSON.parse(store.getItem("unsure") ?? "{}"));
const saveUnsure = () => store.setItem("unsure", JSON.stringify(unsureOf));

function showSKU(sku) {
  let card = cards.get(sku.sku);
  if (!card) {
    const node = find("#sku-card").content.cloneNode(true).firstElementChild;
    card = { node, seq: -1 };
    cards.set(sku.sku, card);
    node.dataset.sku = sku.sku;
    find("form", node).onsubmit = (event) => {
      event.preventDefault();
      buy(card);
    };
    const after = [...find("#skus").children].find((other) => other.dataset.sku > sku.sku);
    find("#skus").insertBefore(node, after ?? null);
  }
  // The event may have been quicker than the list.
  if (card.seq >= 0) sku = { ...sku, units: card.sku.units, available: card.sku.available };
  card.sku = sku;
  find("#empty").hidden = true;
  drawSKU(card);
}

const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

function drawSKU({ sku, node, busy }) {
  const unsure = unsureOf[sku.sku];
  setText(find("h3", node), sku.name);
  setText(find(".price", node), money(sku.price_cents, sku.currency));
  const soldOut = sku.available <= 0;
  setText(find(".left strong", node), soldOut ? "Sold out" : sku.available.toLocaleString());
  setText(find(".left span", node), soldOut ? "" : `of ${sku.units.toLocaleString()} left`);
  const bar = find("progress", node);
  bar.max = Math.max(sku.units, 1);
  bar.value = Math.max(sku.available, 0);
  bar.setAttribute("aria-label", `Units of ${sku.name} that are left`);
  const starts = sku.sale_starts_at && Date.parse(sku.sale_starts_at) - now();
  const ends = sku.sale_ends_at && Date.parse(sku.sale_ends_at) - now();
  const open = !(starts > 0) && !(ends !== null && ends <= 0);
  let when = "";
  if (starts > 0) when = `Starts in ${duration(starts)}`;
  else if (ends !== null) when = ends > 0 ? `Ends in ${duration(ends)}` : "The sale is over";
  setText(find(".when", node), when);
  setText(find(".limit", node), unsure ? `Your order of ${unsure.quantity} has no answer yet.`
    : sku.per_customer_limit ? `At most ${sku.per_customer_limit} for one customer` : "");
  const quantity = find("input", node);
  quantity.max = sku.per_customer_limit ?? 2147483647;
  quantity.disabled = Boolean(unsure);
  if (unsure) quantity.value = unsure.quantity;
  const button = find("form button", node);
  setText(button, busy ? "Ordering" : unsure ? "Ask again" : soldOut ? "Sold out" : "Buy");
  button.setAttribute("aria-label", `${button.textContent} ${sku.name}`);
  button.disabled = busy || !open && !unsure || soldOut && !unsure;
  node.classList.toggle("gone", soldOut);
}

async function loadSKUs() {
  const pages = 5; // a thousand SKUs: more than anybody reads
  let cursor = "";
  for (let page = 0; page < pages && cursor !== null; page++) {
    const list = await call("GET", "/v1/skus?limit=200" + (cursor && "&cursor=" + encodeURIComponent(cursor)));
    list.items.forEach(showSKU);
    cursor = list.next_cursor;
  }
  find("#empty").hidden = cards.size > 0;
}

async function loadSKU(name) {
  showSKU(await call("GET", "/v1/skus/" + encodeURIComponent(name)));
}

async function buy(card) {
  if (!token()) {
    say("Enter your customer token first.", true);
    find("#token").focus();
    return;
  }
  const { sku } = card;
  // The price goes with it: nobody pays another one than he saw.
  const order = unsureOf[sku.sku]
    ?? { key: newKey(), quantity: Number(find("input", card.node).value), price_cents: sku.price_cents, currency: sku.currency };
  // Before it is sent: whatever becomes of this page, the order can be asked for.
  unsureOf[sku.sku] = order;
  saveUnsure();
  card.busy = true;
  drawSKU(card);
  let unsure = false;
  const { key, ...body } = order;
  try {
    const placed = await call("POST", "/v1/orders", { key, body: { sku: sku.sku, ...body } });
    const what = `${placed.quantity} × ${sku.name}`;
    say(placed.status === "paid" ? `Yours: ${what}. There is nothing to pay.`
      : `Reserved for you: ${what}. Pay within ${duration(Date.parse(placed.expires_at) - now())}.`);
    showOrder(placed);
  } catch (problem) {
    unsure = problem.unsure;
    say(explain(problem), true);
    if (problem.slug === "unauthorized") signOut();
    if (problem.slug === "price-changed") loadSKU(sku.sku).catch(() => {});
  }
  if (!unsure) delete unsureOf[sku.sku];
  saveUnsure();
  card.busy = false;
  drawSKU(card);
}

// --- Live stock.

const seen = (event) => {
  const { sku, units, available, seq } = JSON.parse(event.data);
  const card = cards.get(sku);
  if (!card) {
    loadSKU(sku).catch(() => {}); // the next event of it asks again
    return;
  }
  if (seq <= card.seq) return;
  // A change that is none of its units is of its name, price, limit or window.
  const other = card.seq >= 0 && card.sku.units === units && card.sku.available === available;
  card.seq = seq;
  Object.assign(card.sku, { units, available });
  drawSKU(card);
  if (other) loadSKU(sku).catch(() => {});
};

function live(on) {
  setText(find("#live"), on ? "Live" : "Reconnecting");
  find("#live").classList.toggle("on", on);
  find("#skus").classList.toggle("stale", !on);
}

function follow() {
  let again = false;
  const events = new EventSource("/v1/events");
  events.addEventListener("stock", seen);
  events.onopen = () => {
    live(true);
    // Ids may have begun anew behind our back; the stream tells everything again.
    cards.forEach((card) => { card.seq = -1; });
    if (again) loadSKUs().catch(() => {}); // for what is not in the events
    again = true;
  };
  events.onerror = () => {
    live(false);
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, 2000 + 3000 * Math.random()); // a refusal ends it
  };
}

// --- My orders.

const orders = new Map(); // by id: {order, node}
let older = null; // the cursor of those that came before, if there are any

function showOrder(order) {
  let row = orders.get(order.id);
  if (!row) {
    const node = find("#order-row").content.cloneNode(true).firstElementChild;
    row = { node };
    orders.set(order.id, row);
    node.dataset.order = order.id;
    find(".pay", node).onclick = () => close(row, "payment", { reference: "storefront-" + order.id });
    find(".cancel", node).onclick = () => close(row, "cancellation");
    // Ids sort as the service lists them, the newest first.
    const after = [...find("#orders").children].find((other) => other.dataset.order < order.id);
    find("#orders").insertBefore(node, after ?? null);
  }
  row.order = order;
  find("#no-orders").hidden = true;
  drawOrder(row);
}

const states = { reserved: "Reserved", paid: "Paid", cancelled: "Cancelled", expired: "Expired" };

function drawOrder({ order, node, busy }) {
  const name = cards.get(order.sku)?.sku.name ?? order.sku;
  setText(find("strong", node), `${order.quantity} × ${name}`);
  setText(find(".sum", node), money(order.total_cents, order.currency));
  setText(find(".badge", node), states[order.status]);
  const left = Date.parse(order.expires_at) - now();
  const reserved = order.status === "reserved";
  setText(find(".until", node), !reserved ? "" : left > 0 ? `Pay within ${duration(left)}` : "The time to pay is over");
  find(".row", node).hidden = !reserved;
  for (const button of node.querySelectorAll("button")) {
    button.disabled = Boolean(busy) || left <= 0;
    button.setAttribute("aria-label", `${button.textContent} order of ${order.quantity} × ${name}`);
  }
  node.className = "card order " + order.status;
}

// close pays or cancels. Either may be repeated.
async function close(row, how, body) {
  row.busy = true;
  drawOrder(row);
  try {
    row.order = await call("POST", `/v1/orders/${row.order.id}/${how}`, { body });
    say(how === "payment" ? "Paid. Thank you." : "Cancelled. Its units are on sale again.");
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

// loadOrders shows the newest orders, or those from a cursor on.
async function loadOrders(cursor = "") {
  const whose = token();
  try {
    const list = await call("GET", "/v1/orders?limit=50" + (cursor && "&cursor=" + encodeURIComponent(cursor)));
    if (token() !== whose) return; // somebody else has come
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
  const known = Boolean(token());
  find("#enter").hidden = known;
  find("#who").hidden = find("#mine").hidden = !known;
  if (!known) return;
  setText(find("#who span"), subject());
  // Orders without an answer outlive a token, and are nobody else's.
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
addEventListener("hashchange", () => {
  if (!new URLSearchParams(location.hash.slice(1)).has("token")) return;
  signOut();
  takeToken();
  signedIn();
});

// Once a second, what counts down is drawn again; an order whose time has run out
// is asked for until it is seen to have expired.
setInterval(() => {
  cards.forEach(drawSKU);
  orders.forEach((row) => {
    const over = row.order.status === "reserved" && Date.parse(row.order.expires_at) + 2000 < now();
    if (over && !(row.askAgain > now())) {
      row.askAgain = now() + 10_000;
      loadOrder(row).catch(() => {});
    }
    drawOrder(row);
  });
}, 1000);

takeToken();
await loadSKUs().catch((problem) => say(explain(problem), true));
follow();
signedIn();
