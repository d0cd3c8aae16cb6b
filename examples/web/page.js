// The page: a photograph is dropped or chosen, and what speaks for its class is drawn over it.

import { explain, load } from "./explain.js";

const $ = (id) => document.getElementById(id);
const tell = (text, alarm = false) => {
  $("status").textContent = text;
  $("status").classList.toggle("alarm", alarm);
};
// Colours of a map from 0 to 1: those of Turbo, at equal steps.
const COLOURS = [
  [48, 18, 59], [64, 64, 162], [70, 107, 227], [66, 148, 255], [40, 188, 235], [24, 221, 194], [50, 242, 152],
  [109, 254, 98], [164, 252, 60], [205, 236, 52], [238, 207, 58], [253, 172, 52], [251, 126, 33], [235, 80, 14],
  [208, 47, 5], [169, 22, 1], [122, 4, 3],
];
const OPACITY = 0.6;

let model = null, last = null, turn = 0;

/** Explain a photograph, unless another one comes meanwhile. */
async function show(file) {
  if (model === null) return;
  const mine = ++turn;
  last = file;
  tell("Explaining ...");
  $("result").hidden = true;
  try {
    const found = await explain(model, file, wanted());
    if (mine !== turn) return;
    draw(found);
    $("name").textContent = found.name;
    $("probability").textContent = `${(100 * found.probability).toFixed(1)}%`;
    $("empty").hidden = !found.empty;
    $("unfinished").hidden = found.converged;
    $("result").hidden = false;
    tell("");
  } catch (error) {
    if (mine === turn) tell(`${file.name}: ${error.message}`, true);
  }
}

/** The class that is asked for, null for the predicted one. */
function wanted() {
  const text = $("class").value.trim();
  if (text === "") return null;
  const index = /^\d+$/.test(text) ? Number(text) : (model.said.class_names ?? []).indexOf(text);
  if (index < 0 || index >= model.said.logits[0]) throw new Error(`no class is called ${text}`);
  return index;
}

/** The map in colour over what was explained; the more evidence, the less of the photograph shows. */
function draw({ map, pixels, size }) {
  const canvas = $("overlay"), image = new ImageData(size, size);
  for (let place = 0; place < size * size; place++) {
    const at = map[place] * (COLOURS.length - 1), below = Math.min(Math.floor(at), COLOURS.length - 2);
    const weight = OPACITY * map[place];
    for (let channel = 0; channel < 3; channel++) {
      const [low, high] = [COLOURS[below][channel], COLOURS[below + 1][channel]];
      const colour = low + (at - below) * (high - low);
      image.data[4 * place + channel] = (1 - weight) * pixels[3 * place + channel] + weight * colour;
    }
    image.data[4 * place + 3] = 255;
  }
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

$("file").addEventListener("change", () => {
  if ($("file").files.length) show($("file").files[0]);
  $("file").value = ""; // so that the same file may be chosen again
});
$("class").addEventListener("change", () => {
  if (last !== null) show(last);
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
});

try {
  tell("Loading the model ...");
  model = await load("model.onnx");
  const { said } = model;
  $("about").textContent = `CF-CAM of ${said.model ?? "a model"} at ${said.layers.map((layer) => layer.name).join(" and ")}`;
  if (!said.trained) {
    $("about").textContent += ". Its weights are random: these maps mean nothing.";
    $("about").classList.add("alarm");
  }
  for (const name of said.class_names ?? []) $("names").append(new Option(name, name));
  $("choice").hidden = said.target !== "input";
  $("file").disabled = false;
  tell("");
} catch (error) {
  tell(error.message, true);
}
