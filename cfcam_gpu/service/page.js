"use strict";

const $ = (id) => document.getElementById(id);
const input = $("file"), drop = $("drop"), status = $("status"), results = $("results");
let turn = 0; // of the photograph that is shown: answers for an earlier one come too late

function say(text, alarm = false) {
  status.textContent = text;
  status.classList.toggle("alarm", alarm);
}

async function explain(file, target) {
  const query = new URLSearchParams({ map: "none", overlay: true, ...(target === undefined ? {} : { target }) });
  const response = await fetch(`explain?${query}`, { method: "POST", body: file, headers: { Accept: "application/json" } });
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = { error: text }; // not from the application itself: a full queue, say
  }
  if (!response.ok) throw new Error(answer.error || `status ${response.status}`);
  return answer.explanations[0];
}

function card(source, title, note) {
  const figure = $("card").content.firstElementChild.cloneNode(true);
  figure.querySelector("img").src = source;
  figure.querySelector("img").alt = title;
  figure.querySelector("b").textContent = title;
  figure.querySelector("span").textContent = note;
  return figure;
}

function explained(found) {
  const share = found.probability === null ? "" : `${(100 * found.probability).toFixed(1)}%`;
  const source = `data:image/png;base64,${found.overlay.data}`;
  return card(source, found.class, found.empty ? `${share}, no evidence` : share);
}

async function show(file) {
  const mine = ++turn;
  for (const image of results.querySelectorAll("img")) if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  results.replaceChildren();
  say("Explaining…");
  try {
    const first = await explain(file);
    if (mine !== turn) return;
    // No browser shows DICOM.
    if (first.sop_instance_uid === null) results.append(card(URL.createObjectURL(file), file.name, "the photograph; maps are of its central square"));
    results.append(explained(first));
    // Asked for together, so that they are explained in one batch.
    const others = first.top.filter((one) => one.target !== first.target);
    const rest = await Promise.all(others.map((one) => explain(file, one.target)));
    if (mine !== turn) return;
    results.append(...rest.map(explained));
    say("");
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

input.addEventListener("change", () => {
  if (input.files.length) show(input.files[0]);
  input.value = ""; // so that the same file may be chosen again
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

(async () => {
  const about = await (await fetch("health")).json();
  $("about").textContent = `CF-CAM of ${about.model} on ${about.device}, ${about.engine} engine; ${about.layers.join(" and ")}`;
  if (!about.trained) {
    $("about").textContent += ". Its weights are random: these maps mean nothing.";
    $("about").classList.add("alarm");
  }
})();
