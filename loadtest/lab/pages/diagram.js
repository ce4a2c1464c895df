// Sequence diagrams that people step through. No small library draws them: js-sequence-diagrams
// has not been kept since 2017 and needs two others, and Mermaid is megabytes and writes inline styles.

const diagramSize = {lane: 90, widest: 240, line: 18, pad: 8};

// drawDiagram draws a Diagram (diagram.go) in place of what is there. All steps are shown until
// one is chosen, by show(i), by its keys, its buttons or a click. show(-1) shows all again.
// update(diagram) draws more of it, while it happens.
export function drawDiagram(place, diagram, {title}) {
  let current = -1, width = 0, rows = [];
  const box = diagramNode("div", {class: "diagram-box scroll", tabindex: 0, role: "group", "aria-label": `${title}: the arrow keys go from step to step`});
  const now = diagramNode("p", {class: "diagram-now", role: "status"});
  const detail = diagramNode("ul", {class: "diagram-detail"});
  const legend = diagramNode("p", {class: "legend"});
  const list = diagramNode("ol", {});
  const buttons = Object.entries({
    First: () => show(0), Back: () => previous(), Next: () => next(), Last: () => show(diagram.steps.length - 1), All: () => show(-1),
  }).map(([name, act]) => {
    const button = diagramNode("button", {class: "plain", type: "button"}, name);
    button.addEventListener("click", act);
    return button;
  });
  const bar = diagramNode("div", {class: "diagram-bar"}, diagramNode("div", {class: "row"}, ...buttons), now, detail);
  const figure = diagramNode("figure", {class: "diagram"}, diagramNode("figcaption", {}, title), bar, box, legend,
    diagramNode("details", {}, diagramNode("summary", {}, "The steps as text"), list));
  place.replaceChildren(figure);

  const next = () => show(Math.min(current + 1, diagram.steps.length - 1));
  const previous = () => show(Math.max(current - 1, 0));
  const keys = {
    ArrowRight: next, ArrowDown: next, ArrowLeft: previous, ArrowUp: previous,
    Home: () => show(0), End: () => show(diagram.steps.length - 1), Escape: () => show(-1),
  };
  figure.addEventListener("keydown", (e) => {
    if (e.altKey || e.ctrlKey || e.metaKey || e.shiftKey || !keys[e.key]) return;
    e.preventDefault();
    keys[e.key]();
  });

  function show(i) {
    current = i;
    mark();
    rows[i]?.lastElementChild.scrollIntoView({block: "nearest", inline: "nearest"});
  }

  function mark() {
    rows.forEach((row, i) => {
      row.classList.toggle("now", i === current);
      row.classList.toggle("later", current >= 0 && i > current);
    });
    const step = diagram.steps[current];
    now.textContent = step ? `Step ${current + 1} of ${diagram.steps.length}: ${diagramSentence(diagram, step)}`
      : `${diagram.steps.length} steps. Go through them with the arrow keys or the buttons.`;
    detail.replaceChildren(...(step?.detail ?? []).map((line) => diagramNode("li", {}, line)));
  }

  function draw() {
    width = box.clientWidth;
    const svg = diagramPicture(diagram, width, getComputedStyle(figure).fontFamily);
    rows = [...svg.querySelectorAll(".step")];
    rows.forEach((row, i) => row.addEventListener("click", () => show(i)));
    box.replaceChildren(svg);
    mark();
  }

  function update(more) {
    diagram = more;
    legend.replaceChildren(...diagramLegend(diagram));
    list.replaceChildren(...diagram.steps.map((step) => diagramNode("li", {}, `${diagramTime(step)} ms: ${diagramSentence(diagram, step)}`)));
    draw();
  }

  update(diagram);
  new ResizeObserver(() => box.clientWidth !== width && draw()).observe(box);
  return {show, next, previous, update};
}

const diagramTime = (step) => (step.us / 1000).toLocaleString("en-US", {minimumFractionDigits: 2, maximumFractionDigits: 2});

function diagramSentence({lanes, steps}, step) {
  const who = lanes[step.lane].name + (step.to === step.lane ? "" : ` to ${lanes[step.to].name}`);
  const orders = new Set(steps.map((s) => s.order)).size > 1 && step.order ? ` (order ${step.order})` : "";
  return `${who}: ${step.text}${orders}${step.wrong ? " (without this, the unit would not have been sold twice)" : ""}`;
}

function diagramLegend({steps}) {
  const orders = [...new Set(steps.map((s) => s.order))].filter((order) => order > 0).sort();
  const parts = orders.map((order) => {
    const sample = diagramShape("svg", {width: 52, height: 18, "aria-hidden": true}, ...diagramArrow(9, 48, 9, {order, kind: "write"}));
    return diagramNode("span", {}, sample, ` order ${order} `);
  });
  if (steps.some((s) => s.wrong)) parts.push(diagramNode("span", {class: "diagram-wrong"}, "! without these steps, the unit would not have been sold twice"));
  return parts;
}

// diagramPicture is the SVG. Each step has a row of its own, so that no label meets another.
function diagramPicture({lanes, steps}, room, family) {
  const {line, pad} = diagramSize;
  const measure = document.createElement("canvas").getContext("2d");
  measure.font = `600 14px ${family}`;
  const time = 24 + Math.max(30, ...steps.map((step) => measure.measureText(diagramTime(step)).width));
  const column = Math.min(Math.max((room - time) / Math.max(lanes.length, 1), diagramSize.lane), diagramSize.widest);
  const x = (lane) => time + column * (lane + 0.5);
  const width = time + column * lanes.length;
  const svg = diagramShape("svg", {"aria-hidden": true});
  let y = 0;

  const names = lanes.map((lane) => diagramWrap(measure, lane.name, column - 20));
  const high = line * (1 + Math.max(0, ...names.map((name) => name.length))) + pad;
  const heads = () => {
    lanes.forEach((lane, i) => svg.append(diagramShape("g", {class: `lane ${lane.kind}`},
      diagramShape("rect", {x: x(i) - column / 2 + 4, y: y + 1, width: column - 8, height: high, rx: 6}),
      diagramText(x(i), y + line, "middle", [...names[i], lane.kind]))));
    y += high + 2;
  };

  heads();
  svg.append(diagramText(time - 10, y - pad, "end", ["ms"]));
  for (const step of steps) {
    const from = x(step.lane), to = x(step.to), alone = step.lane === step.to;
    const label = (step.wrong ? "! " : "") + step.text;
    const text = diagramWrap(measure, label, Math.min(Math.max(alone ? column : Math.abs(to - from) - 40, 170), width - time - 24));
    const half = Math.max(...text.map((part) => measure.measureText(part).width)) / 2 + 4;
    const under = y + pad + text.length * line; // the text
    const at = alone ? y + pad / 2 + text.length * line / 2 + 4 : under + 10;
    const low = alone ? under + pad : at + 14;
    let middle = alone ? from + 14 + half : (from + to) / 2;
    if (alone && middle + half > width) middle = from - 14 - half;
    middle = Math.min(Math.max(middle, time + half), width - half);
    svg.append(diagramShape("g", {class: `step ${step.kind}${step.wrong ? " wrong" : ""}`},
      diagramShape("rect", {x: 1, y: y + 1, width: width - 2, height: low - y - 2, rx: 4}),
      ...lanes.map((_, i) => diagramShape("line", {class: "life", x1: x(i), x2: x(i), y1: y, y2: low})),
      ...diagramArrow(from, to, at, step),
      diagramText(time - 10, at + 5, "end", [diagramTime(step)]),
      diagramText(middle, y + pad + line - 5, "middle", text)));
    y = low;
  }
  heads();
  for (const [name, value] of Object.entries({width, height: y, viewBox: `0 0 ${width} ${y}`})) svg.setAttribute(name, value);
  return svg;
}

// diagramArrow is the arrow of a step, or a mark on its lane, with the number of its order. A
// step that was refused ends in a cross.
function diagramArrow(from, to, y, {order, kind}) {
  const way = Math.sign(to - from), end = to - 2 * way, back = end - 9 * way;
  const cross = `M${end - 10 * way} ${y - 5} l${10 * way} 10 m0 -10 l${-10 * way} 10`;
  return [
    way && diagramShape("line", {class: `arrow order${order}`, x1: from, x2: kind === "read" || kind === "refuse" ? end : back, y1: y, y2: y}),
    way && diagramShape("path", {class: `head order${order}`, d: kind === "refuse" ? cross : `M${back} ${y - 5} L${end} ${y} L${back} ${y + 5}${kind === "read" ? "" : "z"}`}),
    diagramShape("circle", {class: `mark order${order}`, cx: from, cy: y, r: order ? 8 : 4}),
    order && diagramText(from, y + 4, "middle", [String(order)], "number"),
  ].filter(Boolean);
}

function diagramText(x, y, anchor, lines, kind = "words") {
  return diagramShape("text", {class: kind, "text-anchor": anchor}, ...lines.map((line, i) => diagramShape("tspan", {x, y: y + i * diagramSize.line}, line)));
}

// diagramWrap breaks a text into lines, and words that are wider than a line into parts.
function diagramWrap(measure, text, width) {
  const lines = [];
  const fits = (part) => measure.measureText(part).width <= width;
  let line = "";
  for (let word of text.split(" ")) {
    if (line && fits(`${line} ${word}`)) {
      line += ` ${word}`;
      continue;
    }
    if (line) lines.push(line);
    while (!fits(word) && word.length > 1) {
      let n = word.length - 1;
      while (n > 1 && !fits(word.slice(0, n))) n--;
      lines.push(word.slice(0, n));
      word = word.slice(n);
    }
    line = word;
  }
  return [...lines, line];
}

function diagramNode(name, attributes, ...children) {
  return diagramFill(document.createElement(name), attributes, children);
}

function diagramShape(name, attributes, ...children) {
  return diagramFill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function diagramFill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
