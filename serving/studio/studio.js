// The studio: every picture on this page comes from this server's own API, see /docs.

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
// Pictures with a row per clip and a column per frame. Single clips are lossless: WebP's colours run over the edges of
// neighbouring frames, which is visible when a frame is enlarged; the small cells of the grid do not need that.
const PREVIEW = { "/v1/generate": "png", "/v1/grid": "sheet" };

const state = {
  model: null, info: null, playing: !calm.matches, fps: 8, frames: 16, seed: 0, category: null, endless: null, picture: null, pictures: [], key: sessionStorage.getItem("key") ?? "",
  content: { seed: 0, to: 0, blend: 0, scale: 1, lock: false },
  motion: { seed: 0, to: 0, blend: 0, scale: 1, lock: false },
  pair: { content: [0, 0], motion: [0, 0], category: [null, null] },
  grid: { rows: [], columns: [], vary: "both" },
};

const roll = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
// Ends early if the signal is given.
const wait = (ms, signal) => new Promise((done) => { setTimeout(done, ms); signal?.addEventListener("abort", done, { once: true }); });
const debounce = (ms, run) => { let timer; return (...given) => { clearTimeout(timer); timer = setTimeout(() => run(...given), ms); }; };

// ---- Talking to the server ----

function say(text, bad = false) { $("status").textContent = text; $("status").classList.toggle("bad", bad); }

async function askForKey() {
  const dialog = $("key-dialog");
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  state.key = $("key").value.trim();
  sessionStorage.setItem("key", state.key);
}

// Requests for frames go one after another: two of one page at once may be more than a slow server takes.
let turn = Promise.resolve();
function call(path, body, signal) {
  if (!body) return ask(path);
  const answer = turn.then(() => ask(path, body, signal));
  turn = answer.catch(() => {});
  return answer;
}

async function ask(path, body, signal) {
  for (let attempt = 0; ; attempt++) {
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(state.key && { Authorization: `Bearer ${state.key}` }) };
    const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    if (response.ok) return response;
    if (response.status === 401) { await askForKey(); continue; }
    if ((response.status === 429 || response.status === 503) && attempt < 5) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      say(`The server is busy, trying again in ${seconds} s`);
      await wait(seconds * 1000 * (1 + Math.random() / 2), signal);
      continue;
    }
    const { error } = await response.json().catch(() => ({ error: response.statusText }));
    throw new Error(error);
  }
}

// The line in a panel that has no picture yet, or whose request failed.
const PANELS = { clip: () => showClip(), pair: () => showPair(), grid: () => showGrid() };
const PATIENCE = 10; // Seconds, after which a panel offers to try again.

function note(slot, text, again) {
  const line = $(`${slot}-note`);
  line.hidden = !text;
  line.classList.toggle("bad", Boolean(again));
  line.replaceChildren(text);
  if (!again) return;
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
  button.addEventListener("click", again);
  line.append(button);
}

const isEmpty = (slot) => !screens.has(slot === "grid" ? $("grid").querySelector("canvas") : $(slot === "clip" ? "clip" : "left"));
// A browser's own words for a server that cannot be reached differ, and say little.
const words = (error) => (error instanceof TypeError ? "The server does not answer." : error.message);

// One running request per slot: a newer one cancels the older, and the server then drops it before its turn.
const running = {};
async function latest(slot, run) {
  running[slot]?.abort();
  const control = running[slot] = new AbortController();
  let late;
  if (slot in PANELS && isEmpty(slot)) {
    note(slot, "Waiting for the server …");
    late = setTimeout(() => note(slot, `Nothing has come for ${PATIENCE} s.`, PANELS[slot]), 1000 * PATIENCE);
  }
  try {
    const done = await run(control.signal);
    if (slot in PANELS) note(slot, "");
    return done;
  } catch (error) {
    if (error.name === "AbortError") return null;
    const inPanel = slot in PANELS && (slot !== "clip" || isEmpty(slot)); // A line would cover the clip that plays.
    if (inPanel) note(slot, words(error), PANELS[slot]); else say(words(error), true);
    return null;
  } finally {
    clearTimeout(late);
    if (running[slot] === control) delete running[slot];
  }
}

// ---- Showing clips ----

// A film is a picture with `count` frames side by side, row `row` of a sheet.
class Film {
  constructor(sheet, row = 0) { [this.sheet, this.row, this.w, this.h] = [sheet, row, state.model.width, state.model.height]; }
  // A picture of one frame: enlarging a part of the sheet would mix its neighbours into the edges.
  frame(index) {
    this.frames ??= [];
    if (!this.frames[index]) {
      const canvas = this.frames[index] = document.createElement("canvas");
      [canvas.width, canvas.height] = [this.w, this.h];
      canvas.getContext("2d").drawImage(this.sheet, index * this.w, this.row * this.h, this.w, this.h, 0, 0, this.w, this.h);
    }
    return this.frames[index];
  }
  get count() { return Math.floor(this.sheet.width / this.w); }
  draw(canvas, index) {
    const side = Math.min(Math.round(canvas.clientWidth * devicePixelRatio) || this.w, 1280);
    if (canvas.width !== side) { canvas.width = side; canvas.height = Math.round(side * this.h / this.w); }
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.frame(index), 0, 0, canvas.width, canvas.height);
  }
}

const screens = new Map(); // canvas -> film
let clock = 0;
let last = performance.now();
let shown = -1;

function frameOf(film) { return Math.floor(clock) % film.count; }

function paint(force = false) {
  if (!force && Math.floor(clock) === shown) return;
  shown = Math.floor(clock);
  for (const [canvas, film] of screens) if (film && (canvas !== $("clip") || !state.endless)) film.draw(canvas, frameOf(film));
  const film = screens.get($("clip"));
  if (film && !state.endless) { glow(); strip(film); }
}

function glow() {
  const canvas = $("glow");
  canvas.width = canvas.height = 32;
  canvas.getContext("2d").drawImage($("clip"), 0, 0, 32, 32);
}

function strip(film) {
  const canvas = $("strip");
  const [width, height] = [canvas.clientWidth * devicePixelRatio, canvas.clientHeight * devicePixelRatio].map(Math.round);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  const each = width / film.count;
  const cut = Math.min(film.w, film.h * each / height); // The middle of each frame, so that none is squeezed.
  const tall = Math.min(film.h, film.w * height / each); // Of a single picture.
  for (let i = 0; i < film.count; i++) {
    context.globalAlpha = i === frameOf(film) ? 1 : 0.45;
    context.drawImage(film.sheet, i * film.w + (film.w - cut) / 2, film.row * film.h + (film.h - tall) / 2, cut, tall, i * each, 0, Math.ceil(each), height);
  }
  context.globalAlpha = 1;
  context.lineWidth = 3 * devicePixelRatio;
  context.strokeStyle = "#fff";
  context.strokeRect(frameOf(film) * each + context.lineWidth / 2, context.lineWidth / 2, Math.max(each - context.lineWidth, 4), height - context.lineWidth);
  canvas.setAttribute("aria-valuemax", film.count);
  canvas.setAttribute("aria-valuenow", frameOf(film) + 1);
}

function tick(now) {
  if (state.playing) clock += Math.min(now - last, 500) / 1000 * state.fps;
  last = now;
  paint();
  requestAnimationFrame(tick);
}

function setPlaying(on) {
  state.playing = on;
  $("play").setAttribute("aria-pressed", on);
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  state.endless?.send({ pause: !on });
}

async function fetchSheet(route, body, signal) {
  const response = await call(route, { model: state.model.name, format: PREVIEW[route], ...body }, signal);
  const sheet = await createImageBitmap(await response.blob());
  return { sheet, response };
}

// ---- The stage ----

function fields() {
  const { content, motion } = state;
  const mix = (name, part) => ({
    [`${name}_seed`]: String(part.seed),
    ...(part.blend > 0 && { [`${name}_seed_to`]: String(part.to), [`${name}_blend`]: part.blend }),
    ...(part.scale !== 1 && { [`${name}_scale`]: part.scale }),
  });
  const { content_seed, ...mixed } = mix("content", content);
  const shown = state.picture ? { image: state.picture.image } : { content_seed };
  return { seed: String(state.seed), num_frames: state.frames, ...shown, ...mixed, ...mix("motion", motion), ...(state.category !== null && { category: state.category }) };
}

async function showClip() {
  remember();
  if (state.endless) return;
  const begin = performance.now();
  await latest("clip", async (signal) => {
    const { sheet, response } = await fetchSheet("/v1/generate", fields(), signal);
    if (state.endless) return;
    screens.set($("clip"), new Film(sheet));
    const own = /^number (\d+)/.exec(response.headers.get("X-Picture") ?? "");
    if (own) mark(state.pictures[own[1] - 1], own[1] - 1);
    describe();
    paint(true);
    const timing = Object.fromEntries([...(response.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]));
    say(`${state.frames} frames rendered in ${Math.round(timing.render ?? 0)} ms, here after ${Math.round(performance.now() - begin)} ms`);
  });
}
const showSoon = debounce(40, showClip);

function describe() {
  const kind = state.category === null ? "" : `, category ${state.model.categories[state.category]}`;
  const shown = state.picture ? state.picture.name : `content ${state.content.seed}`;
  $("clip").setAttribute("aria-label", `Clip with ${shown} and motion ${state.motion.seed}${kind}`);
}

function syncControls() {
  for (const name of ["content", "motion"]) {
    const part = state[name];
    const other = name === "content" && state.picture;
    Object.assign($(`${name}-seed`), { value: other ? "" : part.seed, placeholder: other ? other.name : "" });
    $(`${name}-seed`).removeAttribute("aria-invalid");
    $(`${name}-blend`).value = part.blend;
    $(`${name}-scale`).value = part.scale;
    $(`${name}-blend-out`).textContent = `${Math.round(part.blend * 100)} %`;
    $(`${name}-scale-out`).textContent = part.scale.toFixed(2);
  }
  $("frames").value = state.frames;
  $("frames-out").textContent = state.frames;
  $("fps").value = state.fps;
  $("fps-out").textContent = `${state.fps} fps`;
  for (const input of $("categories").querySelectorAll("input")) input.checked = input.value === String(state.category ?? "");
}

function rollPart(name) {
  const part = state[name];
  part.seed = roll();
  part.to = roll();
  part.blend = 0;
  if (name === "content") state.picture = null;
  const dice = document.querySelector(`[data-dice="${name}"]`);
  dice.classList.remove("roll");
  void dice.offsetWidth;
  dice.classList.add("roll");
}

function newClip(...names) {
  for (const name of names.length ? names : ["content", "motion"]) if (names.length || !state[name].lock) rollPart(name);
  if (!names.length && state.category === null) state.seed = roll();
  syncControls();
  if (state.endless) {
    state.endless.send({ ...(!state.picture && { content_seed: String(state.content.seed) }), motion_seed: String(state.motion.seed), transition_frames: state.frames });
    remember();
  } else showClip();
}

// ---- Endless ----

class Endless {
  constructor() {
    const url = new URL("/v1/stream", location);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.queue = [];
    this.frames = 0;
    this.socket.onopen = () => this.send({
      model: state.model.name, seed: String(state.seed), ...(state.picture ? { image: small(state.picture) } : { content_seed: String(state.content.seed) }), motion_seed: String(state.motion.seed), fps: state.fps,
      motion_scale: state.motion.scale, chunk_frames: 4, format: "raw", ...(state.category !== null && { category: state.category }), ...(state.key && { api_key: state.key }),
    });
    this.socket.onmessage = ({ data }) => this.receive(data);
    this.socket.onclose = () => { if (state.endless === this) stopEndless(); };
    this.timer = setInterval(() => this.show(), 1000 / state.fps);
  }
  send(message) { if (this.socket.readyState === 1) this.socket.send(JSON.stringify(message)); }
  receive(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.error) say(message.error, true);
      else this.start = message;
      return;
    }
    const { width, height, channels } = this.start;
    const pixels = new Uint8Array(data);
    for (let at = 0; at < pixels.length; at += width * height * channels) {
      const image = new ImageData(width, height);
      for (let i = 0, o = at; i < image.data.length; i += 4, o += channels) {
        image.data[i] = pixels[o];
        image.data[i + 1] = pixels[o + (channels > 1 ? 1 : 0)];
        image.data[i + 2] = pixels[o + (channels > 1 ? 2 : 0)];
        image.data[i + 3] = 255;
      }
      this.queue.push(image);
    }
    if (this.queue.length > 64) this.queue.splice(0, this.queue.length - 64);
  }
  async show() {
    if (!state.playing || !this.queue.length) return;
    const picture = await createImageBitmap(this.queue.shift());
    if (state.endless !== this) return;
    new Film(picture).draw($("clip"), 0);
    picture.close();
    this.frames++;
    glow();
    if (this.frames % state.fps === 0) say(`Frame ${this.frames} of a clip without end`);
  }
  speed() { clearInterval(this.timer); this.timer = setInterval(() => this.show(), 1000 / state.fps); this.send({ fps: state.fps }); }
  close() { clearInterval(this.timer); this.socket.close(); }
}

function startEndless() {
  running.clip?.abort();
  note("clip", "");
  state.endless = new Endless();
  setPlaying(true);
  $("endless").setAttribute("aria-pressed", "true");
  $("badge").hidden = false;
  $("strip").hidden = true;
}

function stopEndless() {
  const endless = state.endless;
  state.endless = null;
  endless?.close();
  $("endless").setAttribute("aria-pressed", "false");
  $("badge").hidden = true;
  $("strip").hidden = false;
  showClip();
}

// ---- Pictures, where the model animates them ----

const FIRST_MESSAGE = 30_000; // Characters of a picture that a stream's first message has room for.
const small = ({ image, canvas }) => (image.length <= FIRST_MESSAGE ? image : canvas.toDataURL("image/jpeg", 0.9));

// The central square of a picture in the model's size, on white.
async function fitted(source) {
  const { width, height } = state.model;
  const side = Math.min(source.width, source.height);
  const [left, top] = [Math.floor((source.width - side) / 2), Math.floor((source.height - side) / 2)];
  const square = await createImageBitmap(source, left, top, side, side, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(square, 0, 0);
  return canvas;
}

async function takeFile(file) {
  if (!file || state.model?.content_from !== "pictures") return;
  try {
    const source = await createImageBitmap(file);
    state.content.lock = $("content-lock").checked = true;
    await animate(await fitted(source), "your picture");
    say(`${file.name}: ${source.width} × ${source.height}, its central square in ${state.model.width} × ${state.model.height}`);
  } catch {
    say(`${file.name} is no picture that this browser can read`, true);
  }
}

// Shows a picture at once, and its clip as soon as it is there.
async function animate(canvas, name, index = -1) {
  state.picture = { canvas, name, image: canvas.toDataURL("image/png") };
  Object.assign(state.content, { blend: 0, scale: 1 });
  mark(canvas, index);
  syncControls();
  if (state.endless) {
    state.endless.close();
    startEndless();
  } else {
    screens.set($("clip"), new Film(canvas));
    paint(true);
    await showClip();
  }
  document.querySelector("[name=vary][value=motion]").checked = true;
  state.grid.vary = "motion";
  await showGrid();
}

function mark(canvas, index) {
  const inset = $("inset");
  inset.hidden = !canvas;
  if (canvas) {
    [inset.width, inset.height] = [canvas.width, canvas.height];
    inset.getContext("2d").drawImage(canvas, 0, 0);
  }
  [...$("pictures").children].forEach((button, i) => button.setAttribute("aria-current", i === index));
}

async function makePictures() {
  const on = state.model.content_from === "pictures";
  Object.assign(state, { picture: null, pictures: [] });
  mark(null, -1);
  $("own").hidden = $("pictures").hidden = !on;
  $("content-strength").hidden = on;
  $("content-what").textContent = on ? "the picture that moves" : "what it shows";
  if (!on) return;
  state.content.scale = 1; // A link may say otherwise.
  const sheet = await createImageBitmap(await (await call(`/v1/pictures?model=${encodeURIComponent(state.model.name)}`)).blob());
  const { width, height } = state.model;
  state.pictures = Array.from({ length: sheet.width / width }, (_, i) => {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(sheet, i * width, 0, width, height, 0, 0, width, height);
    return canvas;
  });
  $("pictures").replaceChildren(...state.pictures.map((canvas, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button", ariaLabel: `Picture ${i + 1}` });
    button.append(canvas);
    button.addEventListener("click", () => animate(canvas, `picture ${i + 1}`, i));
    return button;
  }));
}

function wirePictures() {
  const stage = $("stage");
  $("own").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", ({ target }) => { takeFile(target.files[0]); target.value = ""; });
  document.addEventListener("paste", ({ clipboardData }) => takeFile([...clipboardData.files].find(({ type }) => type.startsWith("image/"))));
  for (const kind of ["dragover", "dragleave", "drop"]) stage.addEventListener(kind, (event) => {
    if (state.model?.content_from !== "pictures" || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    stage.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop") takeFile(event.dataTransfer.files[0]);
  });
}

// ---- The pair ----

async function showPair() {
  const { content, motion, category } = state.pair;
  await latest("pair", async (signal) => {
    const side = (i) => fetchSheet("/v1/generate", {
      seed: String(state.seed), num_frames: state.model.video_length, content_seed: String(content[i]), motion_seed: String(motion[i]),
      ...(category[i] !== null && { category: category[i] }),
    }, signal);
    const films = await Promise.all([side(0), side(1)]);
    ["left", "right"].forEach((name, i) => {
      screens.set($(name), new Film(films[i].sheet));
      const kind = category[i] === null ? "" : ` ${state.model.categories[category[i]]}`;
      $(name).setAttribute("aria-label", `${name} clip: content ${content[i]}, motion ${motion[i]}${kind}`);
      const tags = [["c", `content ${content[i]}`], ["m", `motion ${motion[i]}${kind}`]].map(([kind, text]) => Object.assign(document.createElement("span"), { className: `tag ${kind}`, textContent: text }));
      $(`${name}-caption`).replaceChildren(...tags);
    });
    paint(true);
  });
}

function rollPair() {
  const kinds = state.model.categories.length;
  const first = kinds ? roll() % kinds : null;
  state.pair = { content: [roll(), roll()], motion: [roll(), roll()], category: kinds ? [first, (first + 1) % kinds] : [null, null] };
  return showPair();
}

function swapMotion() {
  // A category that belongs to the motion is exchanged with it.
  state.pair.motion.reverse();
  if (state.model.category_to !== "image") state.pair.category.reverse();
  const pair = document.querySelector(".pair");
  pair.classList.remove("swapping");
  void pair.offsetWidth;
  pair.classList.add("swapping");
  return showPair();
}

// ---- The grid ----

function gridBody() {
  const { rows, columns, vary } = state.grid;
  const columnKinds = state.model.categories.length && state.category === null && state.model.category_to !== "image";
  const picture = vary === "motion" ? state.picture : null;
  const contents = vary === "motion" ? [state.content.seed] : rows;
  const motions = vary === "content" ? [state.motion.seed] : columns;
  return {
    seed: String(state.seed), num_frames: state.model.video_length, ...(picture ? { image: picture.image } : { content_seeds: contents.map(String) }), motion_seeds: motions.map(String),
    ...(state.category !== null && { category: state.category }),
    ...(columnKinds && vary !== "content" && { categories: motions.map((_, i) => i % state.model.categories.length) }),
  };
}

async function showGrid() {
  const { vary } = state.grid;
  const size = matchMedia("(max-width: 560px)").matches ? 4 : 6;
  const long = size === 4 ? 12 : 18;
  const need = { rows: vary === "content" ? long : 4, columns: vary === "motion" ? long : size };
  for (const name of ["rows", "columns"]) {
    while (state.grid[name].length < need[name]) state.grid[name].push(roll());
    state.grid[name].length = need[name];
  }
  const body = gridBody();
  const name = state.picture?.name;
  await latest("grid", async (signal) => {
    const { sheet } = await fetchSheet("/v1/grid", body, signal);
    const grid = $("grid");
    grid.style.setProperty("--columns", size);
    for (const canvas of grid.querySelectorAll("canvas")) screens.delete(canvas);
    const cells = (body.content_seeds ?? [null]).flatMap((content, row) => body.motion_seeds.map((motion, column) => {
      const [cell, canvas] = [document.createElement("button"), document.createElement("canvas")];
      const category = body.categories?.[column] ?? body.category ?? null;
      const kind = category === null ? "" : `, ${state.model.categories[category]}`;
      cell.type = "button";
      cell.className = "cell";
      const shown = content === null ? name : `content ${content}`;
      cell.setAttribute("aria-label", `${shown[0].toUpperCase()}${shown.slice(1)}, motion ${motion}${kind}: take to the stage`);
      cell.title = `${shown}\nmotion ${motion}${kind}`;
      cell.append(canvas);
      cell.dataset.row = row;
      cell.dataset.column = column;
      cell.addEventListener("click", () => choose(cell, content && Number(content), Number(motion), category));
      if (vary === "both") for (const [on, off] of [["pointerenter", "pointerleave"], ["focus", "blur"]]) {
        cell.addEventListener(on, () => cross(row, column, true));
        cell.addEventListener(off, () => cross(row, column, false));
      }
      screens.set(canvas, new Film(sheet, row * body.motion_seeds.length + column));
      return cell;
    }));
    grid.replaceChildren(...cells);
    paint(true);
  });
}

function cross(row, column, on) {
  for (const cell of $("grid").children) {
    cell.classList.toggle("same-row", on && Number(cell.dataset.row) === row && Number(cell.dataset.column) !== column);
    cell.classList.toggle("same-column", on && Number(cell.dataset.column) === column && Number(cell.dataset.row) !== row);
  }
}

function choose(cell, content, motion, category) {
  for (const other of $("grid").children) other.removeAttribute("aria-current");
  cell.setAttribute("aria-current", "true");
  if (content !== null) state.picture = null;
  Object.assign(state.content, { ...(content !== null && { seed: content }), blend: 0, scale: 1 });
  Object.assign(state.motion, { seed: motion, blend: 0, scale: 1 });
  if (category !== null) state.category = category;
  syncControls();
  if (state.endless) {
    state.endless.send({ ...(content !== null && { content_seed: String(content) }), motion_seed: String(motion), transition_frames: state.frames, ...(category !== null && { category }) });
  } else showClip();
  $("stage").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "start" });
}

// ---- Files and links ----

async function save(body, route, extension, name) {
  say("Preparing the file");
  await latest("save", async (signal) => {
    const response = await call(route, { model: state.model.name, fps: state.fps, ...body }, signal);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = `${name}.${extension}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(`Saved ${link.download}`);
  });
}

const FILES = { webp: ["WebP", "animation"], gif: ["GIF", "animation"], apng: ["APNG", "lossless"], mp4: ["MP4", "video"], webm: ["WebM", "video"], png: ["PNG", "all frames"], npy: ["NPY", "array"] };
const ENDING = { apng: "png" };

function makeFormats() {
  const buttons = Object.entries(FILES).filter(([format]) => format in state.info.formats).map(([format, [title, what]]) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(title, Object.assign(document.createElement("small"), { textContent: what }));
    button.addEventListener("click", () => {
      $("download").open = false;
      const scale = format === "npy" || format === "png" ? 1 : 4;
      save({ ...fields(), format, scale }, "/v1/generate", ENDING[format] ?? format, `${state.model.name}-${state.content.seed}-${state.motion.seed}`);
    });
    return button;
  });
  $("formats").replaceChildren(...buttons);
}

const KEPT = ["seed", "category", "frames", "fps"];
function remember() {
  const query = new URLSearchParams({ model: state.model.name });
  for (const name of KEPT) if (state[name] !== null) query.set(name, state[name]);
  for (const name of ["content", "motion"]) {
    const { seed, to, blend, scale } = state[name];
    query.set(name, [seed, ...(blend || scale !== 1 ? [to, blend, scale] : [])].join("~"));
  }
  history.replaceState(null, "", `#${query}`);
}

function recall() {
  const query = new URLSearchParams(location.hash.slice(1));
  const number = (text, low, high) => { const value = Number(text); return text !== null && text !== "" && value >= low && value <= high ? value : null; };
  state.seed = number(query.get("seed"), 0, 1e6) ?? roll();
  state.frames = number(query.get("frames"), 4, 64) ?? state.frames;
  state.fps = number(query.get("fps"), 1, 30) ?? state.fps;
  state.category = number(query.get("category"), 0, state.model.categories.length - 1);
  for (const name of ["content", "motion"]) {
    const [seed, to, blend, scale] = (query.get(name) ?? "").split("~").map((text) => text || null);
    Object.assign(state[name], { seed: number(seed, 0, 2 ** 53) ?? roll(), to: number(to, 0, 2 ** 53) ?? roll(), blend: number(blend, 0, 1) ?? 0, scale: number(scale, 0, 2) ?? 1 });
  }
}

// ---- Putting it together ----

function makeCategories() {
  const names = state.model.categories;
  const group = $("categories");
  group.hidden = !names.length;
  const chips = [["", "by seed"], ...names.map((name, i) => [String(i), name])].map(([value, text]) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "category", value });
    input.addEventListener("change", () => {
      state.category = value === "" ? null : Number(value);
      if (state.endless && state.category !== null) state.endless.send({ category: state.category, transition_frames: state.frames });
      showClip();
      showGrid();
    });
    label.append(input, Object.assign(document.createElement("span"), { textContent: text }));
    return label;
  });
  group.replaceChildren(...chips);
}

function about() {
  const { engine, name, version, width, height } = state.model;
  const where = engine.provider.replace("ExecutionProvider", "");
  $("about").textContent = `${name}, version ${version}, ${width} × ${height}, on ${where} in ${engine.precision} with ONNX Runtime ${engine.onnxruntime}`;
}

async function useModel(model, fromLink) {
  state.model = model;
  state.fps = Math.round(model.fps);
  state.frames = Math.min(64, model.video_length);
  if (fromLink) recall(); else state.category = null;
  if (state.endless) stopEndless();
  makeCategories();
  makeFormats();
  syncControls();
  about();
  await makePictures().catch((error) => say(words(error), true));
  await showClip();
  await rollPair();
  await showGrid();
}

function wire() {
  $("play").addEventListener("click", () => setPlaying(!state.playing));
  $("surprise").addEventListener("click", () => newClip());
  $("endless").addEventListener("click", () => (state.endless ? stopEndless() : startEndless()));
  for (const dice of document.querySelectorAll("[data-dice]")) dice.addEventListener("click", () => newClip(dice.dataset.dice));
  for (const name of ["content", "motion"]) {
    $(`${name}-lock`).addEventListener("change", (event) => { state[name].lock = event.target.checked; });
    $(`${name}-seed`).addEventListener("input", (event) => {
      const good = /^\d{1,15}$/.test(event.target.value);
      event.target.setAttribute("aria-invalid", !good);
      if (!good) return;
      Object.assign(state[name], { seed: Number(event.target.value), blend: 0 });
      if (name === "content") state.picture = null;
      $(`${name}-blend`).value = 0;
      $(`${name}-blend-out`).textContent = "0 %";
      showSoon();
    });
    for (const slider of ["blend", "scale"]) $(`${name}-${slider}`).addEventListener("input", (event) => {
      state[name][slider] = Number(event.target.value);
      $(`${name}-${slider}-out`).textContent = slider === "blend" ? `${Math.round(state[name].blend * 100)} %` : state[name].scale.toFixed(2);
      if (state.endless && slider === "scale" && name === "motion") state.endless.send({ motion_scale: state.motion.scale });
      showSoon();
    });
  }
  $("frames").addEventListener("input", (event) => { state.frames = Number(event.target.value); $("frames-out").textContent = state.frames; showSoon(); });
  $("fps").addEventListener("input", (event) => { state.fps = Number(event.target.value); $("fps-out").textContent = `${state.fps} fps`; state.endless?.speed(); remember(); });
  $("swap").addEventListener("click", swapMotion);
  $("swap-roll").addEventListener("click", rollPair);
  $("roll-rows").addEventListener("click", () => { state.grid.rows = []; if (state.grid.vary === "motion") newClip("content"); showGrid(); });
  $("roll-columns").addEventListener("click", () => { state.grid.columns = []; if (state.grid.vary === "content") newClip("motion"); showGrid(); });
  for (const input of document.querySelectorAll("[name=vary]")) input.addEventListener("change", () => { state.grid.vary = input.value; showGrid(); });
  $("save-grid").addEventListener("click", () => save({ ...gridBody(), format: "gif", scale: 2 }, "/v1/grid", "gif", `${state.model.name}-grid`));
  $("share").addEventListener("click", async () => {
    remember();
    await navigator.clipboard?.writeText(location.href).then(() => say("Link copied"), () => say(location.href));
  });
  $("model").addEventListener("change", (event) => useModel(state.info.models[event.target.value], false));
  const scrub = (event) => {
    const film = screens.get($("clip"));
    if (!film || (event.type === "pointermove" && !event.buttons)) return;
    setPlaying(false);
    const box = $("strip").getBoundingClientRect();
    clock = Math.max(0, Math.min(film.count - 1, Math.floor((event.clientX - box.left) / box.width * film.count)));
    paint(true);
  };
  for (const kind of ["pointerdown", "pointermove"]) $("strip").addEventListener(kind, scrub);
  $("strip").addEventListener("keydown", (event) => {
    const film = screens.get($("clip"));
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    const to = { Home: 0, End: film && film.count - 1 }[event.key] ?? (step && frameOf(film) + step);
    if (!film || to === undefined) return;
    event.preventDefault();
    setPlaying(false);
    clock = (to + film.count) % film.count;
    paint(true);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=range]), select, dialog")) return;
    const action = { n: () => newClip(), c: () => newClip("content"), m: () => newClip("motion"), s: swapMotion, e: () => $("endless").click() }[event.key];
    if (action) action();
    else if (event.key === " " && !event.target.closest("button, summary, a")) { event.preventDefault(); setPlaying(!state.playing); }
  });
  document.addEventListener("click", (event) => { if (!event.target.closest("#download")) $("download").open = false; });
  wirePictures();
  wireTheme();
  addEventListener("resize", debounce(150, () => paint(true)));
}

function wireTheme() {
  const themes = ["", "light", "dark"];
  const names = { "": "as the system", light: "light", dark: "dark" };
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    $("theme").setAttribute("aria-label", `Colour scheme: ${names[theme]}`);
    $("theme").title = names[theme];
  };
  apply(localStorage.getItem("theme") ?? "");
  $("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
    localStorage.setItem("theme", next);
    apply(next);
  });
}

async function main() {
  wire();
  setPlaying(state.playing);
  requestAnimationFrame(tick);
  const all = (...said) => Object.keys(PANELS).forEach((slot) => note(slot, ...said));
  const reload = () => location.reload();
  all("Waiting for the server …");
  const late = setTimeout(() => all(`The server has not answered for ${PATIENCE} s.`, reload), 1000 * PATIENCE);
  try {
    state.info = await (await call("/info")).json();
  } catch (error) {
    say(words(error), true);
    all(words(error), reload);
    return;
  } finally {
    clearTimeout(late);
  }
  const { models, default_model: first } = state.info;
  const options = models.map(({ name, version }, i) => Object.assign(document.createElement("option"), { value: i, textContent: models.filter((m) => m.name === name).length > 1 ? `${name} · ${version}` : name }));
  $("model").replaceChildren(...options);
  const asked = new URLSearchParams(location.hash.slice(1)).get("model") ?? first;
  const index = Math.max(0, models.findLastIndex(({ name }) => name === asked));
  $("model").value = index;
  await useModel(models[index], true);
}

main();
