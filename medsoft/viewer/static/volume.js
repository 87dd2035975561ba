// A volume: three planes and a rendering by NiiVue, with the map of contributions over it.
import { by, choice, library, make, short, slider } from "./page.js";

// Colours of contributions, those of the project's other maps: red for, blue against; the larger the darker.
const FOR = { R: [0, 253, 214, 103], G: [0, 219, 96, 0], B: [0, 199, 77, 31], A: [0, 255, 255, 255], I: [0, 1, 128, 255] };
const AGAINST = { R: [0, 209, 67, 5], G: [0, 229, 147, 48], B: [0, 240, 195, 97], A: [0, 255, 255, 255], I: [0, 1, 128, 255] };
const HIDDEN = 0.2; // part of the largest contribution below which nothing is drawn at first

let made; // one for all volumes: browsers have few of what it draws with

async function niivue() {
  const { Niivue, SLICE_TYPE, SHOW_RENDER } = await library("niivue/niivue.umd.js", "niivue");
  if (!made) {
    const canvas = make("canvas", { className: "show", id: "volume", tabIndex: 0, "aria-label": "Volume: click to move the planes, scroll to go through them" });
    by("stage").replaceChildren(canvas);
    const drawer = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.16, 0.65, 0.63, 0.9], crosshairWidth: 0.2, crosshairWidthUnit: "percent", show3Dcrosshair: true, dragAndDropEnabled: false,
      isRadiologicalConvention: true, multiplanarShowRender: SHOW_RENDER.ALWAYS, loadingText: "", textHeight: 0.04, logLevel: "silent",
    });
    await drawer.attachToCanvas(canvas);
    drawer.addColormap("contributions_for", FOR);
    drawer.addColormap("contributions_against", AGAINST);
    made = { drawer, canvas, SLICE_TYPE };
  }
  return made;
}

/** Show the volume of a case; gives what takes it away. */
export async function showVolume(number, about, alive) {
  const { drawer, canvas, SLICE_TYPE } = await niivue();
  if (!alive()) return () => {};
  const readout = make("p", { className: "readout" });
  by("stage").replaceChildren(canvas, readout);
  drawer.onLocationChange = ({ string }) => { readout.textContent = string; };
  const volumes = [{ url: `/api/cases/${number}/volume.nii`, name: "volume.nii" }];
  if (about.map) volumes.push({ url: `/api/cases/${number}/map.nii.gz`, name: "map.nii.gz", colormap: "contributions_for", colormapNegative: "contributions_against", opacity: 0.6, cal_min: HIDDEN * about.map, cal_max: about.map });
  await drawer.loadVolumes(volumes);
  if (!alive()) return () => {};
  drawer.setSliceType(SLICE_TYPE.MULTIPLANAR);
  const image = drawer.volumes[0];
  const { global_min: least, global_max: most, cal_min: low, cal_max: high } = image;
  const range = { min: least, max: most, step: (most - least) / 500 || 1 };
  const window_ = (one, other) => { image.cal_min = Math.min(one, other - 1e-6); image.cal_max = other; drawer.updateGLVolume(); };
  let [dark, bright] = [low, high];
  const kinds = [[SLICE_TYPE.MULTIPLANAR, "three planes and 3D"], [SLICE_TYPE.AXIAL, "axial"], [SLICE_TYPE.CORONAL, "coronal"], [SLICE_TYPE.SAGITTAL, "sagittal"], [SLICE_TYPE.RENDER, "3D"]];
  const parts = [
    choice("Planes", kinds, SLICE_TYPE.MULTIPLANAR, (kind) => drawer.setSliceType(Number(kind))),
    slider("Black at", { ...range, value: low }, (value) => { dark = value; window_(dark, bright); }),
    slider("White at", { ...range, value: high }, (value) => { bright = value; window_(dark, bright); }),
  ];
  if (image.nFrame4D > 1) {
    parts.push(slider("Time point", { min: 1, max: image.nFrame4D, step: 1, value: 1 }, (value) => drawer.setFrame4D(image.id, value - 1)));
  }
  if (about.map) {
    parts.push(slider("Contributions", { min: 0, max: 1, step: 0.05, value: 0.6, show: (value) => `${Math.round(100 * value)} %` }, (value) => drawer.setOpacity(1, value)));
    const percent = (value) => `${Math.round(100 * value)} %`;
    parts.push(slider("Hidden below", { min: 0, max: 0.95, step: 0.05, value: HIDDEN, show: percent }, (value) => {
      drawer.volumes[1].cal_min = Math.max(value, 0.001) * about.map;
      drawer.updateGLVolume();
    }));
    parts.push(make("span", { className: "legend" }, `−${short(about.map)}`, make("i"), `+${short(about.map)}`));
  }
  parts.push(make("span", {}, "the patient's right is on the left"));
  by("controls").replaceChildren(...parts);
  document.body.dataset.ready = number;
  return () => { drawer.onLocationChange = () => {}; };
}
