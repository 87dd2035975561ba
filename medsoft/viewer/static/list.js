// The list of cases: sorted, filtered, and walked through with the keyboard.
import { by, make, short } from "./page.js";

const AT_ONCE = 300; // rows that are drawn; more on request
const MARKS = { agree: "✓", disagree: "✗", unsure: "?" };

export class List {
  /** `choose` is called with the number of a case. */
  constructor(choose) {
    this.choose = choose;
    this.filters = new Set();
    this.order = null; // column and direction; null: that of the table
    this.drawn = AT_ONCE;
    this.selected = -1;
    by("search").addEventListener("input", () => this.draw());
    by("limit").addEventListener("input", () => this.draw());
    for (const chip of document.querySelectorAll(".chips button")) {
      chip.addEventListener("click", () => {
        const name = chip.dataset.filter;
        this.filters[this.filters.has(name) ? "delete" : "add"](name);
        chip.setAttribute("aria-pressed", this.filters.has(name));
        this.draw();
      });
    }
    by("table").addEventListener("keydown", (event) => this.walk(event));
  }

  /** Show the cases of a place: [number, case] each, and its columns. */
  show(cases, columns) {
    this.cases = cases;
    this.columns = columns.length ? columns : [{ name: "kind", title: "kind", kind: "text" }];
    this.order = null;
    this.drawn = AT_ONCE;
    this.heads();
    this.draw();
  }

  heads() {
    const columns = [{ name: "name", title: "case", kind: "text" }, ...this.columns];
    const cells = columns.map(({ name, title, kind }) => {
      const press = make("button", { type: "button", title: `Sort by ${title}` }, title);
      press.addEventListener("click", () => {
        const down = this.order?.name === name && !this.order.down;
        this.order = this.order?.name === name && this.order.down ? null : { name, down, kind };
        this.draw();
      });
      const cell = make("th", { scope: "col", className: kind }, press);
      cell.dataset.name = name;
      return cell;
    });
    by("table").tHead.replaceChildren(make("tr", {}, ...cells));
  }

  value(one, name) {
    if (name === "name" || name === "kind") return one[name];
    return one.cells?.[name] ?? null;
  }

  is(one, filter) {
    if (filter === "wrong") return one.wrong === true;
    if (filter === "unsure") return typeof one.sure === "number" && one.sure < Number(by("limit").value);
    if (filter === "far") return one.far === true;
    return !one.verdict;
  }

  /** The cases that pass the filters, in order. */
  wanted() {
    const words = by("search").value.trim().toLowerCase();
    const found = this.cases.filter(([, one]) =>
      [...this.filters].every((filter) => this.is(one, filter)) &&
      (!words || [one.name, one.note, ...Object.values(one.cells || {})].join(" ").toLowerCase().includes(words)));
    if (this.order) {
      const { name, down, kind } = this.order;
      const compare = kind === "number" ? (a, b) => a - b : (a, b) => String(a).localeCompare(String(b), undefined, { numeric: true });
      found.sort(([, a], [, b]) => {
        const [one, other] = [this.value(a, name), this.value(b, name)];
        if (one === null || other === null) return (one === null) - (other === null); // unknown ones come last
        return down ? compare(other, one) : compare(one, other);
      });
    }
    return found;
  }

  draw() {
    const found = this.wanted();
    this.numbers = found.map(([number]) => number);
    for (const head of by("table").tHead.rows[0].cells) {
      const here = this.order?.name === head.dataset.name;
      head.setAttribute("aria-sort", here ? (this.order.down ? "descending" : "ascending") : "none");
    }
    for (const chip of document.querySelectorAll(".chips button")) {
      const name = chip.dataset.filter;
      chip.querySelector("b").textContent = this.cases.filter(([, one]) => this.is(one, name)).length;
      const knows = { wrong: (one) => typeof one.wrong === "boolean", unsure: (one) => typeof one.sure === "number", far: (one) => typeof one.far === "boolean" }[name];
      chip.hidden = Boolean(knows) && !this.cases.some(([, one]) => knows(one));
    }
    by("limit-of").hidden = !this.filters.has("unsure");
    const rows = found.slice(0, this.drawn).map(([number, one]) => this.row(number, one));
    by("table").tBodies[0].replaceChildren(...rows);
    document.querySelector(".more")?.remove();
    if (found.length > this.drawn) {
      const more = make("button", { type: "button", className: "more" }, `Show ${Math.min(AT_ONCE, found.length - this.drawn)} more`);
      more.addEventListener("click", () => { this.drawn += AT_ONCE; this.draw(); });
      by("table").after(more);
    }
    by("count").textContent = `${found.length} of ${this.cases.length} cases`;
    this.select(this.selected, false);
  }

  row(number, one) {
    const mark = make("span", { className: `mark ${one.verdict}`, title: one.verdict }, MARKS[one.verdict] || (one.note ? "✎" : ""));
    if (one.verdict) mark.append(make("span", { className: "hidden" }, one.verdict));
    const cells = [make("td", { title: one.name }, mark, one.name)];
    for (const { name, kind } of this.columns) {
      const value = this.value(one, name);
      const bad = name === "says" && one.wrong === true;
      const text = kind === "number" ? short(value) : value ?? "";
      const cell = make("td", { className: `${kind}${bad ? " wrong" : ""}`, title: String(value ?? "") }, bad ? `✗ ${text}` : text);
      if (bad) cell.append(make("span", { className: "hidden" }, " wrong"));
      cells.push(cell);
    }
    const row = make("tr", { tabIndex: -1 }, ...cells);
    row.dataset.number = number;
    row.addEventListener("click", () => this.choose(number));
    return row;
  }

  /** Mark a case as the one that is looked at; `reveal` it where it is out of sight. */
  select(number, reveal = true) {
    this.selected = number;
    const rows = [...by("table").tBodies[0].rows];
    for (const row of rows) {
      const here = Number(row.dataset.number) === number;
      row.setAttribute("aria-selected", here);
      row.tabIndex = here ? 0 : -1;
      if (here && reveal) row.scrollIntoView({ block: "nearest" });
    }
    if (rows.length && !rows.some((row) => row.tabIndex === 0)) rows[0].tabIndex = 0;
  }

  /** The case so many places further in the list; -1 where there is none. */
  beside(step) {
    const at = this.numbers.indexOf(this.selected);
    return at < 0 ? this.numbers[0] ?? -1 : this.numbers[at + step] ?? -1;
  }

  walk(event) {
    const row = event.target.closest("tbody tr");
    if (!row) return;
    const to = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling, Home: row.parentElement.firstElementChild, End: row.parentElement.lastElementChild }[event.key];
    if (to) {
      for (const other of row.parentElement.rows) other.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
      event.preventDefault();
    } else if (event.key === "Enter" || event.key === " ") {
      this.choose(Number(row.dataset.number));
      event.preventDefault();
    }
  }
}
