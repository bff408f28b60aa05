"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const raw = document.getElementById("points").textContent;
  const map = raw ? JSON.parse(raw) : null;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const config = () => {
    const ink = style("--ink"), soft = style("--soft"), line = style("--line");
    return {
      background: null,
      aria: false, // each chart has one description, that of its place in the page
      font: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
      view: { stroke: line },
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 11, gridOpacity: 0.6 },
      legend: { labelColor: ink, titleColor: soft, labelLimit: 160, titleLimit: 200 },
      header: { labelColor: ink, titleColor: ink },
      title: { color: ink, anchor: "start", fontSize: 12, fontWeight: 600, offset: 6 },
      mark: { color: style("--one"), aria: false },
      rule: { color: ink, aria: false }, tick: { color: ink, aria: false },
      text: { color: ink },
      range: {
        category: [style("--one"), style("--two"), "#3f9b6c", "#a45fb0", "#b8962e", "#4fb3bf", "#d16b8a", "#7d7d7d"],
        heatmap: dark.matches ? ["#1f2833", "#2f6fb3", "#a6d5ff"] : ["#eef3f8", "#6ba3d6", "#123f70"],
        ramp: dark.matches ? ["#2b3a4d", "#6cb0f5", "#ffe08a"] : ["#cfe0f1", "#2f6fb3", "#5b1a4b"],
      },
    };
  };
  const describe = (spec) => ({ ...spec, description: undefined });
  const show = (id, spec, renderer) => {
    const place = document.getElementById("chart-" + id);
    if (!place) return Promise.resolve(null);
    return vegaEmbed(place, describe(spec), {
      actions: false, renderer: renderer || "svg", config: config(), ast: false,
      loader: { load: () => Promise.reject(new Error("nothing is loaded from elsewhere")) },
    }).catch((error) => { place.textContent = "This chart cannot be drawn: " + error.message; console.error(error); return null; });
  };

  // The map: points with the values of one column as their colour.
  const select = document.getElementById("colour");
  const text = (column, i) => {
    const value = column.values[i];
    if (value === null || value === undefined) return "missing";
    return column.kind === "level" ? column.levels[value] : String(value);
  };
  const pick = (i) => {
    const panel = document.getElementById("picked");
    panel.textContent = "";
    const head = document.createElement("strong");
    head.textContent = "row " + map.row[i];
    panel.append(head);
    if (map.sheet && i < map.tile[3]) {
      const [width, height, columns] = map.tile, zoom = Math.max(1, Math.floor(112 / width));
      const box = document.createElement("div");
      box.className = "thumb";
      box.style.width = width * zoom + "px"; box.style.height = height * zoom + "px";
      box.style.backgroundImage = "url(" + map.sheet + ")";
      box.style.backgroundSize = width * columns * zoom + "px auto";
      box.style.backgroundPosition = -(i % columns) * width * zoom + "px " + -Math.floor(i / columns) * height * zoom + "px";
      panel.append(box);
    }
    const list = document.createElement("dl");
    for (const column of map.columns) {
      const line = document.createElement("div"), name = document.createElement("dt"), value = document.createElement("dd");
      name.textContent = column.name; value.textContent = text(column, i);
      line.append(name, value); list.append(line);
    }
    panel.append(list);
  };
  const LEVELS = 7;
  const drawMap = async () => {
    const column = map.columns[select ? select.selectedIndex : 0];
    const values = map.x.map((x, i) => {
      const point = { i, x, y: map.y[i], row: map.row[i] };
      const value = column.values[i];
      point.value = column.kind !== "level" ? value : value < LEVELS ? column.levels[value] : "others";
      return point;
    });
    const color = { field: "value", title: column.name, legend: { orient: "top", columns: 4, symbolOpacity: 1, direction: "horizontal" } };
    if (column.kind === "number") Object.assign(color, { type: "quantitative", scale: { domain: column.ends[0] < column.ends[1] ? column.ends : undefined, clamp: true, range: "ramp" } });
    else if (column.kind === "date") Object.assign(color, { type: "temporal", scale: { range: "ramp" } });
    else Object.assign(color, { type: "nominal", scale: { domain: [...column.levels.slice(0, LEVELS), ...(column.levels.length > LEVELS ? ["others"] : [])] } });
    const size = values.length > 1500 ? 14 : 28;
    const axis = { ticks: false, labels: false, grid: false, domain: false };
    const spec = {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json",
      width: "container", height: 400, autosize: { type: "fit-x", contains: "padding" },
      data: { values },
      params: [{ name: "near", select: { type: "point", on: "pointerover", nearest: true, fields: ["i"], clear: "pointerout" } }],
      mark: { type: "point", filled: true },
      encoding: {
        x: { field: "x", type: "quantitative", axis, title: "first direction", scale: { zero: false } },
        y: { field: "y", type: "quantitative", axis, title: "second direction", scale: { zero: false } },
        color,
        size: { condition: { param: "near", empty: false, value: 160 }, value: size },
        opacity: { condition: { param: "near", empty: false, value: 1 }, value: 0.7 },
      },
    };
    const made = await show("map", spec, "canvas");
    if (made) made.view.addSignalListener("near", (_, value) => { if (value && value.i && value.i.length) pick(value.i[0]); });
    window.lowerboundMap = made && made.view;
  };
  const drawAll = async () => {
    document.body.dataset.drawn = "";
    if (map) await drawMap();
    for (const [id, spec] of Object.entries(specs)) await show(id, spec);
    document.body.dataset.drawn = "yes";
  };
  if (map && select) {
    for (const column of map.columns) select.add(new Option(column.name));
    select.addEventListener("change", drawMap);
  }
  dark.addEventListener("change", drawAll);
  drawAll();
})();
