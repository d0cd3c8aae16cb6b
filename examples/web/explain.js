// A photograph explained by an exported file, in the browser: by onnxruntime-web, which runs it in WebAssembly.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { metadata } from "./metadata.js";
import { normalised, pixelsOf } from "./preparation.js";

/** An exported file, ready to explain photographs: `said` is what it says of itself. */
export async function load(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}; cfcam-gpu export writes it`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const said = metadata(bytes);
  if (said.preparation === null) throw new Error(`${url} does not say how a photograph becomes an image of it`);
  // Of the libraries' roundings ("rounding") it knows none: what the model sees may lie a pixel apart.
  if (said.preparation.squash || !Number.isInteger(said.preparation.size) || said.preparation.mean.length !== 3) {
    throw new Error(`${url} takes other images than squares of colours, cut out of a photograph's middle`);
  }
  return { said, session: await ort.InferenceSession.create(bytes) };
}

/**
 * What speaks for a class in a photograph.
 *
 * @param model what `load` gave
 * @param file a Blob: the photograph's file
 * @param target the class to explain; null is the predicted one, and the only one of many a file
 * @returns the class, its name and probability; whether the map is empty, and whether its clusters are complete; `map`,
 *   size x size values in [0, 1]; `pixels`, the bytes of what was explained
 */
export async function explain({ said, session }, file, target = null) {
  const { preparation } = said, { size } = preparation;
  const photograph = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const pixels = pixelsOf(photograph, preparation), image = normalised(pixels, preparation);
  // A file of a fixed batch takes so many images: the same one as often.
  const batch = said.batch ?? 1, images = new Float32Array(batch * image.length);
  for (let i = 0; i < batch; i++) images.set(image, i * image.length);
  const feeds = { images: new ort.Tensor("float32", images, [batch, 3, size, size]) };
  if (said.target === "input") {
    const dims = said.classes === null ? [batch] : [batch, said.classes];
    const count = dims.reduce((product, length) => product * length, 1);
    feeds.target = new ort.Tensor("int64", new BigInt64Array(count).fill(BigInt(target ?? -1)), dims);
  } else if (target !== null) throw new Error("this file explains the predicted class; export one with --target input");
  const found = await session.run(feeds);
  const map = found.maps.data.slice(0, size * size);
  if (map.some(Number.isNaN)) throw new Error("the model has no finite values for this photograph");
  const index = Number((found.explained ?? found.target).data[0]);
  return {
    index,
    name: said.class_names?.[index] ?? `class ${index}`,
    probability: share(found.logits.data.subarray(0, said.logits[0]), index),
    empty: Boolean(found.empty.data[0]),
    converged: Boolean(found.converged.data[0]),
    map,
    pixels,
    size,
  };
}

function share(logits, index) {
  const top = logits.reduce((a, b) => Math.max(a, b));
  return Math.exp(logits[index] - top) / logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0);
}
