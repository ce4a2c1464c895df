// The page scheduler.html: real replicas stop before each step, and a person decides which
// one goes on. The address has the level and the choices, so that a game is a link.

import {call, follow, Refused} from "./api.js";
import {drawDiagram} from "./diagram.js";

const find = (selector) => document.querySelector(selector);
const done = new Set(); // levels that are won, or seen to be safe
let levels = [], level = null, game = null, state = null, drawing = null, end = () => {};
let choices = []; // of the game that is shown
let busy = false; // a game starts, or a move is made

function make(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// link is the address of the level with these choices.
const link = () => `#level=${level.name}` + (choices.length ? `&choices=${choices.join(",")}` : "");

function showLevels() {
  find("#levels").replaceChildren(...levels.map((l, i) => {
    const button = make("button", {type: "button", class: "plain"}, make("strong", {}, `${i + 1}. ${l.title}`),
      make("span", {class: "state"}, done.has(l.name) ? (l.winnable ? "Won" : "Not sold twice") : l.goal));
    if (l === level) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      play(l, []);
      find("#board").focus();
    });
    return make("li", done.has(l.name) ? {class: "done"} : {}, button);
  }));
}

// play starts a game of a level, and makes the choices. Undo does so with one choice less.
async function play(next, made) {
  end();
  level = next;
  choices = made;
  game = state = null;
  history.replaceState(null, "", link());
  tell();
  showLevels();
  find("#board").hidden = false;
  find("#title").textContent = level.title;
  find("#goal").textContent = level.goal;
  find("#guard").textContent = `Strategy ${level.strategy}, fence ${level.fence}, ${level.replicas} replicas`;
  find("#hint").textContent = level.hint;
  find("#help").open = false;
  find("#end").hidden = find("#refusals").hidden = true;
  for (const place of ["#players", "#stock", "#orders", "#drawing", "#choices"]) find(place).replaceChildren();
  drawing = null;
  waitFor("Starting");
  try {
    const about = await call("POST", "/api/games", {level: level.name, choices});
    if (level !== next || choices !== made) return; // another game was started meanwhile
    game = about;
    end = follow(about.id, {phase: ({text}) => waitFor(text), state: (s) => draw(s, made.length), end() {}, lost: gone,
      stopped: () => over("This game was ended, because another one was started."), failed: ({message}) => over(message)});
  } catch (error) {
    if (choices === made) refused(error);
  }
}

function waitFor(text) {
  busy = true;
  find("#status").textContent = text + " ...";
  enable();
}

function over(text) {
  busy = true; // only a new game helps
  find("#status").textContent = "";
  enable();
  tell(text);
}

function gone() {
  over("The lab has ended; start it again with make lab.");
}

function refused(error) {
  if (!(error instanceof Refused)) return gone();
  over(error.message);
  if (!error.running) return;
  const stop = make("button", {type: "button", class: "plain"}, "Stop it");
  stop.addEventListener("click", async () => {
    await call("DELETE", `/api/activities/${error.running.id}`);
    play(level, choices);
  });
  find("#message").append(stop);
}

function tell(text) {
  find("#message").replaceChildren(...(text ? [make("p", {class: "bad"}, text)] : []));
}

// draw shows a state. A game that repeats choices has the states of so many moves to come.
function draw(s, repeats) {
  const before = state;
  state = s;
  if (s.choices.length >= repeats) {
    choices = s.choices;
    history.replaceState(null, "", link());
    busy = false;
  }
  if (!find("#players").children.length) find("#players").append(...s.players.map(column));
  s.players.forEach((p, i) => fill(find("#players").children[i], p, i));
  find("#stock").replaceChildren(row("lamp", s.units, s.available, s.fence, s.seq));
  find("#orders").replaceChildren(...s.orders.map((o) => row(o.customer, o.status, o.token, o.seq)));
  if (!s.orders.length) find("#orders").replaceChildren(row("none", "", "", ""));
  find("#choices").textContent = s.choices.length ? `Moves so far: ${s.choices.join(" ")}` : "";
  find("#refusals").hidden = !s.refusals.length;
  find("#refusals ul").replaceChildren(...s.refusals.map((r) =>
    make("li", {}, `Move ${r.move}, ${r.replica}: `, make("code", {}, r.statement), r.why + ".")));
  if (drawing) drawing.update(s.diagram);
  else drawing = drawDiagram(find("#drawing"), s.diagram, {title: "What the replicas recorded"});
  find("#drawing").classList.toggle("live", !s.over); // the newest step stays in view
  const box = find("#drawing .diagram-box");
  box.scrollTop = box.scrollHeight;
  find("#status").textContent = news(s, before);
  if (s.over) showEnd(s);
  enable();
}

// news says in a sentence what the last move has done.
function news(s, before) {
  if (s.over) return "All buyers have their answers.";
  const fresh = s.refusals.slice(before?.refusals.length ?? 0);
  if (fresh.length) return `MySQL refused what ${fresh[0].replica} wrote.`;
  const last = s.choices.at(-1);
  if (!last) return "Your move.";
  const p = s.players[last.at(-1) - 1];
  return `${p.name} ${p.says}`;
}

function row(...cells) {
  return make("tr", {}, ...cells.map((text, i) => i ? make("td", typeof text === "string" ? {class: "words"} : {}, String(text)) : make("th", {scope: "row"}, text)));
}

// column is a replica. Its elements stay, so that the focus stays on its button.
function column(p, i) {
  const go = make("button", {type: "button", class: "go"});
  const pause = make("button", {type: "button", class: "plain pause"}, "Pause past its lease ", make("kbd", {}, "P"));
  go.addEventListener("click", () => move(String(i + 1)));
  pause.addEventListener("click", () => move(`p${i + 1}`));
  return make("li", {}, make("h3", {}, p.name, " ", make("small", {}, `sells to ${p.buyer}`)), make("p", {class: "says"}), make("p", {class: "facts"}), go, pause);
}

function fill(place, p, i) {
  const next = state.moves.find((m) => m.move === String(i + 1));
  place.className = p.condition;
  place.querySelector(".says").textContent = `${p.name} ${p.says}`;
  place.querySelector(".facts").textContent = [
    p.read === null ? "" : `has read: ${p.read} left`, p.holds ? "holds the lock, by its own records" + (p.token ? `, token ${p.token}` : "") : "",
  ].filter(Boolean).join("; ");
  place.querySelector(".go").replaceChildren(`${p.name}: ${next?.text ?? {waits: "waits", answered: "done"}[p.condition] ?? ""} `, make("kbd", {}, String(i + 1)));
  place.querySelector(".pause").hidden = !level.lease;
}

// enable disables what cannot be chosen now. The buttons keep the focus.
function enable() {
  const set = (button, possible) => possible ? button.removeAttribute("aria-disabled") : button.setAttribute("aria-disabled", "true");
  [...find("#players").children].forEach((place, i) => {
    set(place.querySelector(".go"), can(String(i + 1)));
    set(place.querySelector(".pause"), can(`p${i + 1}`));
  });
  set(find("#undo"), choices.length > 0);
}

const can = (m) => !busy && Boolean(state?.moves.some((possible) => possible.move === m));

async function move(m) {
  if (!can(m)) return;
  const played = game;
  waitFor(m.startsWith("p") ? "Waiting until its lease has ended at the server" : "Going on");
  try {
    await call("POST", `/api/games/${played.id}/moves`, {move: m});
  } catch (error) {
    if (game === played) refused(error);
  }
}

function showEnd(s) {
  const times = {2: "twice", 3: "three times"}[level.sell];
  const title = s.won ? `Sold ${times}` : s.orders.length > 1 ? `Sold ${s.orders.length} times only` : "Sold once";
  if (s.won || !level.winnable) done.add(level.name);
  showLevels();
  find("#end").className = `card ${s.won || s.orders.length > 1 ? "won" : "lost"}`;
  find("#end").hidden = false;
  find("#end").replaceChildren(make("strong", {}, title), make("p", {}, s.happened), make("p", {}, s.why),
    make("p", {}, make("a", {href: `/lessons#${level.lesson}`}, "The lesson about it"),
      ...(s.won || !level.winnable ? [] : [". It can be done: undo, or start again."])));
}

const undo = () => choices.length && play(level, choices.slice(0, -1));
const again = () => play(level, []);

async function copy() {
  try {
    await navigator.clipboard.writeText(location.href);
    find("#status").textContent = "The link is copied.";
  } catch {
    find("#status").textContent = `Copy the address of this page: ${location.href}`;
  }
}

for (const [id, act] of Object.entries({undo, again, copy})) find(`#${id}`).addEventListener("click", act);

addEventListener("keydown", (e) => {
  if (!level || e.altKey || e.ctrlKey || e.metaKey || e.repeat) return;
  const pause = state?.moves.find((m) => m.move.startsWith("p"));
  const act = {1: () => move("1"), 2: () => move("2"), 3: () => move("3"), p: () => pause && move(pause.move), u: undo, r: again}[e.key.toLowerCase()];
  if (!act) return;
  e.preventDefault();
  act();
});

// open plays what the address says.
function open() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const named = levels.find((l) => l.name === parts.get("level"));
  if (named) play(named, (parts.get("choices") ?? "").split(",").filter(Boolean));
  else if (parts.has("level")) tell(`There is no level ${parts.get("level")}; choose one of the levels below.`);
}

addEventListener("hashchange", open);
try {
  levels = await call("GET", "/api/levels");
  showLevels();
  open();
} catch {
  gone();
}
