"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const CONFIG = { responsive: true, displayModeBar: false };
// A finger on a plot scrolls the page; a mouse draws the part to enlarge.
const DRAG = matchMedia("(pointer: coarse)").matches ? false : "zoom";
const redraws = [];
// Plotly's symbols, for the buttons: paths in a square of 16.
const SYMBOLS = {
  "circle": "M14 8A6 6 0 1 1 2 8A6 6 0 1 1 14 8Z", "square": "M3 3H13V13H3Z", "diamond": "M8 1L15 8L8 15L1 8Z",
  "triangle-up": "M8 2L15 14H1Z", "triangle-down": "M8 14L15 2H1Z", "cross": "M6 2H10V6H14V10H10V14H6V10H2V6H6Z",
  "x": "M5 2L8 5L11 2L14 5L11 8L14 11L11 14L8 11L5 14L2 11L5 8L2 5Z",
};

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(title, more) {
  return {
    title: { text: title, standoff: 8 }, automargin: true, gridcolor: colour("--line"), linecolor: colour("--line"),
    zeroline: false, ...more,
  };
}

function draw(canvas, traces, x, y, more) {
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: DRAG,
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--ink") },
    margin: { l: 8, r: 16, t: 36, b: 8 }, hovermode: "closest", xaxis: x, yaxis: y, ...more,
  };
  Plotly.react(canvas, traces, layout, CONFIG);
}

function dash(style) {
  return { "d": "M0 8H28", "stroke": style.color, "stroke-width": 3,
    "stroke-dasharray": { solid: "none", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" }[style.dash] };
}

function symbol(style, hollow) {
  return { "d": SYMBOLS[style.symbol], "transform": "translate(6 0)", "stroke": style.color, "stroke-width": 2,
    "fill": hollow ? "none" : style.color };
}

// Buttons that show and hide: one for each of `entries` {key, label, path}. `hidden` holds the keys of the hidden.
function chips(box, entries, hidden, changed) {
  box.replaceChildren(...entries.map(({ key, label, path }) => {
    const button = document.createElement("button");
    button.type = "button";
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 28 16");
    const line = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    for (const [name, value] of Object.entries(path)) line.setAttribute(name, value);
    const text = document.createElement("span");
    text.textContent = label;
    button.append(svg, text);
    button.setAttribute("aria-pressed", String(!hidden.has(key)));
    button.addEventListener("click", () => {
      hidden.has(key) ? hidden.delete(key) : hidden.add(key);
      button.setAttribute("aria-pressed", String(!hidden.has(key)));
      changed();
    });
    return button;
  }));
}

function curves(plot, model) {
  const canvases = [...plot.querySelectorAll(".canvas")];
  const hidden = new Set();
  const methods = Object.keys(model.styles).filter((name) => model.curves.some((curve) => name in curve.scores));
  const show = () => model.curves.forEach((curve, i) => {
    const traces = methods.filter((name) => name in curve.scores).map((name) => ({
      type: "scatter", mode: "lines", name: model.styles[name].label, x: curve.fractions, y: curve.scores[name],
      visible: !hidden.has(name),
      line: { color: model.styles[name].color, dash: model.styles[name].dash, width: name.startsWith("cfcam") ? 3 : 2 },
      hovertemplate: "%{y:.1f}% at %{x:.0f}%<extra>" + model.styles[name].label + "</extra>",
    }));
    const pixels = curve.metric === "deletion_auc" ? "pixels erased, %" : "pixels returned, %";
    draw(canvases[i], traces, axis(pixels, { range: [0, 100] }), axis("probability, %", { rangemode: "tozero" }),
      { title: { text: curve.markup, font: { size: 15 }, x: 0.5, y: 0.98 } });
  });
  chips(plot.querySelector(".chips"), methods.map((name) => (
    { key: name, label: plain(model, name), path: dash(model.styles[name]) })), hidden, show);
  redraws.push(show);
  show();
}

// Labels are escaped for Plotly's markup; as text they are not.
function plain(model, name) {
  return new DOMParser().parseFromString(model.styles[name].label, "text/html").documentElement.textContent;
}

// Text in lines of at most so many letters, broken between words.
function wrapped(text, letters) {
  const lines = [];
  for (const word of text.split(" ")) {
    const last = lines.length - 1;
    if (last >= 0 && lines[last].length + 1 + word.length <= letters) lines[last] += " " + word;
    else lines.push(word);
  }
  return lines.join("<br>");
}

// A point for each of `points` {key, markup, style, ours, hollow}, at x.values[key] and y.values[key], each [value, low, high].
function scatter(canvas, points, hidden, x, y) {
  const bars = (values, color) => ({
    type: "data", symmetric: false, array: [values[2] - values[0]], arrayminus: [values[0] - values[1]],
    color, thickness: 1.25, width: 3,
  });
  const traces = points.map(({ key, markup, style, ours, hollow }) => ({
    type: "scatter", mode: "markers", name: markup, x: [x.values[key][0]], y: [y.values[key][0]],
    error_x: bars(x.values[key], style.color), error_y: bars(y.values[key], style.color), visible: !hidden.has(key),
    marker: { color: style.color, symbol: style.symbol + (hollow ? "-open" : ""), size: ours ? 14 : 12, line: { width: hollow ? 2 : 0 } },
    hovertemplate: "%{x:.2f}, %{y:.2f}" + (x.notes ? "<br>" + x.notes[key] : "") + "<extra>" + markup + "</extra>",
  }));
  const right = x.better === "high", top = y.better === "high";
  const corner = {
    xref: "paper", yref: "paper", x: right ? 1 : 0, y: top ? 1 : 0, ax: right ? -34 : 34, ay: top ? 34 : -34,
    text: "better", arrowhead: 2, arrowcolor: colour("--faint"), font: { color: colour("--faint") },
  };
  // A letter takes about 8 pixels; the labels of the other axis about 60.
  const told = (given, room) =>
    wrapped(given.axis + " (" + (given.better === "high" ? "higher" : "lower") + " is better)", (room - 60) / 8);
  draw(canvas, traces, axis(told(x, canvas.clientWidth)), axis(told(y, canvas.clientHeight)), { annotations: [corner] });
}

function against(plot, model, across) {
  const canvas = plot.querySelector(".canvas");
  const selects = Object.fromEntries([...plot.querySelectorAll("select")].map((one) => [one.dataset.axis, one]));
  const hidden = new Set();
  const metric = (name) => model.metrics.find((one) => one.name === name);
  const show = (afresh) => {
    const { points, x, y } = across(selects, metric);
    const there = points.filter(({ key }) => key in x.values && key in y.values);
    const entries = there.map((point) => ({ ...point, path: symbol(point.style, point.hollow) }));
    if (afresh) chips(plot.querySelector(".chips"), entries, hidden, () => show(false));
    scatter(canvas, there, hidden, x, y);
  };
  for (const select of Object.values(selects)) select.addEventListener("change", () => show(true));
  redraws.push(() => show(false));
  show(true);
}

function metrics(plot, model) {
  const points = Object.keys(model.styles).map((name) => ({
    key: name, label: plain(model, name), markup: model.styles[name].label, style: model.styles[name], ours: name === "cfcam",
  }));
  against(plot, model, (selects, metric) => ({ points, x: metric(selects.across.value), y: metric(selects.up.value) }));
}

function latency(plot, model) {
  against(plot, model, (selects, metric) => {
    const record = model.latencies[Number(selects.record.value)];
    const chosen = metric(selects.up.value);
    const points = record.points.map(({ label, method, hollow }) => ({
      key: label, label, markup: label, style: model.styles[method], ours: method === "cfcam", hollow,
    }));
    const by = (value) => Object.fromEntries(record.points.map((point) => [point.label, value(point)]).filter((pair) => pair[1]));
    const x = {
      axis: record.axis, better: "low", values: by((point) => point.ratio),
      notes: by((point) => point.milliseconds.toFixed(0) + " ms"),
    };
    return { points, x, y: { ...chosen, values: by((point) => chosen.values[point.method]) } };
  });
}

function sortable(table) {
  table.querySelectorAll("thead button").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const best = button.dataset.better === "high" ? "descending" : "ascending";
    const other = best === "ascending" ? "descending" : "ascending";
    const order = head.ariaSort === best ? other : best;
    table.querySelectorAll("thead th[aria-sort]").forEach((one) => { one.ariaSort = "none"; });
    head.ariaSort = order;
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      // What has no value comes last in either order.
      if (!value(a) || !value(b)) return Boolean(value(b)) - Boolean(value(a));
      return sign * (Number(value(a)) - Number(value(b)));
    });
    table.tBodies[0].append(...rows);
  }));
}

const KINDS = { curves, metrics, latency };
document.querySelectorAll(".plot").forEach((plot) => KINDS[plot.dataset.kind](plot, DATA[plot.dataset.model]));
document.querySelectorAll("table.sortable").forEach(sortable);
const redraw = () => redraws.forEach((show) => show());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
// Paper is white: the plots, whose colours are not the style sheet's, are drawn for it, too.
for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    document.documentElement.classList.toggle("printing", printing);
    redraw();
  });
}
