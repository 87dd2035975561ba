// The page: what is there, which case is looked at, and what the reader says of it.
import { List } from "./list.js";
import { ask, by, make, short } from "./page.js";
import { showPicture } from "./picture.js";
import { showSlide } from "./slide.js";
import { showVolume } from "./volume.js";

const SHOWN = { picture: showPicture, slide: showSlide, volume: showVolume };
const state = { cases: [], places: [], current: -1, leave: () => {}, saving: null, saved: Promise.resolve(true) };
const list = new List((number) => open(number, true));

/** Look at a case. */
async function open(number, move = false) {
  if (!state.cases[number]) return;
  // What could not be saved keeps the case open once; who goes on after that does so knowingly.
  if (!(await save()) && state.warned !== state.current) { state.warned = state.current; return; }
  const one = state.cases[number];
  state.leave();
  state.leave = () => {};
  state.current = number;
  delete document.body.dataset.ready;
  if (one.place !== Number(by("place").value)) choosePlace(one.place);
  history.replaceState(null, "", `/#case=${number}`);
  list.select(number);
  document.body.classList.add("looking");
  by("name").textContent = one.name;
  by("name").title = one.name;
  by("facts").replaceChildren(...facts(one));
  by("controls").replaceChildren();
  by("strip").hidden = true;
  by("notes").hidden = true;
  verdict(one);
  message("…");
  const alive = () => state.current === number;
  try {
    const about = await (await ask(`/api/cases/${number}`)).json();
    if (!alive()) return;
    notes(about.notes || []);
    if (one.kind === "none" || about.error) { message(about.error ? `It ${about.error}` : about.missing); return; }
    const leave = await SHOWN[one.kind](number, about, alive);
    if (alive()) { state.leave = leave; document.body.dataset.ready ??= number; } else leave();
  } catch (error) {
    if (alive()) message(`It cannot be shown: ${error.message}`);
  }
  if (move && alive() && matchMedia("(max-width: 760px)").matches) by("back").focus();
}

function message(words) {
  by("stage").replaceChildren(make("p", { id: "message" }, words));
}

function notes(lines) {
  by("notes").replaceChildren(...lines.map((line) => make("li", {}, line)));
  by("notes").hidden = !lines.length;
}

function facts(one) {
  const cells = one.cells || {};
  const found = [];
  const add = (words, value, name = "") => {
    if (value !== "" && value !== null && value !== undefined) found.push(make("div", {}, make("dt", {}, words), make("dd", { className: name }, short(value))));
  };
  add("true", cells.target);
  add("model says", one.says, one.wrong ? "wrong" : "");
  add("p", one.sure);
  if (one.far) add("", "out of distribution", "wrong");
  return found;
}

function choosePlace(number) {
  by("place").value = number;
  const place = state.places[number];
  const mine = state.cases.map((one, at) => [at, one]).filter(([, one]) => one.place === number);
  by("report").hidden = !place.report;
  by("report").href = `/report/${number}`;
  list.show(mine, place.columns);
}

// ---- reviews

function verdict(one) {
  by("review").hidden = false;
  by("review").elements.verdict.value = one.verdict;
  by("note").value = one.note;
  by("asked").textContent = one.says ? "Verdict on the model's answer" : "Verdict";
  by("saved").textContent = "";
}

/** Keep what the reader says, where it has changed; gives false where it could not be kept. */
function save() {
  const number = state.current;
  const given = { verdict: by("review").elements.verdict.value, note: by("note").value };
  return state.saved = state.saved.then(() => keep(number, given)); // one after the other: the last one stays
}

async function keep(number, given) {
  const one = state.cases[number];
  if (!one) return true;
  if (given.verdict === one.verdict && given.note === one.note) return true;
  const said = by("saved");
  said.className = "";
  said.textContent = "saving";
  try {
    const answer = await ask(`/api/cases/${number}/review`, { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given), keepalive: true });
    Object.assign(one, await answer.json());
    if (state.current === number) said.textContent = "saved";
    list.draw();
    return true;
  } catch (error) {
    said.className = "failed";
    said.textContent = `not saved: ${error.message}`;
    return false;
  }
}

window.addEventListener("pagehide", save);
by("review").addEventListener("submit", (event) => event.preventDefault());
by("review").addEventListener("change", save);
by("note").addEventListener("input", () => { clearTimeout(state.saving); state.saving = setTimeout(save, 800); });

// ---- keys and steps

const step = (by_) => { const next = list.beside(by_); if (next >= 0) open(next); };
by("previous").addEventListener("click", () => step(-1));
by("next").addEventListener("click", () => step(1));
by("back").addEventListener("click", () => {
  document.body.classList.remove("looking");
  document.querySelector('#table tr[tabindex="0"]')?.focus();
});
by("place").addEventListener("change", () => choosePlace(Number(by("place").value)));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=radio]):not([type=range]), textarea, select")) return;
  const verdicts = { 1: "agree", 2: "disagree", 3: "unsure", 0: "" };
  if (event.key === "[" || event.key === "]") step(event.key === "[" ? -1 : 1);
  else if (event.key in verdicts && state.current >= 0) { by("review").elements.verdict.value = verdicts[event.key]; save(); }
  else return;
  event.preventDefault();
});

// ---- the beginning

const asked = new URLSearchParams(location.hash.slice(1)).get("case");
history.replaceState(null, "", `/${location.hash}`); // the token is in a cookie now, and needs not stay in the address
try {
  const found = await (await ask("/api/cases")).json();
  state.cases = found.cases;
  state.places = found.places;
  by("place").replaceChildren(...found.places.map((place, number) => make("option", { value: number }, place.name)));
  choosePlace(0);
  if (found.notes.length) notes(found.notes);
  if (asked !== null) await open(Number(asked));
  document.body.dataset.loaded = "yes";
} catch (error) {
  message(`The cases cannot be read: ${error.message}`);
}
