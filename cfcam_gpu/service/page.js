"use strict";

const $ = (id) => document.getElementById(id);
const input = $("file"), drop = $("drop"), status = $("status"), results = $("results");
const MOST = 1000; // names that the field for a class suggests at most
let turn = 0; // of the photograph that is shown: answers for an earlier one come too late
let photograph = null; // the one that is shown
const ready = about(); // what the service says of its model; the methods' names in print

function say(text, alarm = false) {
  status.textContent = text;
  status.classList.toggle("alarm", alarm);
}

async function json(response) {
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = { error: text }; // not from the application itself: a full queue, say
  }
  if (!response.ok) throw new Error(answer.error || `status ${response.status}`);
  return answer;
}

async function explain(file, target, method) {
  const query = new URLSearchParams({ map: "none", overlay: true, target, method });
  const response = await fetch(`explain?${query}`, { method: "POST", body: file, headers: { Accept: "application/json" } });
  return (await json(response)).explanations[0];
}

function card(source, title, note, method = "") {
  const figure = $("card").content.firstElementChild.cloneNode(true);
  figure.querySelector("img").src = source;
  figure.querySelector("img").alt = method ? `${title}, ${method}` : title;
  figure.querySelector("b").textContent = title;
  figure.querySelector("span").textContent = note;
  figure.querySelector("small").textContent = method;
  return figure;
}

// Adds an overlay, unless it is there already: then that one is shown.
function add(found, methods) {
  const key = `${found.target} ${found.method}`;
  let figure = [...results.children].find((one) => one.dataset.key === key);
  if (!figure) {
    const share = found.probability === null ? "" : `${(100 * found.probability).toFixed(1)}%`;
    const source = `data:image/png;base64,${found.overlay.data}`;
    figure = card(source, found.class, found.empty ? `${share}, no evidence` : share, methods[found.method] ?? found.method);
    figure.dataset.key = key;
    results.append(figure);
  }
  return figure;
}

// Explains the photograph as the fields say: one class, or the likeliest ones.
async function ask() {
  const mine = turn, file = photograph, target = $("class").value.trim(), method = $("method").value;
  say("Explaining…");
  try {
    const { methods, target: which } = await ready;
    const first = await explain(file, target, method);
    if (mine !== turn) return;
    // No browser shows DICOM.
    if (!results.children.length && first.sop_instance_uid === null) {
      const figure = card(URL.createObjectURL(file), file.name, "the photograph; maps are of what the model sees of it");
      const [height, width] = first.overlay.shape;
      figure.querySelector("img").style.aspectRatio = `${width} / ${height}`;
      results.append(figure);
    }
    const shown = add(first, methods);
    if (target) {
      shown.scrollIntoView({ block: "nearest" });
    } else if (which === "any") {
      // Asked for together, so that they are explained in one batch.
      const others = first.top.filter((one) => one.target !== first.target);
      const rest = await Promise.all(others.map((one) => explain(file, one.target, method)));
      if (mine !== turn) return;
      for (const one of rest) add(one, methods);
    }
    say("");
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

function show(file) {
  turn += 1;
  photograph = file;
  for (const image of results.querySelectorAll("img")) if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  results.replaceChildren();
  $("add").disabled = false;
  return ask();
}

async function about() {
  const found = await json(await fetch("health"));
  const words = [`${found.methods[found.method]} of ${found.model} on ${found.device}, ${found.engine} engine; ${found.layers.join(" and ")}`];
  words.push(...found.notes);
  if (!found.trained) words.push("Its weights are random: these maps mean nothing.");
  $("about").textContent = words.join(". ");
  $("about").classList.toggle("alarm", !found.trained);
  $("method").append(...Object.entries(found.methods).map(([name, title]) => new Option(title, name)));
  if (found.target === "predicted") {
    $("class").disabled = true;
    $("class").placeholder = "the likeliest one alone";
  } else if (found.classes <= MOST) {
    const { classes } = await json(await fetch("classes"));
    $("classes").append(...classes.map((name) => new Option("", name)));
  }
  return found;
}

ready.catch((error) => say(error.message, true));
input.addEventListener("change", () => {
  if (input.files.length) show(input.files[0]);
  input.value = ""; // so that the same file may be chosen again
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (photograph !== null) ask();
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragenter" || name === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) show(event.clipboardData.files[0]);
});
