"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { slide, classes } = data;
  const at = (id) => document.getElementById(id);
  document.querySelector("h1").textContent = slide.name;
  at("random").hidden = data.trained;
  const finest = slide.levels[slide.levels.length - 1];
  const whole = slide.scale <= 1 ? "at its full size" : `reduced to ${finest.width} \u00d7 ${finest.height} pixels`;
  const micrometres = slide.mpp ? `, ${(slide.mpp * slide.scale).toFixed(2)} \u00b5m each` : "";
  at("said").textContent =
    `This page holds the slide ${whole}${micrometres}, and the strongest tiles as the model saw them. ` +
    `The slide itself has ${slide.width} \u00d7 ${slide.height} pixels; the maps are in the files beside this page.`;

  const viewer = OpenSeadragon({
    element: at("viewer"),
    drawer: "canvas",
    showNavigationControl: false,
    maxZoomPixelRatio: 4 * slide.scale,
    tabIndex: 0,
    gestureSettingsMouse: { clickToZoom: false },
    tileSources: {
      width: finest.width,
      height: finest.height,
      tileSize: slide.piece,
      tileOverlap: 0,
      minLevel: 0,
      maxLevel: slide.levels.length - 1,
      getTileUrl: (level, x, y) => slide.levels[level].pieces[y][x],
    },
  });

  // In the viewer, lengths are shares of the slide's width.
  const one = 1 / slide.width;
  const maps = classes.map((of) => of.maps.map(() => null));
  const tiles = classes.map(() => []);
  let chosen = 0, kind = 0;
  const strength = () => at("opacity").valueAsNumber / 100;
  const show = () => {
    maps.forEach((of, index) => of.forEach((map, number) =>
      map && map.setOpacity(index === chosen && number === kind ? strength() : 0)));
    tiles.forEach((of, index) => of.forEach((tile) => tile.setOpacity(index === chosen ? 1 : 0)));
    document.body.dataset.ready = String(maps.flat().filter(Boolean).length);
  };
  const add = (url, x, y, width, order, done) =>
    viewer.addTiledImage({
      tileSource: { type: "image", url, buildPyramid: false },
      x, y, width, opacity: 0, index: order,
      success: (event) => { done(event.item); show(); },
    });
  viewer.addOnceHandler("open", () => {
    // The tiles lie over the slide and below the maps.
    classes.forEach((of, index) => {
      of.strongest.forEach((tile) => {
        add(tile.image, tile.x * one, tile.y * one, tile.size * one, 1, (item) => tiles[index].push(item));
      });
      of.maps.forEach((map, number) => {
        add(map.image, 0, 0, map.covers, undefined, (item) => { maps[index][number] = item; });
      });
    });
  });

  const go = (tile) => {
    const margin = tile.size;
    const side = (tile.size + 2 * margin) * one;
    viewer.viewport.fitBounds(new OpenSeadragon.Rect((tile.x - margin) * one, (tile.y - margin) * one, side, side));
    at("viewer").scrollIntoView({ block: "nearest" });
  };
  const cell = (row, content) => {
    const td = row.insertCell();
    td.append(content);
  };
  const picture = (url, alt) => Object.assign(new Image(), { src: url, alt });
  const list = () => {
    const of = classes[chosen];
    at("maximum").textContent = of.maps[kind].maximum.toPrecision(2);
    at("none").hidden = of.strongest.length > 0;
    at("strongest").replaceChildren();
    of.strongest.forEach((tile, index) => {
      const row = at("strongest").insertRow();
      cell(row, picture(tile.image, `Tile ${index + 1}`));
      cell(row, picture(tile.overlay, `Map over tile ${index + 1}`));
      cell(row, tile.probability.toPrecision(3));
      cell(row, tile.evidence.toPrecision(3));
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Show" });
      button.setAttribute("aria-label", `Show tile ${index + 1} on the slide`);
      button.addEventListener("click", () => go(tile));
      cell(row, button);
    });
  };

  classes.forEach((of, index) => at("class").add(new Option(of.name, String(index))));
  at("class").addEventListener("change", () => { chosen = Number(at("class").value); list(); show(); });
  classes[0].maps.forEach((map, number) => at("map").add(new Option(map.name, String(number))));
  at("map").addEventListener("change", () => { kind = Number(at("map").value); list(); show(); });
  at("opacity").addEventListener("input", show);
  at("in").addEventListener("click", () => viewer.viewport.zoomBy(1.6));
  at("out").addEventListener("click", () => viewer.viewport.zoomBy(1 / 1.6));
  at("home").addEventListener("click", () => viewer.viewport.goHome());
  list();
})();
