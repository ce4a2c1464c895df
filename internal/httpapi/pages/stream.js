// The live stock of all SKUs, by one event stream for all tabs of a browser. Over
// HTTP/1.1 a browser opens six connections to a server: six streams would block every
// order. Hidden tabs need no stream.
//
// Tabs receive news: {live, fresh, stock}. live is false while the stream is down. stock
// lists StockEvents, also those of SKUs that are gone. With fresh, the tab may have missed changes before this news.

// name is that of the worker, the lock and the channel. It must change with the messages
// between tabs: a new tab may meet the worker of an older version's tab.
const name = "stock-2";
// The server sends a heartbeat at least every 5 s. A stream that is silent for longer is dead.
const silence = 15_000;
// The worker sends news of each heartbeat and attempt. One that is silent for longer was
// ended by the browser.
const workerSilence = 60_000;
const pollSpacing = 2000;

// watch delivers news while the tab is visible. list reloads all SKUs: it is for browsers
// that cannot share a stream.
export function watch(deliver, list) {
  const ways = [shareWorker, electTab, () => void poll(deliver, list)];
  const next = () => {
    const way = ways.shift();
    let failed = false;
    const fail = () => {
      if (failed) return;
      failed = true;
      deliver({ live: false, fresh: true, stock: [] });
      next();
    };
    try {
      way(deliver, fail);
    } catch {
      fail(); // the browser lacks or forbids it
    }
  };
  next();
}

// shareWorker lets a SharedWorker have the stream.
function shareWorker(deliver, fail) {
  let port, timer, failed;
  const patience = () => {
    clearTimeout(timer);
    if (!document.hidden && !failed) timer = setTimeout(connect, workerSilence);
  };
  const show = () => {
    port.postMessage(!document.hidden);
    patience();
  };
  const connect = () => {
    port?.postMessage(false); // in case the worker still runs
    const worker = new SharedWorker("/assets/stream-worker.js", { type: "module", name });
    worker.onerror = () => {
      failed = true;
      patience();
      fail();
    };
    port = worker.port;
    port.onmessage = ({ data }) => {
      patience();
      deliver(data);
    };
    show();
  };
  connect();
  document.addEventListener("visibilitychange", show);
}

// electTab lets one visible tab have the stream: the one that holds a lock, which the
// browser gives to another when that tab closes.
function electTab(deliver, fail) {
  const { locks } = navigator;
  if (!locks) throw new Error("no Web Locks"); // as over plain HTTP
  const channel = new BroadcastChannel(name);
  const me = String(Math.random());
  let latest = null; // while this tab has the stream
  let hiding;
  channel.onmessage = ({ data: { ask, to, news } }) => {
    if (ask && latest) channel.postMessage({ to: ask, news: latest.all() });
    if (news && (!to || to === me) && !document.hidden) deliver(news);
  };
  const lead = () => {
    hiding?.abort();
    if (document.hidden) return;
    hiding = new AbortController();
    const { signal } = hiding;
    channel.postMessage({ ask: me });
    locks.request(name, { signal }, async () => {
      const mine = new Latest();
      latest = mine;
      await follow(signal, (news) => {
        mine.take(news);
        channel.postMessage({ news });
        deliver(news);
      });
      if (latest === mine) latest = null;
    }).catch(() => {
      if (!signal.aborted) fail();
    });
  };
  document.addEventListener("visibilitychange", lead);
  lead();
}

async function poll(deliver, list) {
  for (;;) {
    if (!document.hidden) deliver({ live: await list().then(() => true, () => false), stock: [] });
    await new Promise((wake) => setTimeout(wake, pollSpacing));
  }
}

// Latest is the stock by the news so far, for tabs that join.
export class Latest {
  #live = false;
  #stock = new Map();

  take({ live, fresh, stock }) {
    if (fresh) this.#stock.clear(); // the stream sends all SKUs again
    this.#live = live;
    stock.forEach((event) => this.#stock.set(event.sku, event));
  }

  all() {
    return { live: this.#live, fresh: this.#live, stock: [...this.#stock.values()] };
  }
}

// follow delivers the news of one stream, which it opens again when it ends, until signal
// aborts.
export async function follow(signal, deliver) {
  while (!signal.aborted) {
    const wait = await read(signal, deliver).catch(() => 0);
    if (signal.aborted) return;
    deliver({ live: false, stock: [] });
    await new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      // At random, so that not all browsers come back at once.
      const timer = setTimeout(wake, Math.max(wait, 1000 * (1 + Math.random())));
      signal.addEventListener("abort", wake);
    });
  }
}

// read reads one stream to its end. It returns the ms to wait before the next. Unlike
// an EventSource, it notices silence.
async function read(signal, deliver) {
  const attempt = new AbortController();
  const end = () => attempt.abort();
  signal.addEventListener("abort", end);
  let timer = setTimeout(end, silence);
  try {
    const response = await fetch("/v1/events", { cache: "no-store", signal: attempt.signal });
    if (!response.ok) return 1000 * (Number(response.headers.get("Retry-After")) || 0);
    deliver({ live: true, fresh: true, stock: [] });
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    for (let text = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return 0;
      clearTimeout(timer);
      timer = setTimeout(end, silence);
      const frames = (text + decoder.decode(value, { stream: true })).split("\n\n");
      text = frames.pop();
      const data = frames.map((frame) => /^event: (?:stock|gone)\n(?:.*\n)*data: (.*)$/.exec(frame)?.[1]).filter(Boolean);
      deliver({ live: true, stock: data.map((json) => JSON.parse(json)) });
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
    end();
  }
}
