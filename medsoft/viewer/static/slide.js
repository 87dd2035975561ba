// A slide: deep zoom by OpenSeadragon; over it contributions, tiles and regions; a scale bar and the tiles that add most.
import { button, by, choice, library, make, short, slider } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#ffd95a", "#6fd3ff", "#c792ff", "#8ee07b", "#ff9f6b", "#f48fb1"];
const BAR_PX = [60, 150]; // lengths of the scale bar on the screen

/** Show the slide of a case; gives what takes it away. */
export async function showSlide(number, about, alive) {
  const seadragon = await library("openseadragon/openseadragon.min.js", "OpenSeadragon");
  if (!alive()) return () => {};
  const shown = new SlideView(seadragon, number, about);
  return shown.start();
}

class SlideView {
  constructor(seadragon, number, about) {
    Object.assign(this, { seadragon, number, about, overlay: null, opacity: 0.5, map: -1, chosen: -1 });
  }

  source(layer) {
    const { width, height, tile, least, top } = this.about;
    return {
      width, height, tileSize: tile, tileOverlap: 0, minLevel: least, maxLevel: top,
      getTileUrl: (level, x, y) => `/api/cases/${this.number}/tiles/${layer}/${level}/${x}/${y}`,
      hasTransparency: () => layer !== "slide",
    };
  }

  start() {
    const place = make("div", { className: "show", id: "slide" });
    by("stage").replaceChildren(place);
    const narrow = by("stage").clientWidth < 600;
    this.viewer = this.seadragon({
      element: place,
      tileSources: this.source("slide"),
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "TOP_RIGHT",
      navigatorSizeRatio: narrow ? 0.2 : 0.17,
      navigatorAutoFade: false,
      navigatorOpacity: 1,
      navigatorBackground: "#16191b",
      navigatorBorderColor: "#6d7c82",
      navigatorDisplayRegionColor: "#d62f2f",
      animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.5,
      maxZoomPixelRatio: 8,
      visibilityRatio: 0.4,
      imageLoaderLimit: 6,
      preserveImageSizeOnResize: true,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("class", "outlines");
    this.group = this.svg.appendChild(document.createElementNS(SVG, "g"));
    this.box = this.group.appendChild(document.createElementNS(SVG, "rect"));
    this.box.setAttribute("stroke", "#ffd95a");
    this.box.setAttribute("visibility", "hidden");
    this.viewer.canvas.append(this.svg); // below the overview
    if (this.about.mpp) {
      this.bar = make("p", { className: "scale" }, make("span"), make("i"));
      by("stage").append(this.bar);
    }
    this.regions();
    this.viewer.addHandler("open", () => {
      this.item = this.viewer.world.getItemAt(0);
      if (this.about.maps.length) this.layer("0");
      else this.controls();
      // Controls and strip have taken their room: now the whole slide fits into what is left.
      requestAnimationFrame(() => requestAnimationFrame(() => {
        if (!this.item) return;
        this.viewer.forceResize();
        this.viewer.viewport.goHome(true);
        this.follow();
        document.body.dataset.ready = this.number;
      }));
    });
    for (const event of ["update-viewport", "animation", "resize"]) this.viewer.addHandler(event, () => this.follow());
    this.viewer.canvas.tabIndex = 0;
    this.viewer.canvas.setAttribute("aria-label", "Slide: arrow keys move, plus and minus zoom, 0 shows the whole");
    window.medsoftSlide = this; // for whoever looks at the page with the browser's tools
    return () => { this.item = null; this.viewer.destroy(); by("strip").hidden = true; delete window.medsoftSlide; };
  }

  /** What lies over the slide moves with it. */
  follow() {
    if (!this.item) return;
    const viewport = this.viewer.viewport;
    const corner = this.item.imageToViewerElementCoordinates(new this.seadragon.Point(0, 0));
    const scale = this.item.viewportToImageZoom(viewport.getZoom(true)); // pixels of the screen for one of level 0
    this.group.setAttribute("transform", `translate(${corner.x} ${corner.y}) scale(${scale})`);
    if (!this.bar) return;
    const um = this.about.mpp / scale; // µm a pixel of the screen
    let length = 10 ** Math.floor(Math.log10(BAR_PX[1] * um));
    for (const times of [5, 2]) if (length * times <= BAR_PX[1] * um) { length *= times; break; }
    const [text, line] = this.bar.children;
    text.textContent = length >= 1000 ? `${length / 1000} mm` : `${length >= 1 ? length : short(length)} µm`;
    line.style.width = `${length / um}px`;
  }

  regions() {
    const names = [...new Set(this.about.regions.map(({ name }) => name))];
    this.names = names;
    this.hidden = new Set();
    this.paths = this.about.regions.map(({ name, rings }) => {
      const path = document.createElementNS(SVG, "path");
      const turns = rings.map((ring) => {
        const corners = [];
        for (let at = 0; at < ring.length; at += 2) corners.push(`${ring[at]} ${ring[at + 1]}`);
        return `M${corners.join("L")}Z`;
      });
      path.setAttribute("d", turns.join(""));
      path.setAttribute("stroke", COLOURS[names.indexOf(name) % COLOURS.length]);
      this.group.insertBefore(path, this.box);
      return [name, path];
    });
  }

  /** Draw another layer over the slide: the number of a map, "tiles", or "" for none. */
  layer(name) {
    if (this.overlay) this.viewer.world.removeItem(this.overlay);
    this.overlay = null;
    this.shown = name;
    const asked = this.asked = Symbol(name);
    if (name !== "") {
      this.viewer.addTiledImage({
        tileSource: this.source(name), x: 0, y: 0, width: 1, opacity: name === "tiles" ? 1 : this.opacity,
        success: ({ item }) => {
          if (this.asked === asked) this.overlay = item;
          else this.viewer.world.removeItem(item);
        },
      });
    }
    this.map = /^\d+$/.test(name) ? Number(name) : -1;
    this.controls();
    this.strip();
  }

  controls() {
    const { maps, grid } = this.about;
    const parts = [
      button("+", () => this.viewer.viewport.zoomBy(1.5), { "aria-label": "Zoom in" }),
      button("−", () => this.viewer.viewport.zoomBy(1 / 1.5), { "aria-label": "Zoom out" }),
      button("Whole slide", () => this.viewer.viewport.goHome()),
    ];
    const layers = [["", "nothing"], ...maps.map(({ name }, number) => [String(number), `contributions: ${name}`])];
    if (grid) layers.push(["tiles", "tiles"]);
    if (layers.length > 1) parts.push(choice("Over it", layers, this.shown ?? "", (name) => this.layer(name)));
    if (this.map >= 0) {
      parts.push(slider("Opacity", { min: 0, max: 1, step: 0.05, value: this.opacity, show: (value) => `${Math.round(100 * value)} %` }, (value) => {
        this.opacity = value;
        this.overlay?.setOpacity(value);
      }));
      const { limit, quantity } = maps[this.map];
      parts.push(make("span", { className: "legend", title: quantity }, `−${short(limit)}`, make("i"), `+${short(limit)}`, quantity ? ` ${quantity}` : ""));
    }
    for (const [at, name] of this.names.entries()) {
      const made = button(name, () => {
        const shown = this.hidden.delete(name) || !this.hidden.add(name);
        made.setAttribute("aria-pressed", shown);
        for (const [of, path] of this.paths) if (of === name) path.setAttribute("visibility", shown ? "visible" : "hidden");
      }, { "aria-pressed": String(!this.hidden.has(name)), title: `Regions: ${name}` });
      made.style.borderColor = COLOURS[at % COLOURS.length];
      parts.push(made);
    }
    by("controls").replaceChildren(...parts);
  }

  /** The tiles that add most; a press jumps to its place. */
  strip() {
    const strip = by("strip");
    strip.hidden = this.map < 0;
    this.box.setAttribute("visibility", "hidden");
    if (this.map < 0) return;
    strip.replaceChildren(...this.about.maps[this.map].top.map((tile, rank) => {
      const words = `${tile.contribution > 0 ? "+" : ""}${short(tile.contribution)}`;
      const image = make("img", { src: `/api/cases/${this.number}/strip/${this.map}/${rank}`, alt: "", loading: "lazy" });
      return button(image, (pressed) => {
        for (const other of strip.children) other.setAttribute("aria-pressed", other === pressed);
        this.jump(tile);
      }, {
        className: tile.contribution >= 0 ? "plus" : "minus", "aria-pressed": "false",
        "aria-label": `Tile ${rank + 1}, contribution ${words}`, title: `contribution ${words}`,
      });
    }));
    for (const [rank, made] of [...strip.children].entries()) {
      const value = this.about.maps[this.map].top[rank].contribution;
      made.append(make("span", {}, `${value > 0 ? "+" : ""}${short(value)}`));
    }
  }

  jump({ x, y, side }) {
    for (const [name, value] of Object.entries({ x, y, width: side, height: side, visibility: "visible" })) this.box.setAttribute(name, value);
    const margin = 1.5 * side;
    const rectangle = this.item.imageToViewportRectangle(x - margin, y - margin, side + 2 * margin, side + 2 * margin);
    this.viewer.viewport.fitBounds(rectangle);
  }
}
