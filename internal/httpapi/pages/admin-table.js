// Long lists in tables, some rows at a time.

import { setText } from "./page.js";

const pageRows = 50;
const count = new Intl.NumberFormat();

export class Table {
  #node;
  #key;
  #cells;
  #buttons;
  #fixed;
  #items = [];
  #rows = new Map(); // the shown rows by key: redrawn rows keep the focus
  #from = 0;
  #pager;

  // cells returns the texts of an item's row. buttons are functions of the item, by name; an
  // item that is fixed has none.
  constructor(node, { key, cells, buttons = {}, fixed = () => false }) {
    this.#node = node;
    this.#key = key;
    this.#cells = cells;
    this.#buttons = buttons;
    this.#fixed = fixed;
    this.#pager = document.createElement("p");
    this.#pager.className = "pager";
    const [back, on] = [-1, 1].map((way) => {
      const button = document.createElement("button");
      button.className = "plain";
      button.textContent = way < 0 ? "Previous" : "Next";
      button.onclick = () => this.#turn(way);
      return button;
    });
    this.#pager.append(back, document.createElement("span"), on);
    node.after(this.#pager);
    this.show([]);
  }

  #turn(way) {
    const from = this.#from + way * pageRows;
    if (from < 0 || from >= this.#items.length) return;
    this.#from = from;
    this.show(this.#items);
  }

  // show shows the items, on the page that is open.
  show(items) {
    this.#items = items;
    if (this.#from >= items.length) this.#from = Math.max(0, Math.floor((items.length - 1) / pageRows) * pageRows);
    const shown = items.slice(this.#from, this.#from + pageRows);
    const old = this.#rows;
    this.#rows = new Map(shown.map((item) => [this.#key(item), old.get(this.#key(item)) ?? this.#row()]));
    shown.forEach((item) => this.#draw(this.#rows.get(this.#key(item)), item));
    const body = this.#node.tBodies[0];
    const rows = [...this.#rows.values()];
    if (rows.length !== body.children.length || rows.some((row, i) => row !== body.children[i])) {
      const focused = document.activeElement;
      body.replaceChildren(...rows);
      if (body.contains(focused)) focused.focus();
    }
    this.#node.hidden = items.length === 0;
    this.#pager.hidden = items.length <= pageRows;
    const [back, where, on] = this.#pager.children;
    setText(where, `${count.format(this.#from + 1)} to ${count.format(this.#from + shown.length)} of ${count.format(items.length)}`);
    back.setAttribute("aria-disabled", this.#from === 0);
    on.setAttribute("aria-disabled", this.#from + pageRows >= items.length);
  }

  #row() {
    const row = document.createElement("tr");
    [...this.#node.tHead.rows[0].cells].forEach((head, i) => {
      const cell = document.createElement(i === 0 ? "th" : "td");
      if (i === 0) cell.scope = "row";
      if (head.textContent) cell.dataset.label = head.textContent;
      cell.className = head.className;
      row.append(cell);
    });
    const names = Object.keys(this.#buttons);
    if (names.length > 0) {
      const all = document.createElement("div");
      all.className = "row";
      row.lastChild.append(all);
      for (const name of names) {
        const button = document.createElement("button");
        button.className = "plain";
        button.textContent = name;
        button.onclick = () => this.#buttons[name](row.item);
        all.append(button);
      }
    }
    return row;
  }

  #draw(row, item) {
    row.item = item;
    row.dataset.key = this.#key(item);
    // A cell is a text, or {text, bad}.
    this.#cells(item).forEach((cell, i) => {
      setText(row.cells[i], String(cell.text ?? cell));
      row.cells[i].classList.toggle("bad", Boolean(cell.bad));
    });
    for (const button of row.querySelectorAll("button")) {
      button.hidden = this.#fixed(item);
      button.setAttribute("aria-label", `${button.textContent} ${row.cells[0].textContent}`);
    }
  }
}
