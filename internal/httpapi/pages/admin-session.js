// The operator's token, in memory only, and calls with it.

import { newKey, request } from "./call.js";
import { find, setText } from "./page.js";

let token = "";
let waiting = []; // dialogs that were open when the token was no longer accepted
export const signedIn = () => token !== "";

// call is request with an id, which the replica's log has, and with the token where it is
// needed. A token that is no longer accepted brings the form back.
export async function call(method, path, options) {
  const used = path.startsWith("/v1/admin/") ? token : "";
  const id = newKey();
  try {
    return await request(method, path, { tries: 3, ...options, token: used, headers: { ...options?.headers, "X-Request-Id": id } });
  } catch (problem) {
    Object.assign(problem, { id, read: method === "GET" });
    if (used && used === token && refused(problem)) leave("The token is no longer accepted. Sign in again: what you have typed is kept. " + explain(problem));
    throw problem;
  }
}

const refused = (problem) => problem.slug === "unauthorized" || problem.slug === "forbidden";

// explain says what went wrong, with the request's id.
export function explain(problem) {
  const text = problem.slug === "unreachable"
    ? "The service does not answer. " + (problem.unsure && !problem.read ? "The request may have been applied." : "")
    : problem.detail || problem.title || `The service answered ${problem.status}.`;
  return `${text.trim()} (request ${problem.id})`;
}

function leave(why) {
  token = "";
  waiting = [...document.querySelectorAll("dialog[open]")];
  waiting.forEach((dialog) => dialog.close());
  show();
  fail(why);
}

function show() {
  find("#enter").hidden = signedIn();
  for (const id of ["#work", "#who", "#live"]) find(id).hidden = !signedIn();
}

function fail(text) {
  setText(find("#token-error"), text);
  find("#token").setAttribute("aria-invalid", Boolean(text));
  if (text) find("#token").focus();
}

// start shows the form, and calls ready each time that a token is accepted.
export function start(ready) {
  const button = find("#enter button");
  let busy = false;
  find("#enter").onsubmit = async (event) => {
    event.preventDefault();
    if (busy) return;
    const given = find("#token").value.trim();
    if (!/^[ -~]+$/.test(given)) {
      fail(given ? "A browser can send only tokens of printable ASCII characters." : "Enter the admin token.");
      return;
    }
    busy = true;
    button.setAttribute("aria-disabled", true);
    fail("");
    // Any call of administrators will do. One that is unavailable was let in.
    const options = { token: given, tries: 1, headers: { "X-Request-Id": newKey() } };
    const problem = await request("GET", "/v1/admin/late-payments?limit=1", options).then(() => null, (problem) => problem);
    busy = false;
    button.setAttribute("aria-disabled", false);
    if (problem && problem.slug !== "unavailable") {
      problem.id = options.headers["X-Request-Id"];
      fail((refused(problem) ? "This token is not accepted. " : "") + explain(problem));
      return;
    }
    token = given;
    find("#token").value = "";
    show();
    find("#main").focus();
    ready();
    waiting.forEach((dialog) => dialog.showModal());
    waiting = [];
  };
  // A reload forgets the token and everything on the page.
  find("#leave").onclick = () => location.reload();
  find("#token").focus();
}
