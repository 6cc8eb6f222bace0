// Generates clips from an exported MoCoGAN, in Node with onnxruntime-node.
//
//   node generate.mjs MODEL SEED FRAMES OUT
//
// OUT ends in .rgb (raw uint8 [frames, height, width, 3]) or in .f32 (the model's own float32 values [frames, height,
// width, channels]). mocogan.mjs makes the clips.

import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { extname } from "node:path";

import ort from "onnxruntime-node";

import { checkOutputs, drawCategory, generate, readContract, toPixels } from "./mocogan.mjs";

async function main(args) {
  if (args.length !== 4) throw new Error("usage: node generate.mjs MODEL SEED FRAMES OUT");
  const [model, , , out] = args;
  const seed = wholeNumber(args[1], "SEED", 0n, 2n ** 64n - 1n); // A BigInt, because seeds go beyond 2^53.
  const frames = Number(wholeNumber(args[2], "FRAMES", 1n, 2n ** 31n - 1n));
  const ending = extname(out);
  if (![".rgb", ".f32"].includes(ending)) throw new Error(`OUT must end in .rgb or .f32. Received: ${out}`);

  const [session, contract] = await load(model);
  const pieces = generate(ort, (latents) => session.run(latents), contract, { seed, frames });
  const file = openSync(out, "w");
  for await (const piece of pieces) {
    const floats = new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
    writeSync(file, ending === ".rgb" ? toPixels(piece, contract) : floats);
  }
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

try {
  await main(process.argv.slice(2));
} catch (error) {
  console.error(`error: ${error.message.replace(/\s+/g, " ").trim()}`);
  process.exitCode = 1;
}
