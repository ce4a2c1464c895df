// All SKUs as the server lists them, with their live stock.

import { watch } from "./stream.js";

// few is how many SKUs are loaded one by one. To load more, load all by pages.
const few = 5;

export class Catalog {
  // items has {sku, seq} by SKU, to which pages add fields. seq is -1 before an event.
  items = new Map();
  #read;
  #draw;
  #loading = null;
  #loadAgain = false;
  #outdated = new Set();
  // #missed says whether names and prices may have changed since the page loaded them. The
  // first news follows at once, unless the tab is hidden.
  #missed = document.hidden;

  // read returns the body at a path. draw shows an item that is new or has changed.
  constructor(read, draw) {
    this.#read = read;
    this.#draw = draw;
  }

  // show takes a SKU as the server answered it.
  show(sku) {
    let item = this.items.get(sku.sku);
    if (!item) this.items.set(sku.sku, item = { seq: -1 });
    // An event may be newer than the answer.
    if (item.seq >= 0) sku = { ...sku, units: item.sku.units, available: item.sku.available };
    item.sku = sku;
    this.#draw(item);
  }

  // load loads all SKUs, page by page. Calls at the same time share a load, which starts
  // after them.
  load() {
    this.#loadAgain = true;
    const load = async () => {
      while (this.#loadAgain) {
        this.#loadAgain = false;
        await this.#loadPages();
      }
    };
    return this.#loading ??= load().finally(() => { this.#loading = null; });
  }

  async #loadPages() {
    for (let cursor = ""; cursor !== null;) {
      const list = await this.#read("/v1/skus?limit=200" + (cursor && "&cursor=" + encodeURIComponent(cursor)));
      list.items.forEach((sku) => this.show(sku));
      cursor = list.next_cursor;
    }
  }

  async loadOne(name) {
    this.show(await this.#read("/v1/skus/" + encodeURIComponent(name)));
  }

  // follow shows the live stock from now on. deliver gets {live, missed} with each news.
  follow(deliver) {
    document.addEventListener("visibilitychange", () => { this.#missed = true; });
    watch(({ live, fresh, stock }) => {
      deliver({ live, missed: this.#missed });
      if (fresh) {
        this.items.forEach((item) => { item.seq = -1; }); // they may have been reset
        if (this.#missed) this.load().catch(() => {});
        this.#missed = true;
      }
      stock.forEach((event) => this.#take(event));
    }, () => this.load());
  }

  #take({ sku, units, available, seq }) {
    const item = this.items.get(sku);
    if (!item) {
      this.#reload(sku);
      return;
    }
    if (seq <= item.seq) return;
    // Without a change of units, the name, price, limit or window has changed.
    const other = item.seq >= 0 && item.sku.units === units && item.sku.available === available;
    item.seq = seq;
    Object.assign(item.sku, { units, available });
    this.#draw(item);
    if (other) this.#reload(sku);
  }

  // #reload loads a SKU again soon. Events have no names and prices.
  #reload(sku) {
    if (this.#outdated.add(sku).size > 1) return; // the timer runs
    setTimeout(() => {
      const names = [...this.#outdated];
      this.#outdated.clear();
      // An error is retried at the next event.
      if (names.length > few) this.load().catch(() => {});
      else names.forEach((name) => this.loadOne(name).catch(() => {}));
    }, 200 + 800 * Math.random()); // not all browsers at once
  }
}
