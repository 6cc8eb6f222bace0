// MoCoGAN from an exported file, in any JavaScript: the contract, the draw from a seed, clips of any length.
// ONNX Runtime is an argument, so that Node (onnxruntime-node) and browsers (onnxruntime-web) share this file.

const FORMAT_VERSION = 1; // The version of the contract that this program reads.
export const STREAM = { content: 0, motionInit: 1, motionNoise: 2, category: 3 };

/**
 * Reads an .onnx file's metadata_props, which ONNX Runtime's JavaScript API does not give.
 *
 * The file is one protocol buffer message (ModelProto), a list of numbered and typed fields. Each field 14 is an entry
 * of the metadata: a message with a key (field 1) and a value (field 2). All other fields, such as the graph, are skipped.
 *
 * @param {Uint8Array} bytes
 * @returns {Object<string, string>}
 */
export function readMetadata(bytes) {
  const metadata = {};
  for (const [field, entry] of fields(bytes)) {
    if (field !== 14) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    metadata[text(key)] = text(value);
  }
  return metadata;
}

const text = (bytes) => new TextDecoder().decode(bytes ?? new Uint8Array());

/** Yields [field number, bytes] for each field of a message that holds bytes. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    // Seven bits per byte, lowest first. `<<` would cut lengths to 32 bits.
    let [value, unit] = [0, 1];
    for (; bytes[at] & 0x80; unit *= 128) value += (bytes[at++] & 0x7f) * unit;
    return value + bytes[at++] * unit;
  };
  while (at < bytes.length) {
    const tag = varint();
    if ((tag & 7) === 0) varint();
    else if ((tag & 7) === 1) at += 8;
    else if ((tag & 7) === 5) at += 4;
    else if ((tag & 7) === 2) {
      const length = varint();
      if (!(at + length <= bytes.length)) throw new Error("it ends early");
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("it is no protocol buffer");
  }
}

/**
 * Reads what a file says about itself: sizes, names, and how its output becomes pixels.
 *
 * @param {Uint8Array} bytes The .onnx file.
 * @param {string} path For messages.
 */
export function readContract(bytes, path) {
  let found;
  try {
    found = readMetadata(bytes);
  } catch (error) {
    throw new Error(`${path} is no .onnx file: ${error.message}.`);
  }
  const read = (key) => {
    if (key in found) return found[key];
    throw new Error(`${path} has no \`${key}\` in its metadata_props.`);
  };
  const count = (key, least = 1) => {
    if (/^[0-9]{1,6}$/.test(read(key)) && Number(found[key]) >= least) return Number(found[key]);
    throw new Error(`${path} has no usable \`${key}\`: ${found[key]}`);
  };
  if (!("format_version" in found)) {
    throw new Error(
      `${path} has no contract in its metadata_props (no \`format_version\`): ` +
        "not a file of `python -m export`, or a converter dropped them.",
    );
  }
  if (found.format_version !== String(FORMAT_VERSION)) {
    throw new Error(
      `${path} has contract version ${found.format_version}, this program reads ${FORMAT_VERSION}: ` +
        "export the model again, or take the example that came with it.",
    );
  }
  const rule = read("postprocess").match(/^uint8 = clip\(round\(\(x \+ (\S+)\) \* (\S+)\), 0, 255\)$/);
  if (!rule) throw new Error(`This program does not know how to make pixels by \`${found.postprocess}\`.`);
  return {
    name: read("name"),
    dimContent: count("dim_content"),
    dimCategory: count("dim_category", 0), // 0: there is no `category` input.
    dimMotion: count("dim_motion"),
    categoryTo: read("category_to"),
    categories: JSON.parse(read("categories")),
    height: count("height"),
    width: count("width"),
    channels: count("channels"),
    videoLength: count("video_length"), // Frames of the training clips, and of a piece here.
    fps: JSON.parse(read("fps")),
    shift: Number(rule[1]),
    scale: Number(rule[2]),
  };
}

/**
 * Philox4x32-10 (Salmon et al., SC 2011): four random 32-bit words of a block.
 *
 * Counter: block (low, high word), stream, clip (always number 0 here). Key: the seed's low and high word.
 * Everything is a BigInt: a product of two words has 64 bits, and a JavaScript number holds only 53.
 *
 * @param {bigint} block
 * @param {number} stream
 * @param {bigint} seed In [0, 2^64).
 * @returns {bigint[]}
 */
export function philox4x32(block, stream, seed) {
  const low = 0xffffffffn;
  let [c0, c1, c2, c3] = [block & low, block >> 32n, BigInt(stream), 0n];
  let [k0, k1] = [seed & low, seed >> 32n];
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [0xd2511f53n * c0, 0xcd9e8d57n * c2];
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & low, (p0 >> 32n) ^ c3 ^ k1, p0 & low];
    [k0, k1] = [(k0 + 0x9e3779b9n) & low, (k1 + 0xbb67ae85n) & low];
  }
  return [c0, c1, c2, c3];
}

/** Yields the standard normals of a stream without end (Box and Muller). */
export function* normals(seed, stream) {
  for (let block = 0n; ; block++) {
    const words = philox4x32(block, stream, seed).map(Number);
    for (const pair of [0, 2]) {
      const [u, v] = [(words[pair] + 0.5) / 2 ** 32, (words[pair + 1] + 0.5) / 2 ** 32];
      const [radius, angle] = [Math.sqrt(-2 * Math.log(u)), 2 * Math.PI * v];
      yield radius * Math.cos(angle);
      yield radius * Math.sin(angle);
    }
  }
}

/** Takes the next `count` numbers of a stream, as float32. */
function take(stream, count) {
  return Float32Array.from({ length: count }, () => stream.next().value);
}

/** Returns the index of the category that a seed draws. */
export function drawCategory(contract, seed) {
  return Number(philox4x32(0n, STREAM.category, seed)[0] % BigInt(contract.dimCategory));
}

/**
 * Yields float32 pieces [up to videoLength, height, width, channels] until there are `frames` frames.
 *
 * @param {typeof import("onnxruntime-common")} ort
 * @param {(latents: object) => Promise<{video: object, motion_state: object}>} run Takes and gives tensors by name.
 * @param {object} contract
 * @param {{seed: bigint, frames: number, category?: number}} wanted Without a category, the seed draws it.
 */
export async function* generate(ort, run, contract, { seed, frames, category }) {
  const tensor = (data, ...dims) => new ort.Tensor("float32", data, dims);
  const { dimContent, dimCategory, dimMotion, videoLength } = contract;
  const latents = {
    content: tensor(take(normals(seed, STREAM.content), dimContent), 1, dimContent),
    motion_init: tensor(take(normals(seed, STREAM.motionInit), dimMotion), 1, dimMotion),
  };
  if (dimCategory) {
    const oneHot = new Float32Array(dimCategory);
    oneHot[category ?? drawCategory(contract, seed)] = 1;
    latents.category = tensor(oneHot, 1, dimCategory);
  }
  const noise = normals(seed, STREAM.motionNoise);
  for (let first = 0; first < frames; first += videoLength) {
    const count = Math.min(videoLength, frames - first);
    latents.motion_noise = tensor(take(noise, count * dimMotion), 1, count, dimMotion);
    const { video, motion_state } = await run(latents);
    // The next piece begins where this one's motion ends. Content and category stay, so the same person goes on.
    latents.motion_init = motion_state;
    yield video.data;
  }
}

/** Refuses motion.onnx, frames.onnx and models of another kind. */
export function checkOutputs(session, path) {
  if (["video", "motion_state"].every((name) => session.outputNames.includes(name))) return;
  throw new Error(
    `${path} gives ${session.outputNames.join(", ")}; needed are video and motion_state. ` +
      "Take model.onnx: motion.onnx and frames.onnx are its halves.",
  );
}

/**
 * Turns the model's values into pixels, by the contract's `postprocess`.
 *
 * @param {number} stride Bytes per pixel, 3 (RGB) or 4 (RGBA). A grey model gives three equal channels.
 */
export function toPixels(video, contract, stride = 3) {
  const { channels, shift, scale } = contract;
  // This array clips to 0..255 and rounds halves to even, as the rule demands.
  const pixels = new Uint8ClampedArray((video.length / channels) * stride).fill(255);
  for (let from = 0, to = 0; from < video.length; from += channels, to += stride) {
    for (let c = 0; c < 3; c++) {
      pixels[to + c] = Math.fround(Math.fround(video[from + Math.min(c, channels - 1)] + shift) * scale);
    }
  }
  return pixels;
}
