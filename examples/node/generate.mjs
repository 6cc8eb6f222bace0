// Generates clips from an exported MoCoGAN, in Node with onnxruntime-node.
//
//   node generate.mjs MODEL SEED FRAMES OUT
//
// OUT by its ending: .rgb is raw uint8 [frames, height, width, 3]; .f32 the model's own float32 values [frames, height,
// width, channels]; .png an animated PNG, in full colour and without loss. How clips are made stands in mocogan.mjs.

import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { extname } from "node:path";
import { crc32, deflateSync } from "node:zlib";

import ort from "onnxruntime-node";

import { checkOutputs, drawCategory, generate, readContract, toPixels } from "./mocogan.mjs";

async function main(args) {
  if (args.length !== 4) throw new Error("usage: node generate.mjs MODEL SEED FRAMES OUT");
  const [model, , , out] = args;
  const seed = wholeNumber(args[1], "SEED", 0n, 2n ** 64n - 1n); // A BigInt: seeds go beyond 2^53.
  const frames = Number(wholeNumber(args[2], "FRAMES", 1n, 2n ** 31n - 1n));
  const write = { ".rgb": writeRgb, ".f32": writeFloats, ".png": writeAnimation }[extname(out)];
  if (!write) throw new Error(`OUT must end in .rgb, .f32 or .png. Received: ${out}`);

  const [session, contract] = await load(model);
  const pieces = generate(ort, (latents) => session.run(latents), contract, { seed, frames });
  const file = openSync(out, "w");
  for await (const bytes of write(pieces, contract, frames)) writeSync(file, bytes);
  closeSync(file);

  const { name, height, width, fps, categories, dimCategory } = contract;
  let shown = `${name}: seed ${seed}, ${frames} frames of ${width}x${height}, ${fps} fps`;
  if (dimCategory) {
    const category = drawCategory(contract, seed);
    shown += `, category ${category}` + (categories.length ? ` (${categories[category]})` : "");
  }
  console.log(`${shown} -> ${out}`);
}

function wholeNumber(text, name, low, high) {
  const value = /^[0-9]+$/.test(text) ? BigInt(text) : -1n;
  if (value >= low && value <= high) return value;
  throw new Error(`${name} must be a whole number from ${low} to ${high}. Received: ${text}`);
}

/** Returns [session, contract]. */
async function load(path) {
  let bytes;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new Error(error.code === "ENOENT" ? `No such file: ${path}` : `Cannot read ${path}: ${error.message}`);
  }
  const contract = readContract(bytes, path);
  let session;
  try {
    session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 });
  } catch (error) {
    throw new Error(`${path} is no model that ONNX Runtime can load: ${error.message}`);
  }
  checkOutputs(session, path);
  return [session, contract];
}

async function* writeRgb(pieces, contract) {
  for await (const piece of pieces) yield toPixels(piece, contract);
}

async function* writeFloats(pieces) {
  for await (const piece of pieces) yield new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
}

/** An animated PNG: the chunks of a PNG, with one fcTL (size, duration) and one picture per frame. */
async function* writeAnimation(pieces, contract, frames) {
  const { height, width, fps } = contract;
  const size = height * width * 3;
  let [number, sequence] = [0, 0];
  yield Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
  yield chunk("IHDR", words(width, height), [8, 2, 0, 0, 0]); // 8 bits, RGB.
  yield chunk("acTL", words(frames, 0)); // Played again and again.
  for await (const piece of pieces) {
    const pixels = toPixels(piece, contract);
    for (let at = 0; at < pixels.length; at += size, number++) {
      const delay = Buffer.alloc(6); // The quotient of two numbers, in seconds; then two codes: replace the last frame.
      delay.writeUInt16BE(Math.round(1000 / fps), 0);
      delay.writeUInt16BE(1000, 2);
      yield chunk("fcTL", words(sequence++, width, height, 0, 0), delay);
      const row = 3 * width;
      const rows = Buffer.alloc(height * (1 + row)); // Each begins with its filter: 0, none.
      for (let y = 0; y < height; y++) {
        rows.set(pixels.subarray(at + y * row, at + (y + 1) * row), y * (1 + row) + 1);
      }
      // The first frame is also the picture for programs that do not know animations.
      yield number === 0 ? chunk("IDAT", deflateSync(rows)) : chunk("fdAT", words(sequence++), deflateSync(rows));
    }
  }
  yield chunk("IEND");
}

const words = (...values) => {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => bytes.writeUInt32BE(value, 4 * i));
  return bytes;
};

function chunk(type, ...parts) {
  const body = Buffer.concat([Buffer.from(type, "latin1"), ...parts.map((part) => Buffer.from(part))]);
  return Buffer.concat([words(body.length - 4), body, words(crc32(body))]);
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  console.error(`error: ${error.message.replace(/\s+/g, " ").trim()}`);
  process.exitCode = 1;
}
