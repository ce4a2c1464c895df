// Calls of the lab, for its pages.

// Refused is an answer of the lab that refuses something. field names the wrong setting, and
// running is what has to end first.
export class Refused extends Error {
  constructor({message, field, problems, running}) {
    super(message);
    Object.assign(this, {field, problems, running});
  }
}

// call sends JSON, and returns the JSON of the answer. It throws Refused, or another
// error if the lab cannot be reached.
export async function call(method, path, body) {
  const answer = await fetch(path, {method, body: body && JSON.stringify(body), headers: body && {"Content-Type": "application/json"}});
  if (answer.status === 204) return null;
  const value = await answer.json();
  if (!answer.ok) throw new Refused(value);
  return value;
}

// follow reads the journal of an activity from its beginning: on[event](data) for each
// message. The last one is "end", "stopped" or "failed". lost() is called if the lab is gone.
// It returns a function that ends reading.
//
// A hidden tab does not read: a browser makes six connections to a server, so the streams of
// six tabs would block every call.
export function follow(id, on) {
  let source;
  let had = -1; // the id of the last message
  const open = () => {
    source?.close();
    if (document.hidden) return;
    source = new EventSource("/api/activities/" + encodeURIComponent(id) + "/events");
    for (const event of Object.keys(on)) {
      if (event !== "lost") source.addEventListener(event, (e) => take(event, e));
    }
    for (const last of ["end", "stopped", "failed"]) source.addEventListener(last, leave);
    source.addEventListener("error", ({target}) => {
      if (target.readyState === EventSource.CLOSED) on.lost?.();
    });
  };
  const take = (event, {lastEventId, data}) => {
    if (Number(lastEventId) <= had) return; // a source that was opened again has all from the beginning
    had = Number(lastEventId);
    on[event](JSON.parse(data));
  };
  const leave = () => {
    document.removeEventListener("visibilitychange", open);
    source?.close();
  };
  document.addEventListener("visibilitychange", open);
  open();
  return leave;
}
