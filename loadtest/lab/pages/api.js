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
export function follow(id, on) {
  const source = new EventSource("/api/activities/" + encodeURIComponent(id) + "/events");
  for (const event of Object.keys(on)) {
    if (event !== "lost") source.addEventListener(event, (e) => on[event](JSON.parse(e.data)));
  }
  for (const last of ["end", "stopped", "failed"]) source.addEventListener(last, () => source.close());
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) on.lost?.();
  });
  return () => source.close();
}
