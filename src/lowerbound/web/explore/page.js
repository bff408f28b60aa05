// The page of `lowerbound explore`. Everything comes from the server of this page; all text of the
// data is set as text, never as HTML.
const $ = (id) => document.getElementById(id);
const api = (path) => "api/" + path;

// Elements, requests and numbers.

function make(tag, properties = {}, ...children) {
  const { data, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(data || {})) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function trouble(text) {
  $("trouble").hidden = !text;
  $("trouble").textContent = text || "";
}

class Refusal extends Error {}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(api(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server of this page has ended: start lowerbound explore again.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().then((body) => body.error, () => null);
  throw new Refusal(told ? `${told.message} (${told.code})${told.hint ? ". " + told.hint : ""}` : "The request failed.");
}

const asJson = (body, signal) => ({
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
});

async function unpack(answer) {
  const buffer = await answer.arrayBuffer();
  const size = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  return [head, new Uint8Array(buffer, 4 + size)];
}

// Calls of one kind: the newest wins, an older one is given up.
function newest(work, wait = 0) {
  let timer = 0, control = null;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      if (control) control.abort();
      const own = (control = new AbortController());
      try {
        await work(own.signal, ...given);
        if (control === own) trouble("");
      } catch (error) {
        if (error.name !== "AbortError" && control === own) fail(error);
      }
    }, wait);
  };
}

function fail(error) {
  trouble(error.message);
  if (!(error instanceof Refusal)) console.error(error);
}

const guarded = (work) => (...given) => Promise.resolve(work(...given)).catch(fail);
const count = (n) => n.toLocaleString("en-US");
const score = (x) => (Math.abs(x) >= 1e5 ? x.toExponential(3) : x.toFixed(2));
const pValue = (p) => (p >= 0.001 ? p.toFixed(3) : p.toExponential(1));
const short = (x) => {
  if (x === null || x === undefined) return "";
  if (x !== 0 && (Math.abs(x) >= 1e6 || Math.abs(x) < 1e-3)) return x.toExponential(2);
  return String(Number(x.toPrecision(5)));
};
const date = (seconds) => (Number.isFinite(seconds) && Math.abs(seconds) < 8e12 ? new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ") : "");
const shown = (value) => (value === null || value === undefined ? "missing" : String(value));

// State.

let about, map = null, codes = null, legend = null, mask = null, selection = null, current = null;
const filters = new Map();
const unit = () => ({ table: "row", cells: "cell", pictures: "picture" })[about.holds];
const units = (n) => `${count(n)} ${unit()}${n === 1 ? "" : "s"}`;
const column = (key) => about.columns.find((each) => each.key === key);

// Tabs.

const tabs = [...document.querySelectorAll("[role=tab]")];
function open(tab, focus = false) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
}
for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const seen = tabs.filter((each) => !each.hidden);
    const ends = { Home: 0, End: seen.length - 1 }[event.key];
    if (step === undefined && ends === undefined) return;
    event.preventDefault();
    const at = seen.indexOf(tab);
    open(seen[ends ?? (at + step + seen.length) % seen.length], true);
  });
}

// Colours.

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const MORE = ["#3f9b6c", "#a45fb0", "#b8962e", "#4fb3bf", "#d16b8a", "#8a6d5b"];
const STEPS = 63;
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const hex = (parts) => "#" + parts.map((x) => Math.round(x).toString(16).padStart(2, "0")).join("");

function ramp() {
  const knots = (dark.matches ? ["#2b4a6d", "#6cb0f5", "#ffe08a"] : ["#b7d0ea", "#2f6fb3", "#5b1a4b"]).map(rgb);
  const made = [];
  for (let i = 0; i < STEPS; i++) {
    const at = (i / (STEPS - 1)) * (knots.length - 1), left = Math.min(Math.floor(at), knots.length - 2);
    made.push(hex(knots[left].map((x, c) => x + (knots[left + 1][c] - x) * (at - left))));
  }
  return made;
}

function palette(head) {
  const grey = dark.matches ? "#5a636e" : "#a8b0b8", pale = dark.matches ? "#3d454f" : "#d0d5da";
  if (head.kind === "number" || head.kind === "date") {
    const colours = ramp();
    return [...(head.log ? colours.reverse() : colours), pale];
  }
  const own = [style("--one"), style("--two"), ...MORE];
  if (head.plain) return [style("--one"), pale];
  return [...own.slice(0, head.levels.length - 2), grey, pale];
}

function drawLegend() {
  const place = $("legend"), colours = palette(legend);
  place.replaceChildren();
  const swatch = (colour) => {
    const box = make("span", { className: "swatch" });
    box.style.backgroundColor = colour;
    return box;
  };
  if (legend.kind === "number" || legend.kind === "date") {
    const bar = make("canvas", { width: STEPS, height: 1, data: { role: "img", "aria-label": "colours from low to high" } });
    const drawing = bar.getContext("2d");
    for (let i = 0; i < STEPS; i++) {
      drawing.fillStyle = colours[i];
      drawing.fillRect(i, 0, 1, 1);
    }
    const spell = legend.kind === "date" ? date : legend.log ? (x) => (x === 0 ? "1" : "1e" + x) : (x) => short(Number(x.toPrecision(3)));
    place.append(make("span", { className: "scale" }, make("span", { textContent: spell(legend.low) }), bar, make("span", { textContent: spell(legend.high) })));
    if (legend.missing) place.append(make("span", {}, swatch(colours[STEPS]), `missing (${count(legend.missing)})`));
    return;
  }
  legend.levels.forEach((level, i) => {
    const size = legend.counts ? legend.counts[i] : 1;
    if (size) place.append(make("span", {}, swatch(colours[i]), legend.counts ? `${level} (${count(size)})` : level));
  });
}

const recolour = newest(async (signal) => {
  const [head, found] = await unpack(await ask("colours?by=" + encodeURIComponent($("colour").value), { signal }));
  legend = head;
  codes = found;
  drawLegend();
  if (map) await map.colour();
  document.body.dataset.coloured = $("colour").value;
});

// The map.

class Points {
  constructor(scatter, x, y) {
    Object.assign(this, { scatter, x, y, index: null, drawn: false, busy: false, again: false, stale: false });
    scatter.subscribe("select", ({ points }) => this.selected(points));
    scatter.subscribe("deselect", () => select(null));
    scatter.subscribe("pointOver", (at) => tip(at, this));
    scatter.subscribe("pointOut", () => { $("tip").hidden = true; showTip.cancelled = true; });
  }

  static async create() {
    const trial = document.createElement("canvas").getContext("webgl");
    if (!trial || !trial.getExtension("OES_texture_float")) throw new Refusal("This browser has no WebGL, so there is no map.");
    trial.getExtension("WEBGL_lose_context")?.loseContext();
    const { createScatterplot } = await import("./scatter.js");
    const places = new Float32Array(await (await ask("points")).arrayBuffer());
    const n = places.length / 2, canvas = $("points");
    const size = n > 500_000 ? 1.6 : n > 100_000 ? 2.2 : n > 10_000 ? 3 : n > 1_000 ? 5 : 7;
    const scatter = createScatterplot({
      canvas, width: "auto", height: "auto", pointSize: size, pointSizeSelected: 2, pointOutlineWidth: 2,
      opacityBy: "density", colorBy: "valueA", backgroundColor: style("--paper"), pointColor: [style("--one")],
      pointColorActive: style("--ink"), pointColorHover: style("--ink"), lassoColor: style("--two"), lassoMinDelay: 8,
      pointSizeMouseDetection: 8,
      aspectRatio: canvas.clientWidth / canvas.clientHeight, // the map fills its frame
    });
    return new Points(scatter, places.subarray(0, n), places.subarray(n));
  }

  // Draw all points in the colours of `codes`; the unusual ones last, so that they are seen.
  async colour() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    try {
      do {
        this.again = false;
        const spatialIndex = this.index || undefined;
        this.scatter.set({ pointColor: palette(legend), backgroundColor: style("--paper"), pointColorActive: style("--ink"), pointColorHover: style("--ink") });
        await this.scatter.draw({ x: this.x, y: this.y, valueA: Float32Array.from(codes) }, { zDataType: "categorical", preventFilterReset: true, spatialIndex });
        this.index = this.scatter.get("spatialIndex") || null;
        this.scatter.set({ pointOrder: ordered() });
      } while (this.again);
    } finally {
      this.busy = false;
    }
    if (this.stale || !this.drawn) {
      this.drawn = true;
      this.filter();
    }
    this.drawn = true;
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
  }

  filter() {
    this.stale = this.busy || !this.drawn;
    if (this.stale) return;
    if (!mask) {
      this.scatter.unfilter({ preventEvent: true });
      return;
    }
    this.scatter.filter(places(mask), { preventEvent: true });
  }

  selected(points) {
    if (points.length === 1) guarded(choose)(points[0]);
    else if (points.length) {
      const bits = new Uint8Array(Math.ceil(about.rows / 8));
      for (const at of points) bits[at >> 3] |= 1 << (at & 7);
      select(bits);
    }
  }
}

function places(bits) {
  const found = [];
  for (let at = 0; at < about.rows; at++) if (bits[at >> 3] & (1 << (at & 7))) found.push(at);
  return found;
}

// Rows in the order in which they are drawn: by colour, from low to high.
function ordered() {
  const high = legend.kind === "number" || legend.name === "verdict";
  if (!high) return null;
  const rank = (code) => (code === STEPS ? 0 : legend.log ? STEPS - code : code + 1);
  const starts = new Uint32Array(STEPS + 3);
  for (const code of codes) starts[rank(code) + 1]++;
  for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
  const order = new Array(codes.length);
  codes.forEach((code, at) => { order[starts[rank(code)]++] = at; });
  return order;
}

const showTip = newest(async (signal, at) => {
  const told = await (await ask(`row?brief=1&at=${at}`, { signal })).json();
  const lines = [named(told), `score ${score(told.anomaly_score)}, p ${pValue(told.p_value)}`];
  const chosen = column($("colour").value);
  const value = told.values.find((each) => chosen && each.key === chosen.key);
  if (value) lines.push(`${value.name}: ${shown(value.value)}`);
  const place = $("tip");
  if (place.hidden) return;
  place.replaceChildren(...lines.map((line) => make("div", { textContent: line })));
  if (about.holds === "pictures") place.append(make("img", { src: api("picture?at=" + at), alt: "" }));
}, 120);

function tip(at, points) {
  const place = $("tip"), [x, y] = points.scatter.getScreenPosition(at) || [0, 0];
  const wide = $("map").clientWidth, high = $("map").clientHeight;
  place.style.left = x > wide / 2 ? "" : x + 14 + "px";
  place.style.right = x > wide / 2 ? wide - x + 14 + "px" : "";
  place.style.top = y > high / 2 ? "" : y + 10 + "px";
  place.style.bottom = y > high / 2 ? high - y + 10 + "px" : "";
  place.textContent = "…";
  place.hidden = false;
  showTip(at);
}

async function startMap() {
  try {
    map = await Points.create();
  } catch (error) {
    $("map").classList.add("none");
    $("points").hidden = true;
    $("no-map").hidden = false;
    $("no-map").textContent = (error instanceof Refusal ? error.message : "The map cannot be drawn: " + error.message) + " Everything else works: use the table and the filters.";
    for (const id of ["lasso", "reset-view"]) $(id).hidden = true;
    $("map-note").hidden = true;
  }
}

$("lasso").addEventListener("click", () => {
  const on = $("lasso").getAttribute("aria-pressed") !== "true";
  $("lasso").setAttribute("aria-pressed", String(on));
  map.scatter.set({ mouseMode: on ? "lasso" : "panZoom" });
});
$("reset-view").addEventListener("click", () => map.scatter.reset());
dark.addEventListener("change", guarded(async () => {
  if (!legend) return;
  drawLegend();
  if (map) await map.colour();
}));

// Filters.

const refilter = newest(async (signal) => {
  const conditions = [...filters.values()].map((each) => each()).filter(Boolean);
  if ($("only-flagged").checked) conditions.push({ key: "verdict", levels: ["above the threshold"] });
  const [head, bits] = await unpack(await ask("filter", asJson({ conditions }, signal)));
  mask = conditions.length ? bits : null;
  $("count").textContent = conditions.length
    ? `${units(head.count)} of ${count(about.rows)}, ${count(head.flagged)} above the threshold`
    : `${units(about.rows)}, ${count(about.flagged)} above the threshold`;
  $("clear-filters").hidden = !filters.size;
  drawHighest(head.highest);
  if (map) map.filter();
  drawSelection();
  document.body.dataset.filtered = String(head.count);
}, 150);

function addFilter(key) {
  if (!key || filters.has(key)) return;
  const of = column(key), box = make("fieldset"), remove = make("button", { type: "button", className: "link", textContent: "remove" });
  box.append(make("legend", {}, of.name));
  let read;
  if (of.kind === "number" || of.kind === "date") {
    const kind = of.kind === "date" ? "datetime-local" : "number";
    const input = (what, value) => make("input", { type: kind, step: "any", placeholder: of.kind === "date" ? "" : short(value), data: { "aria-label": `${of.name}, ${what}` } });
    const low = input("from", of.least), high = input("to", of.most);
    box.append(make("div", { className: "pair" }, make("label", {}, "from", low), make("label", {}, "to", high)));
    const number = (field) => (field.value === "" ? null : of.kind === "date" ? Date.parse(field.value + "Z") / 1000 : Number(field.value));
    read = () => (low.value === "" && high.value === "" ? null : { key, low: number(low), high: number(high) });
    box.append(make("p", { className: "note", textContent: `${of.kind === "date" ? date(of.least) : short(of.least)} to ${of.kind === "date" ? date(of.most) : short(of.most)}${of.missing ? `, ${count(of.missing)} missing` : ""}` }));
  } else if (of.kind === "text") {
    const words = make("input", { type: "search", className: "text", data: { "aria-label": `${of.name} contains` } });
    box.append(make("label", {}, "contains", words));
    read = () => (words.value ? { key, contains: words.value } : null);
  } else {
    read = levelFilter(of, box);
  }
  box.append(remove);
  filters.set(key, read);
  remove.addEventListener("click", () => {
    filters.delete(key);
    box.remove();
    $("add-filter").focus();
    refilter();
  });
  box.addEventListener("input", (event) => { if (!event.target.dataset.search) refilter(); });
  $("filters").append(box);
  box.querySelector("input").focus();
  $("clear-filters").hidden = false;
}

function levelFilter(of, box) {
  const levels = [...of.levels.map(([word, size]) => [word, word, size]), ...(of.missing ? [[null, "missing", of.missing]] : [])];
  const list = make("div", { className: "levels" });
  const boxes = levels.map(([value, word, size]) => {
    const check = make("input", { type: "checkbox" });
    const line = make("label", {}, check, make("span", { textContent: word }), make("span", { className: "size", textContent: count(size) }));
    list.append(line);
    return { value, word: word.toLowerCase(), check, line };
  });
  if (levels.length > 8) {
    const search = make("input", { type: "search", className: "text", placeholder: "find a level", data: { "aria-label": `find a level of ${of.name}`, "data-search": "1" } });
    search.addEventListener("input", () => { for (const each of boxes) each.line.hidden = !each.word.includes(search.value.toLowerCase()); });
    box.append(search);
  }
  box.append(list);
  if (of.distinct > of.levels.length) box.append(make("p", { className: "note", textContent: `the ${count(of.levels.length)} commonest of ${count(of.distinct)} levels` }));
  return () => {
    const chosen = boxes.filter((each) => each.check.checked).map((each) => each.value);
    return chosen.length ? { key: of.key, levels: chosen } : null;
  };
}

$("add-filter").addEventListener("change", (event) => {
  addFilter(event.target.value);
  event.target.value = "";
});
$("clear-filters").addEventListener("click", () => {
  filters.clear();
  $("filters").replaceChildren();
  $("add-filter").focus();
  refilter();
});
$("only-flagged").addEventListener("change", () => refilter());
$("colour").addEventListener("change", () => recolour());

// Rows.

const named = (row) => (row.file ? `${row.file}` : `${unit()} ${count(row.row)}`);

function drawHighest(rows) {
  const body = $("highest").tBodies[0];
  body.replaceChildren(...rows.map((row) => {
    const button = make("button", { type: "button", className: "link", textContent: row.file || count(row.row) });
    const line = make("tr", {},
      make("td", {}, button),
      make("td", { className: "num", textContent: score(row.anomaly_score) }),
      make("td", { className: "num", textContent: pValue(row.p_value) }));
    line.addEventListener("click", guarded(() => choose(row.at)));
    line.classList.toggle("flagged", row.is_anomaly);
    line.dataset.at = row.at;
    return line;
  }));
  mark();
}

function mark() {
  for (const line of $("highest").tBodies[0].rows) line.classList.toggle("now", current !== null && Number(line.dataset.at) === current.at);
}

async function choose(at) {
  await show(await (await ask("row?at=" + at)).json());
  if (matchMedia("(max-width: 62rem)").matches) $("panel").scrollIntoView({ block: "start" });
}

async function show(row) {
  trouble("");
  current = row;
  $("shown").textContent = row.file || "";
  $("row-number").value = row.row;
  mark();
  drawRow();
  drawWhat({});
  drawUsual(null);
  drawLatents();
  if ($("view-selection").hidden === false) open($("tab-row"));
  if (map && map.index) map.scatter.select([row.at], { preventEvent: true });
  document.body.dataset.row = String(row.row);
}

$("find").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  await show(await (await ask("row?row=" + encodeURIComponent($("row-number").value))).json());
}));

function verdict(row, extra = null) {
  const box = make("div", { className: "verdict" + (row.is_anomaly ? " flagged" : "") },
    make("span", { className: "word", textContent: row.is_anomaly ? "above the threshold" : "usual" }),
    make("span", {}, "score ", make("strong", { textContent: score(row.anomaly_score) }), " nats"),
    make("span", {}, "p-value ", make("strong", { textContent: pValue(row.p_value) })));
  if (about.threshold !== null) box.append(make("span", { className: "note", textContent: `threshold ${score(about.threshold)}` }));
  if (extra) box.append(extra);
  return box;
}

function reasons(row) {
  if (!about.explains) return null;
  const good = (row.reasons || []).filter((each) => each.nats > 0.005);
  if (!good.length) return make("p", { className: "note", textContent: "No column stands out." });
  return make("ol", { className: "reasons" }, ...good.map((each) => make("li", {},
    make("strong", { textContent: each.column }), ` ${each.value} `,
    make("span", { className: "expected", textContent: `expected ${each.expected}, ${each.nats.toFixed(2)} nats` }))));
}

function values(rows, caption, heads = ["column", "value"]) {
  return make("table", {}, make("caption", { className: "sr", textContent: caption }),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", textContent: head })))),
    make("tbody", {}, ...rows));
}

function drawRow() {
  const place = $("view-row"), row = current;
  place.replaceChildren(make("h2", { textContent: named(row) }), verdict(row));
  if (about.holds === "pictures") {
    const picture = (path, told) => make("figure", {}, make("img", { src: api(`${path}?at=${row.at}`), alt: `${told} of ${named(row)}` }), make("figcaption", { textContent: told }));
    place.append(make("div", { className: "pictures" }, picture("picture", "as the model sees it"), picture("heat", "unusual pixels in red")));
  }
  if (about.explains) place.append(make("h3", { textContent: "Why" }), reasons(row));
  if (about.changes) {
    const what = make("button", { type: "button", textContent: "What if" }), usual = make("button", { type: "button", textContent: "Nearest usual row" });
    what.addEventListener("click", () => open($("tab-what"), true));
    usual.addEventListener("click", () => { open($("tab-usual"), true); findUsual(); });
    place.append(make("div", { className: "bar" }, what, usual));
  } else if (about.holds === "cells") {
    place.append(make("p", { className: "note", textContent: "What-if and nearest usual rows are for tables: a cell has thousands of counts that move together." }));
  }
  place.append(make("h3", { textContent: "Values" }), values(row.values.map((each) => make("tr", {},
    make("th", { scope: "row", textContent: each.name }), make("td", { textContent: shown(each.value) }))), `values of ${named(row)}`));
}

// What if.

const edits = new Map(); // column -> its input
const original = (name) => current.values.find((each) => each.name === name).value;

function changes() {
  const found = {};
  for (const [name, input] of edits) {
    const value = readField(input), before = fieldText(original(name), input.type);
    if (value !== before) found[name] = value === "" ? null : value;
  }
  return found;
}

const readField = (input) => (input.type === "datetime-local" && input.value.length === 16 ? input.value + ":00" : input.value);
const fieldText = (value, kind) => (value === null ? "" : kind === "datetime-local" ? value.replace(" ", "T") : value);

function field(of) {
  const value = original(of.name), id = "what-" + of.key;
  const moment = /^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d$/, number = /^(u?int|float|double|half)/.test(of.stored);
  let kind = "text";
  if (number) kind = "number";
  else if (of.stored.startsWith("timestamp") && !of.stored.includes("tz") && (value === null || moment.test(value))) kind = "datetime-local";
  else if (of.stored.startsWith("date32")) kind = "date";
  const input = make("input", { id, type: kind, value: fieldText(value, kind), autocomplete: "off", placeholder: "missing" });
  if (kind === "number") input.step = "any";
  if (kind === "datetime-local") input.step = "1";
  const line = make("div", { className: "field" }, make("label", { htmlFor: id, textContent: of.name }), input);
  if (of.kind === "category" && of.levels.length) {
    const list = make("datalist", { id: id + "-levels" }, ...of.levels.slice(0, 200).map(([word]) => make("option", { value: word })));
    input.setAttribute("list", list.id);
    line.append(list);
  }
  input.addEventListener("input", () => whatIf());
  edits.set(of.name, input);
  line.dataset.name = of.name.toLowerCase();
  return line;
}

function drawWhat(given) {
  const place = $("view-what");
  edits.clear();
  if (!about.changes) return;
  const editable = about.columns.filter((each) => each.stored && each.of && !["id", "text"].includes(each.of));
  const first = new Set((current.reasons || []).map((each) => each.column));
  const fields = editable.map(field);
  const live = make("div", { id: "what-result", className: "live", data: { "aria-live": "polite" } }, verdict(current));
  const reset = make("button", { type: "button", id: "reset", textContent: "Reset" });
  reset.addEventListener("click", () => { drawWhat({}); whatIf(); });
  const usual = make("button", { type: "button", textContent: "Nearest usual row of this" });
  usual.addEventListener("click", () => { open($("tab-usual"), true); findUsual(); });
  const list = make("div", {}, ...fields);
  place.replaceChildren(make("h2", { textContent: `${named(current)}, with other values` }), live,
    make("div", { id: "what-reasons" }, reasons(current)), make("div", { className: "bar" }, reset, usual));
  if (fields.length > 15) {
    const search = make("input", { type: "search", placeholder: "find a column", data: { "aria-label": "find a column" } });
    search.addEventListener("input", () => { for (const line of fields) line.hidden = !line.dataset.name.includes(search.value.toLowerCase()); });
    place.append(make("div", { className: "bar" }, search));
    // The columns that the reasons name come first.
    list.replaceChildren(...fields.filter((f, i) => first.has(editable[i].name)), ...fields.filter((f, i) => !first.has(editable[i].name)));
  }
  place.append(list, make("p", { className: "note", textContent: "An empty field is a missing value. Scores are those of lowerbound score, to the last bit." }));
  for (const [name, value] of Object.entries(given)) {
    const input = edits.get(name);
    if (input) input.value = fieldText(value, input.type);
  }
}

const whatIf = newest(async (signal) => {
  const changed = changes(), at = current.at;
  for (const [name, input] of edits) input.parentElement.classList.toggle("changed-field", name in changed);
  const told = await (await ask("what-if", asJson({ at, changes: changed }, signal))).json();
  if (current.at !== at) return;
  const difference = told.anomaly_score - current.anomaly_score;
  const extra = make("span", { className: "note", textContent: `${difference >= 0 ? "+" : "−"}${score(Math.abs(difference))} from ${score(current.anomaly_score)}` });
  const result = $("what-result");
  result.replaceChildren(verdict(told, extra));
  for (const note of told.notes || []) result.append(make("p", { className: "note", textContent: note }));
  const unseen = Object.keys(told.unseen || {});
  if (unseen.length) result.append(make("p", { className: "note", textContent: `not seen in training: ${unseen.join(", ")}` }));
  result.dataset.score = String(told.anomaly_score);
  result.dataset.p = String(told.p_value);
  $("what-reasons").replaceChildren(reasons(told) || "");
}, 200);

// The nearest usual row.

function drawUsual(told) {
  const place = $("view-usual");
  if (!about.changes) return;
  place.replaceChildren(make("h2", { textContent: `Nearest usual row of ${named(current)}` }),
    make("p", { className: "note", textContent: "The smallest change that brings the row under the threshold: as few columns as suffice, and numbers no further than they must." }));
  const search = make("button", { type: "button", className: told ? "" : "main", textContent: told ? "Search again" : "Search" });
  search.addEventListener("click", () => findUsual());
  if (!told) {
    place.append(search);
    return;
  }
  if (!told.changes.length) {
    place.append(make("p", { id: "usual-told", textContent: told.found ? "This row is usual already: nothing needs to change." : "No usual row was found near this one." }), search);
    return;
  }
  const rows = told.changes.map((each) => make("tr", {}, make("th", { scope: "row", textContent: each.column }),
    make("td", { textContent: shown(each.from) }), make("td", { className: "changed", textContent: shown(each.to) })));
  const take = make("button", { type: "button", className: "main", textContent: "Take over into What if" });
  take.addEventListener("click", () => {
    drawWhat({ ...told.asked, ...Object.fromEntries(told.changes.map((each) => [each.column, each.to])) });
    open($("tab-what"), true);
    whatIf();
  });
  place.append(values(rows, "changes", ["column", "from", "to"]),
    make("p", { id: "usual-told" }, "score ", make("strong", { textContent: score(told.before) }), " → ", make("strong", { textContent: score(told.after) }), about.threshold === null ? "" : `, threshold ${score(about.threshold)}`),
    make("div", { className: "bar" }, take, search));
}

const findUsual = newest(async (signal) => {
  const asked = changes(), at = current.at, place = $("view-usual");
  place.append(make("p", { className: "note", textContent: "Searching…", data: { role: "status" } }));
  const told = await (await ask("usual", asJson({ at, changes: asked }, signal))).json();
  if (current.at === at) drawUsual({ ...told, asked });
});

// Latents.

let sliders = [], base = null, before = null;

function drawLatents() {
  const place = $("view-latents");
  place.replaceChildren(make("h2", { textContent: "What the latents stand for" }));
  if (about.latents.refused) {
    place.append(make("p", { className: "empty", textContent: `There are no sliders: ${about.latents.refused}.` }));
    return;
  }
  const middle = make("button", { type: "button", textContent: `From the middle` });
  middle.addEventListener("click", () => setSliders(null));
  const bar = make("div", { className: "bar" }, middle);
  if (current) {
    const own = make("button", { type: "button", textContent: `From ${named(current)}` });
    own.addEventListener("click", () => setSliders(current));
    bar.append(own);
  }
  const drawn = make("div", { id: "drawn", className: about.holds === "pictures" ? "live" : "", data: { "aria-live": "off" } });
  const list = make("div");
  sliders = about.latents.sliders.map((each, i) => {
    const id = "slider-" + i, told = make("span"), input = make("input", { id, type: "range", min: each.low, max: each.high, step: (each.high - each.low) / 200, value: 0 });
    const moves = each.moves.slice(0, 3);
    const ends = make("div", { className: "ends" }, make("span", { textContent: moves.map((m) => `${m.column} ${m.low}`).join(", ") }), make("span", { textContent: moves.map((m) => `${m.column} ${m.high}`).join(", ") }));
    const nats = each.nats === null || each.nats === undefined ? "" : `${each.nats.toFixed(2)} nats, `;
    list.append(make("div", { className: "slider" }, make("label", { htmlFor: id }, each.name, told), input, moves.length ? ends : null));
    const slider = { input, tell: () => { told.textContent = `${nats}${Number(input.value).toFixed(2)}`; } };
    input.addEventListener("input", () => { slider.tell(); decode(); });
    return slider;
  });
  place.append(make("p", { className: "note", textContent: `Each slider moves one direction of the latents, from the low to the high end of the ${unit()}s. What it draws is the mean of the decoder.` }), bar);
  if (about.holds === "pictures") place.append(drawn, list);
  else place.append(list, drawn);
  setSliders(current);
}

function setSliders(row) {
  base = row ? row.at : null;
  before = null;
  sliders.forEach((slider, i) => {
    slider.input.value = row ? row.sliders[i] : 0;
    slider.tell();
  });
  if (!$("view-latents").hidden) decode();
}

const decode = newest(async (signal) => {
  const offsets = sliders.map((each) => Number(each.input.value));
  const answer = await ask("decode", asJson({ offsets, at: base }, signal));
  const place = $("drawn");
  if (about.holds === "pictures") {
    const url = URL.createObjectURL(await answer.blob());
    const image = place.querySelector("img") || place.appendChild(make("img", { className: "drawn", alt: "the picture that the sliders draw" }));
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = url;
  } else {
    const told = (await answer.json()).values;
    if (about.holds === "cells") {
      const rows = told.map((each) => make("tr", {}, make("th", { scope: "row", textContent: each.name }), make("td", { className: "num", textContent: each.value }), make("td", { className: "num", textContent: each.middle })));
      place.replaceChildren(make("h3", { textContent: "Genes that differ most from the middle" }), values(rows, "genes", ["gene", "count", "in the middle"]));
    } else {
      before = before || new Map(told.map((each) => [each.name, each.value]));
      const rows = told.map((each) => make("tr", {}, make("th", { scope: "row", textContent: each.name }),
        make("td", { className: before.get(each.name) === each.value ? "" : "changed", textContent: each.value }), make("td", { className: "note", textContent: before.get(each.name) ?? "" })));
      place.replaceChildren(values(rows, "the row that the sliders draw", ["column", "drawn", "at first"]));
    }
  }
  document.body.dataset.decoded = offsets.join(" ");
}, 40);
$("tab-latents").addEventListener("click", () => { if (!about.latents.refused) decode(); });

// The selection.

function select(bits) {
  selection = bits;
  drawSelection();
  if (bits) {
    open($("tab-selection"));
    summarise();
  }
}

function drawSelection() {
  const place = $("view-selection"), filtered = mask !== null;
  const every = make("button", { type: "button", id: "select-filtered", textContent: filtered ? "Select the filtered rows" : "Select all rows" });
  every.addEventListener("click", () => {
    const bits = mask || new Uint8Array(Math.ceil(about.rows / 8)).fill(255);
    select(bits);
  });
  const head = make("div", { className: "bar" }, every);
  if (!selection) {
    place.replaceChildren(make("h2", { textContent: "Selection" }), make("p", { className: "empty", textContent: "Draw around rows on the map with the lasso, or hold Shift and draw; or select the filtered rows." }), head);
    return;
  }
  const clear = make("button", { type: "button", textContent: "Clear" });
  clear.addEventListener("click", () => { if (map) map.scatter.deselect({ preventEvent: true }); select(null); });
  head.append(clear);
  const name = make("input", { id: "file-name", value: "selected.csv", data: { spellcheck: "false" } });
  const write = make("button", { type: "button", id: "write", className: "main", textContent: "Write file" });
  const load = make("button", { type: "button", id: "download", textContent: "Download" });
  const told = make("p", { id: "written", data: { role: "status" } });
  write.addEventListener("click", guarded(async () => {
    told.textContent = "";
    const done = await (await ask("save?name=" + encodeURIComponent(name.value), { method: "POST", body: selection })).json();
    told.textContent = `${units(done.rows)} written to ${done.path}`;
    trouble("");
  }));
  load.addEventListener("click", guarded(async () => {
    const answer = await ask("download?name=" + encodeURIComponent(name.value), { method: "POST", body: selection });
    const url = URL.createObjectURL(await answer.blob());
    make("a", { href: url, download: name.value }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    trouble("");
  }));
  place.replaceChildren(make("h2", { textContent: "Selection" }), make("p", { id: "selected", data: { "aria-live": "polite" } }), head,
    make("div", { id: "differences" }),
    make("h3", { textContent: "Write to a file" }),
    make("div", { className: "bar" }, make("label", { className: "control", htmlFor: "file-name" }, "Name ", name), write, load),
    make("p", { className: "note", textContent: `In ${about.folder}; ${about.suffixes.join(", ")}. An existing file is not replaced.` }), told);
  summary();
}

let differences = null;
const summarise = newest(async (signal) => {
  differences = null;
  const bits = selection;
  const told = await (await ask("selection", { method: "POST", body: bits, signal })).json();
  if (selection !== bits) return;
  differences = told;
  summary();
});

function summary() {
  if (!differences || !$("selected")) return;
  $("selected").textContent = `${units(differences.count)}, ${count(differences.flagged)} above the threshold`;
  const rows = differences.differences.map((each) => make("tr", {}, make("th", { scope: "row", textContent: each.name }),
    make("td", { textContent: each.selected }), make("td", { textContent: each.all })));
  $("differences").replaceChildren(make("h3", { textContent: "What differs most from all" }), rows.length
    ? values(rows, "columns that differ", ["column", "selected", "all"])
    : make("p", { className: "note", textContent: "No column differs." }));
}

// Begin.

async function begin() {
  about = await (await ask("about")).json();
  const some = about.rows < about.total ? `${units(about.rows)} of ${count(about.total)}, drawn at random` : units(about.rows);
  $("title").textContent = about.origin || about.name;
  document.title = `${about.origin || about.name}: lowerbound explore`;
  $("facts").textContent = `${some}, ${count(about.flagged)} above the threshold; model ${about.name}`;
  for (const each of about.columns) {
    $("colour").add(new Option(each.name, each.key));
    $("add-filter").add(new Option(each.name, each.key));
  }
  const { by, fitted, explained } = about.map;
  const how = by === "umap" ? `Map by UMAP${fitted < about.rows ? ` of ${count(fitted)} ${unit()}s; the others lie among their nearest` : ""}.` : `Map by PCA: the two main directions of the latents, ${Math.round(100 * explained)} % of their variance.`;
  $("map-note").textContent = `${how} Drag to move, scroll to zoom, click a ${unit()} for its reasons.`;
  for (const note of [...about.page_notes, ...about.notes]) $("facts").after(make("p", { className: "note", textContent: note }));
  for (const id of ["tab-what", "tab-usual"]) $(id).hidden = !about.changes;
  if (about.holds !== "table") $("find").querySelector("label").firstChild.textContent = about.holds === "cells" ? "Cell " : "Picture ";
  drawLatents();
  drawSelection();
  await startMap();
  recolour();
  refilter();
  document.body.dataset.ready = map ? "map" : "no map";
  window.explorer = { get map() { return map; } };
}
begin().catch(fail);
