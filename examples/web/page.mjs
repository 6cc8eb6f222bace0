// The page: loads a model, generates clips from a seed on this device, plays them. How clips are made: mocogan.mjs.

import { drawCategory, generate, readContract, toPixels } from "./mocogan.mjs";

const $ = (id) => document.getElementById(id);
const MAX_SEED = 2n ** 64n - 1n;

const state = {
  model: null, // What `load` returns.
  seed: 7n,
  frames: 48,
  category: null, // null: the seed draws it.
  clip: [], // One ImageData per frame.
  playing: !matchMedia("(prefers-reduced-motion: reduce)").matches,
  order: 0, // Counts what was asked for, so that an answer to an older wish is dropped.
};

// ---- The model -----------------------------------------------------------------------------------------------------

/** ONNX Runtime on the GPU where the browser has WebGPU, else as WebAssembly: two builds, of which one is loaded. */
async function loadRuntime() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const ort = await import(adapter ? "onnxruntime-web/webgpu" : "onnxruntime-web/wasm");
  ort.env.logLevel = "error";
  // More threads need shared memory, which browsers give to pages with COOP and COEP headers only. One works always.
  if (!globalThis.crossOriginIsolated) ort.env.wasm.numThreads = 1;
  return { ort, gpu: Boolean(adapter) };
}
const runtime = loadRuntime();

/**
 * Makes a model of one file (model.onnx) or of two (motion.onnx and frames.onnx).
 *
 * Two are the better choice in a browser: WebGPU has no GRU, so the small motion network runs as WebAssembly, and the
 * frame decoder, which is nearly all of the work, on the GPU.
 *
 * @param {{name: string, bytes: Uint8Array}[]} files
 */
async function load(files) {
  const { ort, gpu } = await runtime;
  const contract = readContract(files[0].bytes, files[0].name);
  const options = (...executionProviders) => ({ executionProviders, logSeverityLevel: 3 });
  const found = {};
  let device = "WebAssembly";
  for (const { name, bytes } of files) {
    if (readContract(bytes, name).name !== contract.name) {
      throw new Error(`${name} is of another model than ${files[0].name}.`);
    }
    let session;
    try {
      session = await ort.InferenceSession.create(bytes.slice(), options("wasm"));
      if (gpu && !session.outputNames.includes("motion_state")) {
        session = await ort.InferenceSession.create(bytes.slice(), options("webgpu", "wasm"));
        device = "WebGPU";
      }
    } catch (error) {
      throw new Error(`${name} is no model that ONNX Runtime can load: ${error.message}`);
    }
    const gives = (...outputs) => outputs.every((output) => session.outputNames.includes(output));
    if (gives("video", "motion_state")) found.whole = session;
    else if (gives("motion", "motion_state")) found.motion = session;
    else if (gives("video")) found.frames = session;
  }
  const { whole, motion, frames } = found;
  if (!whole && !(motion && frames)) {
    const names = files.map((file) => file.name).join(", ");
    throw new Error(`${names}: needed is model.onnx, or motion.onnx and frames.onnx together.`);
  }
  // The category goes to one of the halves only, so each takes of the latents what it knows.
  const pick = (session, tensors) => Object.fromEntries(session.inputNames.map((name) => [name, tensors[name]]));
  const run = async (latents) => {
    if (whole) return whole.run(latents);
    const codes = await motion.run(pick(motion, latents));
    const { video } = await frames.run(pick(frames, { ...latents, motion: codes.motion }));
    return { video, motion_state: codes.motion_state };
  };
  return { ort, contract, run, device: whole ? "WebAssembly" : device };
}

async function fetchFile(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is not there (${answer.status}): run \`npm run site\`, or open a file.`);
  return { name, bytes: new Uint8Array(await answer.arrayBuffer()) };
}

async function useModel(files) {
  say("Loading the model");
  state.model = await load(await files);
  const { contract, device } = state.model;
  const { name, width, height, fps, videoLength, dimCategory, categories } = contract;
  $("model").textContent = `${name} · ${width}×${height} · ${fps} fps · ${device}`;
  $("clip").width = width;
  $("clip").height = height;
  $("frames").max = 8 * videoLength;
  state.frames = Math.min(state.frames, 8 * videoLength);
  if (state.category !== null && state.category >= dimCategory) state.category = null;
  $("category").hidden = !dimCategory;
  const names = Array.from({ length: dimCategory }, (_, i) => categories[i]?.replaceAll("_", " ") ?? `${i}`);
  $("categories").replaceChildren(...["by the seed", ...names].map((text, i) => chip(text, i - 1)));
  await make();
}

function chip(text, category) {
  const [label, input, span] = ["label", "input", "span"].map((tag) => document.createElement(tag));
  const checked = category === (state.category ?? -1);
  Object.assign(input, { type: "radio", name: "category", value: category, checked });
  input.addEventListener("change", () => change({ category: category < 0 ? null : category }));
  span.textContent = text;
  label.append(input, span);
  return label;
}

// ---- A clip --------------------------------------------------------------------------------------------------------

/** Generates the clip that is asked for, after the one at work: a session runs one thing at a time. */
function make() {
  const order = ++state.order;
  working = working.catch(() => {}).then(() => generateClip(order));
  return working;
}
let working = Promise.resolve();

async function generateClip(order) {
  const { model, seed, frames } = state;
  if (!model || order !== state.order) return; // Another was asked for meanwhile.
  const { contract } = model;
  show();
  say("Generating");
  const category = state.category ?? (contract.dimCategory ? drawCategory(contract, seed) : undefined);
  const [clip, begin] = [[], performance.now()];
  for await (const piece of generate(model.ort, model.run, contract, { seed, frames, category })) {
    const size = contract.height * contract.width * contract.channels;
    for (let at = 0; at < piece.length; at += size) {
      clip.push(new ImageData(toPixels(piece.subarray(at, at + size), contract, 4), contract.width, contract.height));
    }
    await new Promise((resume) => setTimeout(resume)); // Lets the page draw and take another wish.
    if (order !== state.order) return;
  }
  state.clip = clip;
  $("position").max = clip.length - 1;
  drawFilm();
  draw(Math.min(Number($("position").value), clip.length - 1));
  const milliseconds = performance.now() - begin;
  const what = contract.categories[category] ? `, ${contract.categories[category].replaceAll("_", " ")}` : "";
  say(`Seed ${seed}${what}: ${frames} frames in ${milliseconds.toFixed(0)} ms, on this device.`);
}

function draw(index) {
  if (!state.clip.length) return;
  $("position").value = index;
  $("clip").getContext("2d").putImageData(state.clip[index], 0, 0);
  $("frame").textContent = `Frame ${index + 1} of ${state.clip.length}`;
}

/** The strip under the clip: as many frames as fit, evenly chosen, and a line where each further piece begins. */
async function drawFilm() {
  const film = $("film");
  const { width, height, videoLength } = state.model.contract;
  const box = film.getBoundingClientRect();
  const count = Math.max(1, Math.min(state.clip.length, Math.round(box.width / box.height)));
  film.width = count * width;
  film.height = Math.round((film.width * box.height) / box.width);
  const context = film.getContext("2d");
  for (let i = 0; i < count; i++) {
    const picture = await createImageBitmap(state.clip[Math.floor(((i + 0.5) * state.clip.length) / count)]);
    context.drawImage(picture, i * width, (film.height - height) / 2);
  }
  const lines = [];
  for (let first = videoLength; first < state.clip.length; first += videoLength) {
    const line = document.createElement("i");
    line.style.left = `${(100 * first) / state.clip.length}%`;
    lines.push(line);
  }
  $("pieces").replaceChildren(...lines);
}

let last = 0;
function tick(now) {
  if (state.playing && state.clip.length && now - last >= 1000 / state.model.contract.fps) {
    last = now;
    draw((Number($("position").value) + 1) % state.clip.length);
  }
  requestAnimationFrame(tick);
}

// ---- Controls ------------------------------------------------------------------------------------------------------

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function fail(error) {
  say(error.message, true);
}

/** Shows what is asked for, here and in the address, so that a link brings the clip back. */
function show() {
  const { seed, frames, category, playing, model } = state;
  if (document.activeElement !== $("seed")) $("seed").value = seed;
  $("seed-slider").value = seed < 100n ? Number(seed) : 99;
  $("frames").value = frames;
  $("frames-shown").textContent = `${frames} frames`;
  $("play").setAttribute("aria-pressed", playing);
  $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  const length = model?.contract.videoLength;
  const pieces = Math.ceil(frames / length);
  $("pieces-shown").textContent = !length ? "" : pieces === 1
    ? `One piece; the model was trained on ${length} frames.`
    : `${pieces} pieces of up to ${length} frames, each going on where the last one's motion ended.`;
  const wish = new URLSearchParams({ seed, frames });
  if (category !== null) wish.set("category", category);
  history.replaceState(null, "", `#${wish}`);
}

function change(wish) {
  Object.assign(state, wish);
  make().catch(fail);
}

function readAddress() {
  const wish = new URLSearchParams(location.hash.slice(1));
  const seed = parseSeed(wish.get("seed") ?? "7");
  if (seed !== null) state.seed = seed;
  const frames = Number(wish.get("frames") ?? 48);
  if (Number.isInteger(frames) && frames > 0) state.frames = frames;
  state.category = /^[0-9]+$/.test(wish.get("category") ?? "") ? Number(wish.get("category")) : null;
}

function parseSeed(text) {
  return /^[0-9]+$/.test(text) && BigInt(text) <= MAX_SEED ? BigInt(text) : null;
}

$("seed").addEventListener("input", () => {
  const seed = parseSeed($("seed").value.trim());
  $("seed").setAttribute("aria-invalid", seed === null);
  if (seed === null) say(`A seed is a whole number from 0 to ${MAX_SEED}.`, true);
  else change({ seed });
});
$("seed-slider").addEventListener("input", () => change({ seed: BigInt($("seed-slider").value) }));
$("dice").addEventListener("click", () => change({ seed: BigInt(crypto.getRandomValues(new Uint32Array(1))[0]) }));
$("frames").addEventListener("input", () => change({ frames: Number($("frames").value) }));
$("position").addEventListener("input", () => {
  state.playing = false;
  show();
  draw(Number($("position").value));
});
$("play").addEventListener("click", () => {
  state.playing = !state.playing;
  show();
});
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());

const open = (list) =>
  useModel(
    Promise.all([...list].map(async (file) => ({ name: file.name, bytes: new Uint8Array(await file.arrayBuffer()) }))),
  ).catch(fail);
$("files").addEventListener("change", () => open($("files").files));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  open(event.dataTransfer.files);
});
addEventListener("resize", () => state.clip.length && drawFilm());
addEventListener("hashchange", () => {
  readAddress();
  make().catch(fail);
});

readAddress();
requestAnimationFrame(tick);
useModel(Promise.all([fetchFile("model/motion.onnx"), fetchFile("model/frames.onnx")])).catch(fail);
