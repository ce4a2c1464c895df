// The page lab.html: the settings of a run, and the run that is under way.

import {call, follow, Refused} from "./api.js";
import {drawRun, linkOf} from "./run-view.js";

const find = (selector) => document.querySelector(selector);
const [form, start, stop, note, message, place] = ["#form", "#start", "#stop", "#note", "#message", "#run"].map(find);

// fields are the settings, in their order. A choice takes one of a list of the options.
const fields = [
  {name: "strategy", label: "Strategy", choices: "strategies"},
  {name: "against", label: "Against", choices: "strategies", none: "nothing else"},
  {name: "fence", label: "Fence", choices: "fences"},
  {name: "fault", label: "Fault", choices: "faults"},
  {name: "replicas", label: "Replicas", hint: "Processes that sell at the same time"},
  {name: "units", label: "Units on sale", hint: "Of one SKU"},
  {name: "buyers", label: "Buyers", hint: "Each sends one order for one unit"},
  {name: "rate", label: "Orders a second", hint: "Sent, whether they are answered or not"},
  {name: "think_ms", label: "Think time, ms", hint: "A pause between reading and writing the stock"},
  {name: "seed", label: "Seed", hint: "For customers and keys; 0 picks one"},
];
let options; // what the lab offers
let running; // the activity that is shown, while it is under way
let ended = false; // the lab cannot be reached
let leave; // ends reading its journal
const askEvery = 2000; // ms, whether the lab is there, and whether somebody else started a run

const input = (field) => form.elements[field.name];
const setting = () => Object.fromEntries(fields.map((f) => [f.name, f.choices ? input(f).value : Number(input(f).value)]));
const choice = (f) => options[f.choices].find((o) => o.name === input(f).value);

function addField(field) {
  const box = document.createElement("div"), label = document.createElement("label"), hint = document.createElement("p"), error = document.createElement("p");
  const control = document.createElement(field.choices ? "select" : "input");
  control.name = control.id = field.name;
  label.htmlFor = field.name;
  label.textContent = field.label;
  hint.className = "hint";
  hint.id = field.name + "-hint";
  error.className = "error";
  error.id = field.name + "-error";
  control.setAttribute("aria-describedby", `${error.id} ${hint.id}`);
  if (field.choices) {
    if (field.none) control.add(new Option(field.none, ""));
    for (const o of options[field.choices]) {
      const option = new Option(o.title ?? o.name, o.name);
      option.disabled = Boolean(o.missing);
      control.add(option);
    }
  } else {
    const {min, max} = options.bounds[field.name];
    Object.assign(control, {type: "number", min, max, step: 1, inputMode: "numeric"});
  }
  box.append(label, control, error, hint);
  find(".fields").append(box);
}

// wrong is what a field's value should be, or "" if it is right.
function wrong(field) {
  const {value} = input(field);
  if (field.choices) return value || field.none ? "" : "Choose one.";
  const {min, max} = options.bounds[field.name];
  return /^\d+$/.test(value) && value >= min && value <= max ? "" : `Must be a whole number from ${min} to ${max}.`;
}

function showError(field, text) {
  find(`#${field.name}-error`).textContent = text;
  input(field).setAttribute("aria-invalid", String(Boolean(text)));
}

// explain shows one line for each choice, as the lab explains it.
function explain() {
  const withToken = fields.slice(0, 2).some((f) => choice(f)?.token);
  input({name: "fence"}).closest("div").hidden = !withToken && !wrong({name: "fence", choices: "fences"});
  for (const field of fields) {
    find(`#${field.name}-hint`).textContent = field.hint ?? choice(field)?.shows ?? "";
  }
}

function address() {
  return linkOf(setting(), options.defaults) || location.pathname;
}

// fill sets the fields to what differs from the defaults, and shows what cannot be set.
function fill(given) {
  for (const field of fields) {
    const value = String(given[field.name] ?? options.defaults[field.name]);
    input(field).value = value;
    const option = field.choices && options[field.choices].find((o) => o.name === value);
    if (option?.missing) input(field).selectedIndex = -1;
    const unknown = field.choices && value && !option;
    showError(field, unknown ? `There is no ${value}; choose one of the list.` : option?.missing || wrong(field));
  }
  explain();
}

// raise sets a number to what the chosen fault needs at least.
function raise(name, least) {
  const field = input({name});
  if (Number(field.value) >= least) return;
  field.value = least;
  note.textContent = `This fault needs at least ${least} ${name}.`;
}

form.addEventListener("input", (event) => {
  const field = fields.find((f) => f.name === event.target.name);
  note.textContent = "";
  if (field.name === "fault") {
    raise("replicas", choice(field).replicas ?? 0);
    raise("buyers", (choice(field).seconds ?? 0) * Number(input({name: "rate"}).value));
  }
  for (const f of fields) showError(f, wrong(f)); // what the lab refused may be right now
  explain();
  history.replaceState(null, "", address() + location.hash);
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) begin();
});

async function begin() {
  note.textContent = "";
  const bad = fields.filter(wrong);
  if (bad.length > 0) {
    complain(bad.map((f) => ({field: f.name, message: find(`#${f.name}-error`).textContent || wrong(f)})));
    return;
  }
  const [about] = await attempt(start, () => call("POST", "/api/runs", setting()));
  if (about) show(about);
}

// attempt calls the lab while a button is disabled. It shows what the lab refused, and then
// returns nothing.
async function attempt(button, ask) {
  button.setAttribute("aria-disabled", "true");
  message.replaceChildren();
  try {
    return [await ask()];
  } catch (error) {
    if (!(error instanceof Refused)) gone();
    else if (error.running) busy(error);
    else if (error.field || error.problems) complain(error.problems ?? [error]);
    else tell(error.message);
    return [];
  } finally {
    if (!running) button.removeAttribute("aria-disabled");
  }
}

// complain shows each problem beside its field, and moves to the first one.
function complain(problems) {
  find("#settings").open = true;
  for (const {field, message: text} of problems) {
    const known = fields.find((f) => f.name === field);
    if (known) showError(known, text);
    else tell(`${field}: ${text}`);
  }
  const first = fields.find((f) => f.name === problems[0].field);
  if (first) input(first).focus();
}

function tell(text, ...more) {
  const line = document.createElement("p");
  line.className = "bad";
  line.append(text, ...more);
  message.replaceChildren(line);
}

function gone() {
  ended = true;
  tell("The lab has ended; start it again with ", Object.assign(document.createElement("code"), {textContent: "make lab"}), ".");
}

function busy({message: text, running: other}) {
  if (other.kind === "run") {
    show(other);
    return;
  }
  const end = document.createElement("button");
  end.textContent = "Stop it";
  end.className = "plain";
  end.onclick = () => attempt(end, () => call("DELETE", "/api/activities/" + other.id)).then(() => start.focus());
  tell(text[0].toUpperCase() + text.slice(1) + ". ", end);
}

// show draws an activity from its journal, and goes on while it is under way.
function show(about) {
  if (running?.id === about.id) return;
  const view = drawRun(place);
  running = about;
  history.replaceState(null, "", location.pathname + location.search + "#run=" + about.id);
  start.setAttribute("aria-disabled", "true");
  stop.hidden = false;
  find("#settings").open = false;
  const on = {lost};
  for (const event of ["setting", "phase", "state", "happened", "side", "end", "stopped", "failed"]) {
    on[event] = (data) => view.take(event, data);
  }
  on.setting = (data) => {
    view.take("setting", data);
    fill(data.setting);
    history.replaceState(null, "", address() + location.hash);
  };
  on.end = (data) => {
    view.take("end", data);
    const save = document.createElement("a");
    save.className = "button";
    save.href = `/api/activities/${encodeURIComponent(about.id)}/page`;
    save.textContent = "Save as one file";
    save.download = "";
    const again = document.createElement("button");
    again.textContent = "Run again";
    again.onclick = () => {
      start.focus();
      start.click();
    };
    view.buttons.prepend(again, save);
    over();
  };
  for (const event of ["stopped", "failed"]) {
    on[event] = (data) => {
      view.take(event, data);
      over();
    };
  }
  leave = follow(about.id, on);
}

function lost() {
  leave?.();
  over();
  gone();
}

// ask looks at the lab from time to time.
async function ask() {
  try {
    const other = (await call("GET", "/api/activities")).find((a) => a.kind === "run" && !a.over);
    if (ended) message.replaceChildren();
    ended = false;
    if (!running && other) show(other);
  } catch {
    if (!ended) lost();
  }
  setTimeout(ask, askEvery);
}

function over() {
  running = undefined;
  start.removeAttribute("aria-disabled");
  if (document.activeElement === stop) start.focus();
  stop.hidden = true;
  stop.removeAttribute("aria-disabled");
}

stop.onclick = () => attempt(stop, () => call("DELETE", "/api/activities/" + running.id));

find("#copy").onclick = async () => {
  const link = new URL(address(), location.origin).href;
  try {
    await navigator.clipboard.writeText(link);
    note.textContent = "The link is copied.";
  } catch { // no permission, or not a secure context
    note.textContent = link;
  }
};

const [loaded] = await attempt(start, async () => [await call("GET", "/api/options"), await call("GET", "/api/activities")]);
if (loaded) {
  options = loaded[0];
  fields.forEach(addField);
  fill(Object.fromEntries(new URLSearchParams(location.search)));
  const wanted = new URLSearchParams(location.hash.slice(1)).get("run");
  const runs = loaded[1].filter((a) => a.kind === "run");
  const shown = runs.find((a) => !a.over) ?? runs.find((a) => a.id === wanted);
  if (shown) show(shown);
  setTimeout(ask, askEvery);
}
