// How a photograph becomes an image of a model: resized as Pillow does it, its middle cut out, normalised.

/** (size, size) RGB bytes, one after another, of a decoded photograph (ImageBitmap). */
export function pixelsOf(photograph, { size, resize, interpolation }) {
  // Of a panorama one of 2:1 is enough for the square in its middle.
  const limit = 2 * Math.min(photograph.width, photograph.height);
  const shown = { width: Math.min(photograph.width, limit), height: Math.min(photograph.height, limit) };
  const context = new OffscreenCanvas(shown.width, shown.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(
    photograph, -Math.floor((photograph.width - shown.width) / 2), -Math.floor((photograph.height - shown.height) / 2),
  );
  let image = { ...shown, data: context.getImageData(0, 0, shown.width, shown.height).data };
  const scale = resize / Math.min(image.width, image.height);
  // To even numbers from the middle, as Python rounds.
  const [width, height] = [image.width, image.height].map((length) => roundedToEven(length * scale));
  image = resized(image, width, height, interpolation);
  return cut(image, Math.floor((width - size) / 2), Math.floor((height - size) / 2), size);
}

/** (3, size, size) float32, normalised. */
export function normalised(pixels, { size, mean, std }) {
  const result = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    for (let place = 0; place < size * size; place++) {
      result[channel * size * size + place] = (pixels[3 * place + channel] / 255 - mean[channel]) / std[channel];
    }
  }
  return result;
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
/** Filters by Pillow's names: how far they reach, and the weight at a distance. */
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const d = Math.abs(x), a = -0.5; // Keys' cubic convolution
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  }],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
/** Weights are whole multiples of one over this, as Pillow's: the same bytes come out. */
const UNIT = 2 ** 22;

/** An image { width, height, data } of RGBA bytes at another size: first its rows, then its columns. */
function resized(image, width, height, interpolation) {
  if (!(interpolation in FILTERS)) throw new Error(`expected ${Object.keys(FILTERS).join(", ")}; got ${interpolation}`);
  const rows = along(image, width, true, FILTERS[interpolation]);
  return along(rows, height, false, FILTERS[interpolation]);
}

/** One axis of an image resized. A smaller image widens the filter, so that every pixel counts. */
function along(image, length, horizontal, [reach, filter]) {
  const before = horizontal ? image.width : image.height;
  if (length === before) return image;
  const width = horizontal ? length : image.width, height = horizontal ? image.height : length;
  const data = new Uint8ClampedArray(4 * width * height);
  const scale = before / length, widened = Math.max(scale, 1), support = reach * widened;
  const step = horizontal ? 4 : 4 * image.width, lines = horizontal ? image.height : image.width;
  for (let place = 0; place < length; place++) {
    const middle = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(middle - support + 0.5), 0);
    const last = Math.min(Math.trunc(middle + support + 0.5), before);
    const shares = Float64Array.from({ length: last - first }, (_, i) => filter((first + i - middle + 0.5) / widened));
    const total = shares.reduce((sum, share) => sum + share, 0);
    const weights = shares.map((share) => Math.sign(share) * Math.floor((Math.abs(share) / total) * UNIT + 0.5));
    for (let line = 0; line < lines; line++) {
      const from = (horizontal ? 4 * line * image.width : 4 * line) + first * step;
      const to = horizontal ? 4 * (line * width + place) : 4 * (place * width + line);
      for (let channel = 0; channel < 3; channel++) {
        let sum = UNIT / 2;
        for (let i = 0; i < weights.length; i++) sum += weights[i] * image.data[from + i * step + channel];
        data[to + channel] = Math.floor(sum / UNIT); // the array keeps it to 0 and 255
      }
    }
  }
  return { width, height, data };
}

/** RGB bytes of a square of an image. */
function cut(image, left, top, size) {
  const pixels = new Uint8ClampedArray(3 * size * size);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const from = 4 * ((top + y) * image.width + left + x);
      pixels.set(image.data.subarray(from, from + 3), 3 * (y * size + x));
    }
  }
  return pixels;
}

function roundedToEven(value) {
  const below = Math.floor(value), rest = value - below;
  return below + (rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? 1 : 0);
}
