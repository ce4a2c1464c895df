// The page lessons.html: the list of lessons, or the one that the address names (#no-lock).

import {call, follow, Refused} from "./api.js";
import {drawDiagram} from "./diagram.js";

const place = document.querySelector("#lesson");
const heading = document.querySelector("h1");
let leave = () => {}; // ends reading the journal of what is shown

function node(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// explain says what a failed call means, and what to do.
function explain(error) {
  if (!(error instanceof Refused)) return "The lab has ended; start it again with make lab.";
  return error.message + (error.running ? ". Stop it on its own page, or wait until it has ended." : "");
}

const missing = ({missing}) => missing.map((text) => node("p", {class: "missing"}, text));

// rendered is a text of docs/lessons, which the lab has rendered. What may be wide scrolls.
function rendered(html) {
  const {body} = new DOMParser().parseFromString(html, "text/html");
  for (const wide of body.querySelectorAll("pre, table")) {
    const box = wide.matches("pre") ? wide : node("div", {});
    if (box !== wide) {
      wide.replaceWith(box);
      box.append(wide);
    }
    const label = box !== wide ? "Table" : wide.previousElementSibling?.textContent ?? "Picture";
    for (const [name, value] of Object.entries({class: "scroll", tabindex: 0, role: "region", "aria-label": label})) box.setAttribute(name, value);
  }
  return [...body.childNodes];
}

async function showList() {
  const lessons = await call("GET", "/api/lessons");
  if (location.hash.slice(1)) return;
  heading.replaceChildren("Lessons");
  document.title = "Lessons - flashsale race lab";
  place.replaceChildren(
    node("p", {class: "lead"}, "Each lesson is a race that sells too much, or breaks something else, and then the same race with its cure, on real servers."),
    node("ol", {class: "grid lesson-list"}, ...lessons.map((l, i) => node("li", {class: "card"},
      node("a", {href: "#" + l.name}, `${i + 1}. ${l.title}`), node("p", {lang: "zh-CN"}, l.chinese),
      node("p", {}, `${l.name} · ${l.servers.join(", ")}`), ...missing(l)))));
}

async function showLesson(name) {
  const [lessons, lesson, activities] = await Promise.all(
    [call("GET", "/api/lessons"), call("GET", "/api/lessons/" + encodeURIComponent(name)), call("GET", "/api/activities")]);
  if (location.hash.slice(1) !== name) return; // another one was chosen meanwhile
  const at = lessons.findIndex((l) => l.name === name);
  heading.replaceChildren(lesson.title, node("span", {lang: "zh-CN"}, lesson.chinese));
  document.title = `${lesson.title} - flashsale race lab`;
  const link = (l, text) => l ? [node("a", {href: "#" + l.name}, text)] : [];
  const play = node("button", {type: "button"}, "Play"), stop = node("button", {type: "button", class: "plain"}, "Stop");
  const note = node("p", {role: "status"}), plays = node("div", {class: "plays"});
  stop.hidden = true;
  play.disabled = lesson.missing.length > 0;
  place.replaceChildren(
    node("nav", {"aria-label": "Lessons"}, node("a", {href: "#"}, "All lessons"),
      ...link(lessons[at - 1], "Previous lesson"), ...link(lessons[at + 1], "Next lesson")),
    ...lesson.sections.map(({title, html}) => node("section", {class: "lesson-text"}, ...(title ? [node("h2", {}, title)] : []), ...rendered(html))),
    node("section", {}, node("h2", {}, "Play it"), node("p", {}, `${lesson.shows} Needs ${lesson.servers.join(", ")}.`), ...missing(lesson),
      node("div", {class: "row lesson-play"}, play, stop, note), plays),
    node("section", {}, node("h2", {}, "Questions"), node("ol", {class: "questions"}, ...lesson.questions.map(({html, answer}) => node("li", {}, ...rendered(html),
      node("details", {}, node("summary", {}, "Answer"), ...rendered(answer)))))));

  const follows = (id) => {
    leave();
    leave = watch(id, {play, stop, note, plays, servers: lesson.servers});
  };
  play.addEventListener("click", async () => {
    try {
      follows((await call("POST", `/api/lessons/${name}/plays`)).id);
    } catch (e) {
      note.textContent = explain(e);
    }
  });
  const last = activities.findLast((a) => a.kind === "lesson" && a.title === name);
  if (last) follows(last.id);
}

// watch shows a lesson while it is played, from the beginning of its journal.
function watch(id, {play, stop, note, plays, servers}) {
  const variants = [];
  const over = (text) => {
    note.textContent = text;
    play.hidden = false;
    play.textContent = "Play again";
    stop.hidden = true;
  };
  plays.replaceChildren();
  note.textContent = `Starting ${servers.join(" and ")}...`;
  play.hidden = true;
  stop.hidden = false;
  stop.onclick = () => call("DELETE", "/api/activities/" + id).catch((e) => { note.textContent = explain(e); });
  return follow(id, {
    variant({variant, title, breaks}) {
      variants[variant] = {title: `${variant + 1}. ${breaks ? "Broken" : "Cured"}: ${title}`, diagram: node("div", {}), audit: node("div", {})};
      plays.append(node("div", {class: breaks ? "broken" : "cured"}, variants[variant].diagram, variants[variant].audit));
    },
    diagram({variant, diagram}) {
      const v = variants[variant];
      note.textContent = `Plays ${v.title}`;
      if (v.drawn) v.drawn.update(diagram);
      else v.drawn = drawDiagram(v.diagram, diagram, {title: v.title});
    },
    result({variant, ok, expected, text, audit}) {
      variants[variant].audit.append(
        node("p", {class: "verdict " + (ok ? "exact" : "oversold")}, `${ok ? "✓" : "✗"} ${text}${expected ? "" : " (the lesson expects another result: play it again)"}`),
        node("ul", {}, ...audit.map((line) => node("li", {}, line))));
    },
    end: () => over("Played. Step through a diagram with the arrow keys."),
    stopped: () => over("Stopped."),
    failed: ({message}) => over(message),
    lost: () => over("The lab has ended; start it again with make lab."),
  });
}

async function show() {
  leave();
  const name = location.hash.slice(1);
  try {
    await (name ? showLesson(name) : showList());
  } catch (e) {
    place.replaceChildren(node("p", {role: "alert"}, explain(e)), node("a", {href: "#"}, "All lessons"));
  }
}

document.querySelector("#skip").addEventListener("click", (e) => {
  e.preventDefault();
  place.focus();
});
addEventListener("hashchange", async () => {
  await show();
  scrollTo(0, 0);
  place.focus({preventScroll: true});
});
show();
