// Forms in dialogs, with messages beside their fields.

import { explain, signedIn } from "./admin-session.js";
import { find, say, setText } from "./page.js";

// invalid is a problem that the page itself found in a field.
export const invalid = (field, message) => ({ errors: [{ field, message }] });

// once runs act when a button is pressed, but not again before it has ended.
export function once(button, act) {
  let busy = false;
  button.onclick = async () => {
    if (busy) return;
    busy = true;
    button.setAttribute("aria-disabled", true); // keeps the focus, unlike disabled
    await act();
    button.setAttribute("aria-disabled", false);
    busy = false;
  };
}

// prepare makes a dialog's form call save when it is submitted, once at a time. The
// dialog closes when save has returned, and shows what it throws. prepare returns a
// function that opens the dialog, which does nothing while a save is under way.
export function prepare(dialog, save) {
  const form = find("form", dialog);
  const button = find("button:not([type])", form);
  let busy = false;
  for (const input of form.querySelectorAll("input, select")) {
    const beside = document.createElement("span");
    beside.className = "error";
    beside.id = `${dialog.id}-${input.name}`;
    input.closest("label").after(beside);
    input.setAttribute("aria-describedby", beside.id);
  }
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    button.setAttribute("aria-disabled", true);
    tell(form);
    try {
      await save(form);
      dialog.close();
    } catch (problem) {
      if (dialog.open) tell(form, problem);
      else if (signedIn()) say(explain(problem), true); // the key Escape has closed it
    }
    button.setAttribute("aria-disabled", false);
    busy = false;
  };
  const cancel = (event) => {
    event.preventDefault();
    if (!busy) dialog.close();
  };
  dialog.oncancel = cancel;
  form.elements.cancel.onclick = cancel;
  return (fill) => {
    if (busy || dialog.open) return;
    tell(form);
    fill(form);
    dialog.showModal();
  };
}

// tell shows a problem: beside the fields that it names, and otherwise below them.
export function tell(form, problem) {
  const errors = new Map((problem?.errors ?? []).map(({ field, message }) => [field, message]));
  let first;
  for (const input of form.querySelectorAll("input, select")) {
    const message = errors.get(input.name) ?? "";
    setText(find("#" + input.getAttribute("aria-describedby")), message);
    input.setAttribute("aria-invalid", Boolean(message));
    if (message) first ??= input;
    errors.delete(input.name);
  }
  const others = [...errors].map(([field, message]) => `${field} ${message}`).join("; ");
  const text = problem?.text ?? (others ? `${others} (request ${problem.id})` : problem && !first ? explain(problem) : "");
  setText(find(".error[role=alert]", form), text);
  first?.focus();
}

// whole is the number in a field, or undefined if the field is empty.
export function whole(input) {
  const text = input.value.trim();
  if (text === "") return undefined;
  if (!/^-?\d+(\.\d+)?$/.test(text)) throw invalid(input.name, "must be a whole number");
  return Number(text); // the service judges it
}
