// A storefront's use of the API, with the types that openapi-typescript makes of the
// contract. typescript_test.go compiles it, and runs it beside a replica in test mode
// (docs/api.md) that has one lamp.
import createClient from "openapi-fetch";
import type { components, paths } from "./flashsale.js";

type Order = components["schemas"]["Order"];
type OrderRequest = components["schemas"]["OrderRequest"];
type Problem = components["schemas"]["Problem"];
type StockEvent = components["schemas"]["StockEvent"];

declare const process: { env: Record<string, string | undefined> };

const shop = createClient<paths>({
  baseUrl: process.env["SHOP"] ?? "",
  headers: { Authorization: `Bearer ${process.env["TOKEN"]}` },
});

// order retries with the same key, as docs/api.md recommends.
async function order(key: string): Promise<Order | Problem> {
  for (let tries = 1; ; tries++) {
    const { data, error, response } = await shop.POST("/v1/orders", {
      params: { header: { "Idempotency-Key": key } },
      body: { sku: "lamp", quantity: 1 },
    });
    if (data) return data;
    if (tries === 5 || !mayRetry(error)) return error;
    const seconds = Number(response.headers.get("Retry-After") ?? 0.2);
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  }
}

function mayRetry(problem: Problem): boolean {
  // @ts-expect-error Types are those of the contract: this one is misspelled.
  if (problem.type === "/errors/soldout") throw new Error("a misspelled type");
  switch (problem.type) {
    case "/errors/request-in-flight":
      return true;
    case "/errors/sold-out":
      return false;
    default: // also of types that a later version adds
      return problem.status === 429 || problem.status >= 500;
  }
}

// awaitStock follows the SKU's stream until it shows that many units.
async function awaitStock(sku: string, units: number): Promise<void> {
  const { data, response } = await shop.GET("/v1/skus/{sku}/events", {
    params: { path: { sku } },
    parseAs: "stream",
    signal: AbortSignal.timeout(60_000),
  });
  if (!data) throw new Error(`the stream was answered ${response.status}`);
  let rest = "";
  for await (const text of data.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines.filter((line) => line.startsWith("data: "))) {
      const event: StockEvent = JSON.parse(line.slice("data: ".length));
      if (event.available === units) return;
    }
  }
  throw new Error(`the stream ended before ${units} units were available`);
}

function expect(what: string, got: unknown, want: unknown): void {
  if (got !== want) throw new Error(`${what} is ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

const first = await order("test-503-first");
if (!("id" in first)) throw new Error(`the order was refused: ${first.type}`);
expect("the order's status", first.status, "reserved");

const again = await order("test-503-first");
expect("the replay's id", "id" in again && again.id, first.id);

const refused = await order("second");
expect("the refusal", "type" in refused && refused.type, "/errors/sold-out");

await awaitStock("lamp", 0);

const { data: cancelled } = await shop.POST("/v1/orders/{id}/cancellation", { params: { path: { id: first.id } } });
expect("the cancelled order's status", cancelled?.status, "cancelled");

// @ts-expect-error Requests are strict: the contract has no colour.
const body: OrderRequest = { sku: "lamp", quantity: 1, colour: "red" };
const wrong = await shop.POST("/v1/orders", { params: { header: { "Idempotency-Key": "third" } }, body });
expect("the answer to an unknown field", wrong.error?.type, "/errors/malformed-request");
console.log("a typed storefront works");
