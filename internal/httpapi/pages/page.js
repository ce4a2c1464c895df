// What the service's pages share: elements, messages, and this tab's storage.

export const find = (selector, within = document) => within.querySelector(selector);

export const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

// say shows a message, also to screen readers.
export function say(text, bad = false) {
  const message = document.createElement("p");
  message.classList.toggle("bad", bad);
  const close = document.createElement("button");
  close.textContent = "×";
  close.setAttribute("aria-label", "Dismiss");
  close.onclick = () => message.remove();
  message.append(text, close);
  const all = find("#messages");
  all.append(message);
  while (all.children.length > 2) all.firstChild.remove();
  setTimeout(() => message.remove(), bad ? 15_000 : 8_000);
}

// openStore returns this tab's storage, or memory where the browser forbids it.
export function openStore() {
  try {
    sessionStorage.setItem("", "");
    return sessionStorage;
  } catch {
    const items = new Map();
    return { getItem: (key) => items.get(key) ?? null, setItem: (key, value) => items.set(key, value), removeItem: (key) => items.delete(key) };
  }
}
