// A photograph or a radiograph: the values that were read, through a window of brightness and contrast.
import { ask, button, by, make, short, slider } from "./page.js";

const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };
const FARTHEST = 40; // pixels of the screen for one of the picture

/** Show the picture of a case; gives what takes it away. */
export async function showPicture(number, about, alive) {
  const answer = await ask(`/api/cases/${number}/pixels`);
  const facts = JSON.parse(answer.headers.get("X-Picture"));
  const values = new ARRAYS[facts.type](await answer.arrayBuffer());
  if (!alive()) return () => {};
  return new Picture(number, about, facts, values).start();
}

class Picture {
  constructor(number, about, facts, values) {
    Object.assign(this, { number, about, facts, values });
    this.drawn = new OffscreenCanvas(facts.width, facts.height);
    this.low = facts.low;
    this.high = facts.high;
    this.inverted = false;
  }

  start() {
    this.canvas = make("canvas", { className: "show", tabIndex: 0, "aria-label": "Picture: arrow keys move, plus and minus zoom, 0 fits" });
    this.readout = make("p", { className: "readout" });
    by("stage").replaceChildren(this.canvas, this.readout);
    this.controls();
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this.canvas);
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => this.drag(event));
    this.canvas.addEventListener("pointermove", (event) => this.say(event));
    this.canvas.addEventListener("dblclick", () => this.fit());
    this.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.window();
    this.fit();
    return () => this.watch.disconnect();
  }

  controls() {
    const { lowest, highest, type } = this.facts;
    const least = Math.min(lowest, this.low), most = Math.max(highest, this.high);
    const step = type === "float32" ? (most - least) / 500 || 1 : 1;
    const show = (value) => short(type === "float32" ? value : Math.round(value));
    const centre = () => (this.low + this.high) / 2;
    const width = () => this.high - this.low;
    const set = (middle, wide) => { this.low = middle - wide / 2; this.high = middle + wide / 2; this.window(); };
    this.level = slider("Brightness", { min: least, max: most, step, value: centre(), show }, (value) => set(value, width()));
    this.contrast = slider("Contrast", { min: 0, max: 1, step: 0.005, value: 0.5, show: () => `${show(this.low)} – ${show(this.high)}` },
      (value) => set(centre(), (most - least) * 2 ** (4 * (0.5 - value)) || 1));
    this.span = most - least || 1;
    this.set = set;
    const parts = [
      this.level, this.contrast,
      button("Invert", (made) => { this.inverted = !this.inverted; made.setAttribute("aria-pressed", this.inverted); this.window(); }, { "aria-pressed": "false" }),
      button("Reset", () => { this.low = this.facts.low; this.high = this.facts.high; this.window(); this.fit(); }),
      button("1:1", () => this.to(this.facts.reduced / devicePixelRatio)),
      button("Fit", () => this.fit()),
    ];
    const [wide, high] = this.facts.full;
    const said = `${wide} × ${high} px, ${type === "uint8" ? "8 bits" : type === "uint16" ? "16 bits" : "real numbers"}` +
      (this.facts.reduced > 1 ? `, shown at 1:${this.facts.reduced}` : "");
    parts.push(make("span", {}, said));
    if (this.about.contributions) {
      const image = make("img", { src: `/api/cases/${this.number}/contributions`, alt: "Contributions of the parts of this image" });
      parts.push(make("span", { className: "example" }, image, "Contributions to the answer: red for, blue against"));
    }
    by("controls").replaceChildren(...parts);
  }

  /** Draw the values through the window, once a frame at most. */
  window() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.render(); this.draw(); });
    const span = this.high - this.low;
    this.level.set((this.low + this.high) / 2);
    this.contrast.set(Math.min(1, Math.max(0, 0.5 - Math.log2(span / this.span) / 4)));
  }

  render() {
    const { width, height, channels, type } = this.facts;
    const { values, low, high, inverted } = this;
    const image = new ImageData(width, height);
    const pixels = image.data;
    const scale = 255 / Math.max(high - low, 1e-9);
    const shade = (value) => { const grey = (value - low) * scale; return inverted ? 255 - grey : grey; }; // clamped by the array
    const table = type === "float32" ? null : Uint8ClampedArray.from({ length: type === "uint8" ? 256 : 65536 }, (_, value) => shade(value));
    for (let at = 0, to = 0; to < pixels.length; to += 4) {
      for (let channel = 0; channel < 3; channel++) {
        const value = values[at + (channels === 3 ? channel : 0)];
        pixels[to + channel] = table ? table[value] : shade(value);
      }
      pixels[to + 3] = 255;
      at += channels;
    }
    this.drawn.getContext("2d").putImageData(image, 0, 0);
  }

  /** Where the picture lies: x, y and zoom, in CSS pixels. */
  fit() {
    const { clientWidth: wide, clientHeight: high } = this.canvas;
    this.scale = Math.min(wide / this.facts.width, high / this.facts.height) || 1;
    this.x = (wide - this.facts.width * this.scale) / 2;
    this.y = (high - this.facts.height * this.scale) / 2;
    this.draw();
  }

  to(scale) {
    this.zoom(scale / this.scale, this.canvas.clientWidth / 2, this.canvas.clientHeight / 2);
  }

  zoom(by_, x, y) {
    const scale = Math.min(FARTHEST, Math.max(0.02, this.scale * by_));
    this.x = x - (x - this.x) * scale / this.scale;
    this.y = y - (y - this.y) * scale / this.scale;
    this.scale = scale;
    this.draw();
  }

  draw() {
    const ratio = devicePixelRatio;
    const { canvas } = this;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const to = canvas.getContext("2d");
    to.imageSmoothingEnabled = this.scale * ratio < 2;
    to.imageSmoothingQuality = "high";
    to.setTransform(this.scale * ratio, 0, 0, this.scale * ratio, this.x * ratio, this.y * ratio);
    to.drawImage(this.drawn, 0, 0);
  }

  /** Drag moves; with the right button or Shift it is the window that moves, as radiology does. */
  drag(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const windows = event.button === 2 || event.shiftKey;
    let [x, y] = [event.clientX, event.clientY];
    const move = (now) => {
      const [dx, dy] = [now.clientX - x, now.clientY - y];
      [x, y] = [now.clientX, now.clientY];
      if (windows) {
        const wide = Math.max(1e-6, (this.high - this.low) * Math.exp(dx / 200));
        this.set((this.low + this.high) / 2 + dy * (this.high - this.low) / 300, wide);
      } else {
        this.x += dx;
        this.y += dy;
        this.draw();
      }
    };
    const end = () => { this.canvas.removeEventListener("pointermove", move); };
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("pointerup", end, { once: true });
    this.canvas.addEventListener("pointercancel", end, { once: true });
  }

  say(event) {
    const { width, height, channels, reduced } = this.facts;
    const x = Math.floor((event.offsetX - this.x) / this.scale), y = Math.floor((event.offsetY - this.y) / this.scale);
    const there = x >= 0 && y >= 0 && x < width && y < height;
    const at = (y * width + x) * channels;
    this.readout.textContent = there ? `x ${x * reduced}, y ${y * reduced}: ${[...this.values.slice(at, at + channels)].map(short).join(" ")}` : "";
  }

  key(event) {
    const step = 40;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    const { clientWidth: wide, clientHeight: high } = this.canvas;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) { this.x += moves[event.key][0]; this.y += moves[event.key][1]; this.draw(); }
    else if (event.key === "+" || event.key === "=") this.zoom(1.25, wide / 2, high / 2);
    else if (event.key === "-") this.zoom(0.8, wide / 2, high / 2);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
