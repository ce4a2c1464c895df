// Draws a run of the lab from the messages of its journal. It makes no request: a saved run,
// which is one file, is drawn by the same code.

import {axis, colour, keepDrawn, millis, offerFile, paintStrategies, whole} from "./charts.js";
import {drawDiagram} from "./diagram.js";

// make returns a new element with such classes, and with what is inside.
function make(tag, classes, ...inside) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...inside);
  return element;
}

// put changes a text only if it differs.
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const many = (n, one, more = one + "s") => `${whole(n)} ${n === 1 ? one : more}`;

// linkOf is the query of a setting: what differs from the defaults.
export function linkOf(setting, defaults) {
  const query = new URLSearchParams(Object.entries(setting).filter(([name, value]) => String(value) !== String(defaults[name]))).toString();
  return query && "?" + query;
}

function settingInWords(s) {
  return [
    s.against ? `${s.strategy} against ${s.against}` : s.strategy, many(s.replicas, "replica"), many(s.units, "unit"),
    `${many(s.buyers, "buyer")}, ${whole(s.rate)} a second`, s.think_ms ? `think time ${whole(s.think_ms)} ms` : "",
    s.fault === "none" ? "" : `fault: ${s.fault}`, `fence ${s.fence}`, `seed ${s.seed}`,
  ].filter(Boolean).join(" · ");
}

let drawnSides = []; // of the run that is shown
let redrawSides;

// drawRun replaces the content of place by a run, of which nothing has happened yet. The
// result takes the messages of its journal, draws what changed at the next frame, and has a
// place for the buttons of the page.
export function drawRun(place) {
  const settings = make("p", "settings");
  const outcome = make("section", "outcome");
  outcome.setAttribute("aria-live", "polite");
  const buttons = make("div", "row actions");
  const both = make("div", "sides");
  const figures = make("section", "");
  figures.hidden = true;
  place.replaceChildren(settings, outcome, buttons, both, figures);

  const journal = [];
  let sides = [];
  let frame = 0;
  const of = (data) => data.side < 0 ? sides : sides.slice(data.side, data.side + 1);

  function draw() {
    frame = 0;
    const most = Math.max(...sides.map((side) => side.most()));
    for (const side of sides) side.draw(most);
  }

  const on = {
    setting({setting}) {
      put(settings, settingInWords(setting));
      sides = [setting.strategy, setting.against].filter(Boolean).map((name) => drawSide(name, setting.units));
      both.replaceChildren(...sides.map((side) => side.card));
      both.classList.toggle("two", sides.length > 1);
      buttons.replaceChildren();
      paintStrategies();
      drawnSides = sides;
      if (redrawSides) redrawSides();
      else redrawSides = keepDrawn(() => drawnSides.flatMap((side) => side.drawWide()));
    },
    phase(data) {
      of(data).forEach((side) => side.phase(data.text));
      if (data.side >= 0) sides.slice(data.side + 1).forEach((side) => side.phase("Comes next."));
    },
    state: (data) => of(data).forEach((side) => side.state(data)),
    happened: (data) => of(data).forEach((side) => side.happened(data)),
    side: (data) => of(data).forEach((side) => side.result(data)),
    end() {
      outcome.replaceChildren(make("h2", "", "What happened"), ...sides.map((side) => side.verdict()));
      figures.replaceChildren(make("h2", "", "Figures"), figuresOf(sides));
      over("");
      figures.hidden = false;
    },
    stopped() {
      outcome.replaceChildren(make("p", "lead", "The run was stopped. This is what had happened until then."));
      over("Stopped.");
    },
    failed({message}) {
      outcome.replaceChildren(make("p", "lead bad", "The run failed: " + message));
      over("Failed.");
    },
  };

  function over(phase) {
    buttons.replaceChildren(downloadOf(journal));
    for (const side of sides) side.over(phase);
  }

  return {
    buttons,
    take(event, data) {
      journal.push([event, data]);
      on[event](data);
      frame ||= requestAnimationFrame(draw);
    },
  };
}

// showSaved draws a whole journal: [[event, data], ...].
export function showSaved(place, journal) {
  const view = drawRun(place);
  for (const [event, data] of journal) view.take(event, data);
  const {setting, defaults} = journal[0][1];
  const address = "http://127.0.0.1:8090/" + linkOf(setting, defaults);
  const link = make("a", "", address);
  link.href = address;
  view.buttons.after(make("p", "note", "Run it again: ", make("code", "", "make lab"), ", then open ", link));
}

function downloadOf(journal) {
  const link = make("a", "button", "Download the data");
  link.download = "race-lab-run.json";
  offerFile(link, JSON.stringify(journal, null, 1));
  return link;
}

// numberOf is a large number with its words, for people in the last row.
function numberOf(words, classes = "") {
  const number = make("strong", "", "0");
  const label = make("span", "", words);
  return {block: make("p", "number " + classes, number, label), number, label};
}

const announceEvery = 1000; // ms

// drawSide is the card of one strategy.
function drawSide(name, units) {
  const phase = make("p", "phase");
  const left = numberOf("units left");
  const sold = numberOf("sold");
  const rate = numberOf("answers a second");
  const over = numberOf("oversold", "over");
  const status = make("p", "unseen");
  status.setAttribute("role", "status");
  const bar = {sold: make("span", "bar-sold"), over: make("span", "bar-over"), line: make("span", "bar-line"), text: make("p", "bar-text")};
  const track = make("div", "bar-track", bar.sold, bar.over, bar.line);
  const answer = make("div", "answer");
  answer.hidden = true;
  const lanes = lanesOf();
  const course = courseOf(name, units);
  const card = make("article", "card side", make("h2", "", name), phase, make("div", "numbers", left.block, sold.block, rate.block), over.block, status,
    track, bar.text, answer, make("h3", "", "Replicas"), lanes.place, course.place);
  const heading = card.firstChild;
  card.dataset.strategy = name;

  let state = {available: units, sold: 0, oversold: 0, rate: 0, replicas: []};
  let drawnState, drawnMost, result, announced = 0, timer = 0;

  // announce tells screen readers what was oversold, once a second at most.
  function announce() {
    timer ||= setTimeout(() => {
      timer = 0;
      announced = performance.now();
      if (state.oversold > 0 || result) put(status, `${name}: ${many(state.oversold, "unit")} oversold`);
    }, Math.max(0, announced + announceEvery - performance.now()));
  }

  function draw(most) {
    if (state === drawnState && most === drawnMost) return;
    put(left.number, whole(state.available));
    put(sold.number, whole(state.sold));
    put(rate.number, whole(state.rate));
    put(over.number, whole(state.oversold));
    put(over.label, state.oversold === 1 ? "unit oversold" : "units oversold");
    over.block.classList.toggle("loud", state.oversold > 0);
    const share = (n) => 100 * n / most + "%";
    bar.sold.style.width = share(state.sold - state.oversold);
    bar.over.style.width = share(state.oversold);
    bar.line.style.left = share(units);
    put(bar.text, `${whole(state.sold)} sold, ${whole(units)} on sale` + (state.oversold > 0 ? `: ${whole(state.oversold)} too many` : ""));
    if (state !== drawnState) {
      lanes.draw(state.replicas);
      course.draw();
      announce();
    }
    [drawnState, drawnMost] = [state, most];
  }

  return {
    card, name, draw,
    most: () => Math.max(units, state.sold),
    drawWide() {
      lanes.drawArrows();
      return [course.chart()];
    },
    phase: (text) => put(phase, text),
    state(data) {
      state = data;
      course.add(data);
    },
    happened: (data) => course.mark(data),
    over(text) {
      if (!result) put(phase, text || phase.textContent);
    },
    result(data) {
      result = data;
      course.end();
      const run = data.run;
      state = {...state, available: run.available, sold: run.units_sold, oversold: run.oversold, rate: run.throughput};
      put(phase, data.database);
      heading.append(make("span", "verdict " + run.verdict, run.verdict));
      const drawing = make("div");
      answer.replaceChildren(make("p", "", data.explains), drawing);
      answer.hidden = false;
      if (data.diagram) drawDiagram(drawing, data.diagram, {title: data.race ? "The orders that sold the same unit twice" : "How the last unit was sold"});
    },
    verdict: () => make("p", "lead", make("span", "badge " + (result.run.verdict === "exact" ? "good" : "bad"), result.run.verdict), " ", result.sentence),
    figures: () => result,
  };
}

// lanesOf has a row for each replica, and arrows for the orders that replicas forwarded.
function lanesOf() {
  const list = make("ul", "lanes");
  const arrows = svg("svg", {role: "img"});
  const rows = new Map();
  let replicas = [], drawn = "";

  function rowOf(name) {
    const condition = make("span", "badge bad"), seller = make("span", "pill on"), counts = make("span", "counts");
    const row = {item: make("li", "", make("strong", "", name), condition, seller, counts), condition, seller, counts};
    rows.set(name, row);
    list.append(row.item);
    return row;
  }

  // drawArrows draws a vertical line for each replica that others forward to. Each of these
  // joins it from the left, with the number of orders.
  function drawArrows() {
    const counts = replicas.flatMap((r) => Object.entries(r.forwarded ?? {}).filter(([, n]) => n > 0).map(([to, n]) => ({from: r.name, to, n})));
    const targets = [...new Set(counts.map((c) => c.to))].filter((to) => rows.has(to)).sort();
    const step = 52, height = list.offsetHeight, width = targets.length * step + 12;
    const middle = (name) => rows.get(name).item.offsetTop - list.offsetTop + rows.get(name).item.offsetHeight / 2;
    for (const [key, value] of Object.entries({width, height, viewBox: `0 0 ${width} ${height}`, "aria-label":
      "Forwarded: " + counts.map((c) => `${whole(c.n)} from ${c.from} to ${c.to}`).join(", ")})) arrows.setAttribute(key, value);
    arrows.toggleAttribute("hidden", targets.length === 0);
    arrows.replaceChildren(...targets.flatMap((to, i) => {
      const spread = (name) => middle(name) + (i - (targets.length - 1) / 2) * 16;
      const x = (i + 1) * step, end = spread(to);
      return counts.filter((c) => c.to === to).flatMap((c) => {
        const start = spread(c.from);
        const label = svg("text", {x: x - 4, y: start - 4, "text-anchor": "end"});
        label.textContent = whole(c.n);
        return [svg("path", {d: `M0 ${start}H${x}V${end}H8`}), svg("path", {class: "head", d: `M0 ${end}l9 -5v10z`}), label];
      });
    }));
  }

  return {
    place: make("div", "replicas", list, arrows), drawArrows,
    draw(now) {
      replicas = now;
      const newest = Math.max(...now.map((r) => r.holds ? r.token : 0));
      for (const r of now) {
        const row = rows.get(r.name) ?? rowOf(r.name);
        put(row.condition, r.condition);
        row.condition.hidden = r.condition === "up";
        // A replica that is paused or cut off does not know of the next seller.
        put(row.seller, (r.token < newest ? "still acts as seller" : "seller") + (r.token ? `, token ${r.token}` : ""));
        row.seller.hidden = !r.holds;
        row.item.classList.toggle("seller", r.holds);
        put(row.counts, `sold ${whole(r.sold)}, refused ${whole(r.refused)}`);
      }
      const key = JSON.stringify(now.map((r) => [r.name, r.forwarded]));
      if (key !== drawn) drawArrows();
      drawn = key;
    },
  };
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// courseOf is the chart of the units over time. Faults and take-overs are numbered in it, and
// listed below.
function courseOf(name, units) {
  const drawing = make("div", "chart");
  const events = make("ol", "events");
  events.tabIndex = 0;
  events.setAttribute("aria-label", "What happened under " + name);
  events.hidden = true;
  const data = [[], [], [], []];
  const marks = [];
  let chart, over = false;

  function drawMarks(u) {
    const {ctx, bbox} = u, scale = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--ink");
    ctx.lineWidth = scale;
    ctx.font = `bold ${11 * scale}px system-ui, sans-serif`;
    ctx.setLineDash([3 * scale, 3 * scale]);
    ctx.beginPath();
    marks.forEach(({s, number}, i) => {
      const x = u.valToPos(s, "x", true);
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.fillText(number, x + 3 * scale, bbox.top + (11 + i % 3 * 12) * scale);
    });
    ctx.stroke();
    ctx.restore();
  }

  return {
    place: make("figure", "", make("figcaption", "", "Units over time"), drawing, events),
    add(state) {
      [state.ms / 1000, state.available, state.sold, units].forEach((value, i) => data[i].push(value));
    },
    mark(happened) {
      const s = happened.ms / 1000, item = make("li", happened.kind, make("span", "when", s.toFixed(2) + " s"));
      if (happened.kind !== "seller") { // there may be many tenures
        const number = String(marks.length + 1);
        marks.push({s, number});
        item.append(make("strong", "", number));
      }
      item.append(make("span", "", happened.text));
      events.append(item);
      events.hidden = false;
    },
    draw() {
      chart.setData(data);
      events.scrollTop = over ? 0 : events.scrollHeight;
    },
    end() {
      over = true;
    },
    chart() {
      const line = (label, name, more) => ({label, stroke: colour(name), width: 2, points: {show: false}, value: (_, v) => whole(v), ...more});
      chart = new uPlot({
        width: drawing.clientWidth, height: 220, cursor: {y: false}, hooks: {draw: [drawMarks]},
        scales: {x: {time: false, range: (_, __, max) => [0, Math.max(max ?? 0, 1)]}, y: {range: (_, __, max) => [0, Math.max(max ?? 0, units) * 1.1]}},
        axes: [axis({label: "seconds since the first order", size: 32}), axis({label: "units", size: 50})],
        series: [{label: "time", value: (_, v) => v == null ? "–" : v.toFixed(2) + " s"},
          line("left", "--left", {dash: [6, 3]}), line("sold", "--sold"), line("on sale", "--line", {width: 1})],
      }, data, drawing);
      return chart;
    },
  };
}

const figureRows = [
  ["Orders sent", (r) => whole(r.run.offered)],
  ["Accepted", (r) => whole(r.run.accepted)],
  ["Refused: sold out", (r) => whole(r.run.sold_out)],
  ["Errors", (r) => whole(r.run.errors)],
  ["Without a known outcome", (r) => whole(r.run.ambiguous)],
  ["Units on sale", (r) => whole(r.run.stock)],
  ["Units sold", (r) => whole(r.run.units_sold)],
  ["Units left", (r) => whole(r.run.available)],
  ["Units oversold", (r) => whole(r.run.oversold)],
  ["Orders lost", (r) => whole(r.run.lost)],
  ["Answers a second", (r) => whole(r.run.throughput)],
  ["Latency, median", (r) => millis(r.run.latency_ms.p50)],
  ["Latency, 99th percentile", (r) => millis(r.run.latency_ms.p99)],
  ["Diagram ready after", (r) => millis(r.diagram_ms)],
];

function figuresOf(sides) {
  const head = make("tr", "", make("th", "", "Figure"), ...sides.map((side) => make("th", "", side.name)));
  const rows = figureRows.map(([name, of]) => make("tr", "", make("td", "", name), ...sides.map((side) => make("td", "", of(side.figures())))));
  const box = make("div", "scroll", make("table", "figures", make("thead", "", head), make("tbody", "", ...rows)));
  return box;
}
