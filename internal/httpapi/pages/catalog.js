// The SKUs as the server lists them, with their live stock.

import { watch } from "./stream.js";

// few is how many SKUs are loaded one by one. To load more, load all by pages.
const few = 5;

export class Catalog {
  // items has {sku, seq, gone} by SKU, to which pages add fields. seq is -1 before an event.
  // gone is when the SKU left the list, or 0.
  items = new Map();
  #path;
  #read;
  #draw;
  #loading = null;
  #loadAgain = false;
  #outdated = new Set();
  // #missed says whether names and prices may have changed since the page loaded them. The
  // first news follows at once, unless the tab is hidden.
  #missed = document.hidden;

  // path is that of the list. read returns the body at a path. draw shows an item that is
  // new or has changed.
  constructor(path, read, draw) {
    this.#path = path;
    this.#read = read;
    this.#draw = draw;
  }

  // show takes a SKU as the server answered it, to a question asked at that time.
  show(sku, asked = performance.now()) {
    let item = this.items.get(sku.sku);
    if (!item) this.items.set(sku.sku, item = { seq: -1 });
    if (item.gone > asked) return;
    item.gone = 0;
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
    const unlisted = new Set(this.items.keys()); // less those of the pages
    const asked = performance.now();
    for (let cursor = ""; cursor !== null;) {
      const list = await this.#read(this.#path + "?limit=200" + (cursor && "&cursor=" + encodeURIComponent(cursor)));
      list.items.forEach((sku) => {
        unlisted.delete(sku.sku);
        this.show(sku, asked);
      });
      cursor = list.next_cursor;
    }
    unlisted.forEach((sku) => this.#remove(this.items.get(sku)));
  }

  async loadOne(name) {
    const asked = performance.now();
    this.show(await this.#read(`${this.#path}/${encodeURIComponent(name)}`), asked);
  }

  #remove(item) {
    item.gone = performance.now();
    this.#draw(item);
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

  #take({ sku, units, available, seq, gone }) {
    const item = this.items.get(sku);
    if (item && gone) {
      this.#remove(item);
      if (this.#path !== "/v1/skus") this.#reload(sku); // a list of all SKUs still has it
      return;
    }
    if (gone) return;
    if (!item || item.gone) {
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
