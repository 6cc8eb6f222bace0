// Shows /openapi.json: routes, fields with their bounds, answers.

const element = (name, text = "", className = "") => Object.assign(document.createElement(name), { textContent: text, className });

function bounds(schema) {
  if (schema.enum) return schema.enum.join(" · ");
  if (schema.anyOf) return schema.anyOf.map(bounds).join(" or ");
  const low = schema.minimum ?? (schema.exclusiveMinimum !== undefined ? `> ${schema.exclusiveMinimum}` : undefined);
  const most = schema.maximum > 2 ** 53 ? "2⁶⁴ − 1" : schema.maximum;
  if (low !== undefined && most === undefined) return `${schema.type} ≥ ${low}`;
  const range = [low, most].filter((value) => value !== undefined).join(" … ");
  const inner = schema.items && Object.keys(schema.items).length ? ` of ${bounds(schema.items)}` : "";
  const fallback = schema.default === undefined ? "" : `, default ${schema.default}`;
  return `${schema.type ?? "any"}${inner} ${range}`.trim() + fallback;
}

// A cell; what stands between backquotes is code.
function cell(text) {
  const made = element("td");
  made.append(...text.split("`").map((part, i) => (i % 2 ? element("code", part) : part)));
  return made;
}

function table(rows, className) {
  const body = element("table", "", className);
  for (const cells of rows) {
    const row = element("tr");
    row.append(...cells.map(cell));
    body.append(row);
  }
  return body;
}

function route(path, method, about) {
  const section = element("section", "", "route");
  const title = element("h2");
  title.append(element("span", method.toUpperCase(), `method ${method}`), path);
  section.append(title, element("p", about.summary));
  const fields = Object.entries(about.requestBody?.content["application/json"]?.schema.properties ?? {});
  const parameters = (about.parameters ?? []).map(({ name, schema }) => [name, schema]);
  const known = fields.length ? fields : parameters;
  if (known.length) section.append(table(known.map(([name, schema]) => [name, bounds(schema), schema.description ?? ""]), "fields"));
  section.append(table(Object.entries(about.responses).map(([code, { description }]) => [code, description])));
  return section;
}

const { paths, info } = await (await fetch("/openapi.json")).json();
document.title = `${info.title} ${info.version}`;
document.getElementById("routes").replaceChildren(
  ...Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, about]) => route(path, method, about))),
);
