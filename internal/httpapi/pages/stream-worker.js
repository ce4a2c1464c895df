// The SharedWorker that has the one stream of all tabs, while any tab is visible.

import { Latest, follow } from "./stream.js";

// linger is how long the stream stays open without a visible tab: another tab may just
// be about to be shown.
const linger = 5000;

const visible = new Set(); // the ports of tabs
let stream = null; // its AbortController
let latest, lingering;

function show(port) {
  visible.add(port);
  clearTimeout(lingering);
  if (stream) {
    port.postMessage(latest.all());
    return;
  }
  stream = new AbortController();
  latest = new Latest();
  follow(stream.signal, (news) => {
    latest.take(news);
    visible.forEach((port) => port.postMessage(news));
  });
}

function hide(port) {
  if (!visible.delete(port) || visible.size > 0) return;
  lingering = setTimeout(() => {
    stream.abort();
    stream = null;
  }, linger);
}

self.onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => (data ? show : hide)(port);
  port.onclose = () => hide(port); // the tab was closed; not all browsers have this event
};
