// Small helpers: elements, requests, numbers in words.

/** The element with an id. */
export const by = (id) => document.getElementById(id);

/** A new element: its name, properties, and what is inside (elements or text). */
export function make(name, properties = {}, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...inside);
  return element;
}

/** What the server answers; throws an Error with the server's own words. */
export async function ask(address, options = {}) {
  const answer = await fetch(address, { credentials: "same-origin", ...options });
  if (!answer.ok) {
    let words = `${answer.status} ${answer.statusText}`;
    try { words = (await answer.clone().json()).error || words; } catch { words = (await answer.text()) || words; }
    throw new Error(words);
  }
  return answer;
}

/** A number with about three digits, as tables show it. */
export function short(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1000 || size < 0.001 ? value.toExponential(2) : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 3);
}

/** A labelled slider; `changed` is called with its number. Gives the label, with `set`. */
export function slider(words, { min, max, step, value, show = short }, changed) {
  const input = make("input", { type: "range", min, max, step, value });
  const output = make("output", {}, show(value));
  input.addEventListener("input", () => { output.textContent = show(+input.value); changed(+input.value); });
  const label = make("label", {}, words, input, output);
  label.set = (number) => { input.value = number; output.textContent = show(number); };
  return label;
}

/** A labelled choice; `options` are [value, words]. */
export function choice(words, options, value, changed) {
  const select = make("select", {}, ...options.map(([key, text]) => make("option", { value: key }, text)));
  select.value = value;
  select.addEventListener("change", () => changed(select.value));
  return make("label", {}, words, select);
}

/** A button. */
export function button(words, pressed, properties = {}) {
  const made = make("button", { type: "button", ...properties }, words);
  made.addEventListener("click", () => pressed(made));
  return made;
}

const loaded = new Map();

/** A library of others, once: its file below vendor/, and the name that it goes by. */
export function library(file, name) {
  if (!loaded.has(file)) {
    loaded.set(file, new Promise((done, failed) => {
      const script = make("script", { src: `/static/vendor/${file}` });
      script.onload = () => done(window[name]);
      script.onerror = () => failed(new Error(`${name} cannot be loaded`));
      document.head.append(script);
    }));
  }
  return loaded.get(file);
}
