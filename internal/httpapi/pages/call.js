// Calls of the API, bounded in time.

// ahead is the server's clock minus ours, in ms.
let ahead = 0;
export const now = () => Date.now() + ahead;

export const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

// newKey returns the idempotency key of one request, for all its tries.
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

// proves are the statuses of answers about the request itself: they prove that no earlier
// try under its key was applied. Others may be sent before the key is looked up, such as
// 401 and 429, or 400 by a replica with an older version.
const proves = [404, 409, 412, 422];

// request returns the {body, headers} of a 2xx answer, or throws the problem, with its
// slug and status. It retries a request without an answer, or with one that allows a
// retry, under the same key. A problem is a proof if no try was applied. It is unsure if
// there was a try without an answer, and no proof. Without either, a try may still have
// been applied: browsers themselves repeat a request whose connection broke.
// timeout is that of each try, in ms. With text, the body is not JSON.
export async function request(method, path, { token, key, headers: more, body, text, tries = 6, timeout = 20_000 } = {}) {
  let unsure = false;
  for (let attempt = 1; ; attempt++) {
    let response, answer;
    const abort = new AbortController(); // not AbortSignal.timeout, which browsers before 2022 lack
    const timer = setTimeout(() => abort.abort(), timeout);
    try {
      const headers = { Accept: text ? "text/plain" : "application/json, application/problem+json", ...more };
      if (token) headers.Authorization = "Bearer " + token;
      if (key) headers["Idempotency-Key"] = `"${key}"`;
      if (body) headers["Content-Type"] = "application/json";
      response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: abort.signal });
      answer = response.status === 204 ? null : response.ok && text ? await response.text() : await response.json();
      const date = Date.parse(response.headers.get("Date"));
      if (date) ahead = date + 500 - Date.now(); // Date has whole seconds
      if (response.ok) return { body: answer, headers: response.headers };
      answer.slug = (answer.type ?? "").replace("/errors/", "");
    } catch {
      answer = { slug: "unreachable" };
    } finally {
      clearTimeout(timer);
    }
    const status = response?.status ?? 0;
    unsure ||= answer.slug === "unreachable" || status === 504 || status === 500;
    const again = answer.slug === "unreachable" || status === 503 || status === 504 || answer.slug === "request-in-flight";
    if (!again || attempt === tries) {
      const proof = !again && proves.includes(status);
      throw Object.assign(answer, { status, proof, unsure: unsure && !proof });
    }
    const asked = Number(response?.headers.get("Retry-After")) * 1000 || 0;
    await sleep(Math.max(asked, 250 * 2 ** attempt) * (0.75 + Math.random() / 2));
  }
}
