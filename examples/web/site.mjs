// Collects what a file server needs in site/: the page, ONNX Runtime's files and a model.
//
//   node site.mjs [BUNDLE]            BUNDLE: a folder of `python -m export`; default: pretrained/taichi
//   node site.mjs [BUNDLE] --serve    also serves site/ on this machine, on port 8080 (or $PORT)

import { cpSync, createReadStream, existsSync, mkdirSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const serve = process.argv.includes("--serve");
const named = process.argv.slice(2).filter((argument) => argument !== "--serve");
const [bundle = join(here, "..", "..", "pretrained", "taichi")] = named;
const ort = join(here, "node_modules", "onnxruntime-web", "dist");
const site = join(here, "site");

const parts = [
  ...["index.html", "page.css", "page.mjs", "icon.svg"].map((name) => [here, name, "."]),
  [join(here, "..", "node"), "mocogan.mjs", "."], // Node and the page share this file.
  // One pair of files for browsers without WebGPU, and one for browsers with it.
  ...["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"].map((name) => [ort, name, "ort"]),
  ...["ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"].map((name) => [ort, name, "ort"]),
  ...["motion.onnx", "frames.onnx"].map((name) => [bundle, name, "model"]),
];
const missing = parts.map(([from, name]) => join(from, name)).find((path) => !existsSync(path));
if (missing) {
  console.error(`error: no such file: ${missing}. ${missing.startsWith(ort) ? "Run npm ci first." : "Name a bundle."}`);
  process.exit(1);
}
rmSync(site, { recursive: true, force: true });
for (const [from, name, to] of parts) {
  mkdirSync(join(site, to), { recursive: true });
  cpSync(join(from, name), join(site, to, name));
}
console.log(`${site}: ${parts.length} files, ready for any file server`);

if (serve) {
  const types = {
    ".html": "text/html",
    ".css": "text/css",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
  };
  const server = createServer((request, answer) => {
    const asked = normalize(decodeURI(new URL(request.url, "http://localhost").pathname));
    const path = join(site, asked.replace(/\/$/, "/index.html"));
    if (!path.startsWith(site) || !existsSync(path) || statSync(path).isDirectory()) return answer.writeHead(404).end();
    answer.writeHead(200, { "Content-Type": types[extname(path)] ?? "application/octet-stream" });
    createReadStream(path).pipe(answer);
  });
  server.listen(process.env.PORT ?? 8080, "127.0.0.1", () => console.log(`http://localhost:${server.address().port}/`));
}
