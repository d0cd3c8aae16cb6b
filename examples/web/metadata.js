// What an exported file says of itself: the metadata of an ONNX model, which onnxruntime-web does not give.

const PREFIX = "cfcam.";
// Numbers of fields, and kinds of values, of ONNX's definition in Protocol Buffers.
const METADATA_PROPS = 14, KEY = 1, VALUE = 2;
const VARINT = 0, EIGHT_BYTES = 1, BYTES = 2, FOUR_BYTES = 5;

/** The values of a file's keys, without their prefix. */
export function metadata(bytes) {
  const text = new TextDecoder(), found = {};
  for (const [number, entry] of fields(bytes)) {
    if (number !== METADATA_PROPS) continue;
    const pair = new Map(fields(entry)), key = text.decode(pair.get(KEY));
    if (key.startsWith(PREFIX)) found[key.slice(PREFIX.length)] = JSON.parse(text.decode(pair.get(VALUE)));
  }
  if (!("format" in found)) throw new Error("expected a file that cfcam-gpu export wrote; it has no metadata of one");
  return found;
}

/** The fields of a message, each its number and its bytes; those of numbers are passed over. */
function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0, scale = 1, byte;
    do {
      if (place >= bytes.length) throw new Error("expected an ONNX model; it is cut off, or something else");
      byte = bytes[place++];
      value += (byte & 127) * scale; // a shift would end at 32 bits
      scale *= 128;
    } while (byte & 128);
    return value;
  };
  while (place < bytes.length) {
    const tag = varint(), number = Math.floor(tag / 8), kind = tag % 8;
    if (kind === VARINT) varint();
    else if (kind === EIGHT_BYTES) place += 8;
    else if (kind === FOUR_BYTES) place += 4;
    else if (kind === BYTES) {
      const length = varint();
      if (place + length > bytes.length) throw new Error("expected an ONNX model; it is cut off, or something else");
      yield [number, bytes.subarray(place, place + length)];
      place += length;
    } else throw new Error("expected an ONNX model; it is something else");
  }
}
