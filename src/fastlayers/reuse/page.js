"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  unfold();
  const STATES = ["kept", "above", "new"];
  const STATE_TEXT = [
    "kept by every client",
    "kept by digest, downloaded again by chain (it is above the first new layer)",
    "new",
  ];
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  let current = data.images.length - 1;
  let chosen = null; // {layer} or {path, layer}

  /** What the data tells once, where it is: names, layers that the image before has too, reasons. */
  function unfold() {
    const names = [];
    for (let at = 0, last = []; at < data.names.length; at += 2) {
      last = [...last.slice(0, data.names[at]), ...data.names[at + 1]];
      names.push(last.join(""));
    }
    data.names = names;
    data.images.forEach((one, number) => {
      one.layers = one.layers.map((layer) => (typeof layer === "number" ? data.images[number - 1].layers[layer] : layer));
      if (!one.update) return;
      one.update.layers = one.update.layers.map(([state, ...kinds]) => [
        state,
        kinds.flatMap(([kind, ...told]) => told.flatMap((path, at) => (at % 2 ? [] : [[kind, path, told[at + 1]]]))),
      ]);
    });
  }

  // Text and numbers

  function bytes(size) {
    if (size === null || size === undefined || size < 0) return "?";
    if (size < 1000) return `${size} B`;
    const units = ["kB", "MB", "GB", "TB"];
    let unit = -1;
    let value = size;
    do { value /= 1000; unit += 1; } while (value >= 999.5 && unit < units.length - 1);
    const digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
    return `${value.toFixed(digits)} ${units[unit]}`;
  }
  const count = (number) => number.toLocaleString("en");
  const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
  const nameOf = (path) => data.names[data.paths[path][1]];
  const fullName = (path) => data.before + data.paths[path][0] + nameOf(path);
  const sizeOf = (path) => data.paths[path][2];
  const changesOf = (path) => data.paths[path][3];
  const times = (number) => `${plural(number, "time")} in ${plural(data.images.length - 1, "update")}`;

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function shape(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  const image = () => data.images[current];
  const knownSizes = () => image().layers.every((layer) => layer[0] >= 0);
  const weight = (layer) => (knownSizes() ? layer[0] : Math.max(1, layer[1].length));
  const stateOf = (number) => (image().update ? image().update.layers[number][0] : 0);

  function largest(layer) {
    return [...layer[1]].sort((a, b) => sizeOf(b) - sizeOf(a) || (nameOf(a) < nameOf(b) ? -1 : 1));
  }
  function holds(layer) {
    if (!layer[1].length) return layer[2] || "nobody says what is in it";
    const first = nameOf(largest(layer)[0]);
    return layer[1].length > 1 ? `${first} and ${count(layer[1].length - 1)} more` : first;
  }
  function why(number) {
    const update = image().update;
    if (!update) return [];
    const kinds = new Map();
    const reasons = [...update.layers[number][1]];
    reasons.sort((a, b) => (b[1] < 0 ? -1 : sizeOf(b[1])) - (a[1] < 0 ? -1 : sizeOf(a[1])));
    for (const [kind, path, other] of reasons) {
      let text = data.changes[kind];
      if (text === "replaced" && nameOf(path) === nameOf(other)) text = "rebuilt";
      if (!kinds.has(text)) kinds.set(text, []);
      if (path < 0) continue;
      let item = nameOf(path);
      if (text === "replaced") item = `${nameOf(other)} → ${nameOf(path)}`;
      if (text === "moved in") item += ` (from layer ${other})`;
      if (text === "moved out") item += ` (to layer ${other})`;
      kinds.get(text).push(item);
    }
    return [...kinds].map(([kind, items]) => {
      const more = items.length > 4 ? ` and ${count(items.length - 4)} more` : "";
      return items.length ? `${kind}: ${items.slice(0, 4).join(", ")}${more}` : kind;
    });
  }
  /** Of five steps of colour the one for how often a path changed. */
  function level(changes) {
    const updates = data.images.length - 1;
    if (!changes) return 0;
    return updates === 1 ? 3 : Math.min(4, Math.ceil((4 * changes) / updates));
  }

  // Selecting

  function choose(layer, path, far) {
    chosen = { layer, path };
    for (const id of ["stack", "map"]) mark($(id), id);
    showSelection();
    // Of what arrow keys choose, the option itself is read. What is chosen from below is out of sight, and of no list.
    $("told").textContent = far ? `Selected: ${[...$("selection").children].slice(0, 3).map((line) => line.textContent).join(", ")}` : "";
    if (far) $("selection-section").scrollIntoView({ block: "nearest" });
  }
  function mark(holder, id) {
    const list = holder.querySelector('[role="listbox"]');
    if (!list) return;
    for (const old of list.querySelectorAll('[aria-selected="true"]')) old.setAttribute("aria-selected", "false");
    for (const old of list.querySelectorAll(".outline")) old.remove();
    list.removeAttribute("aria-activedescendant");
    if (!chosen) return;
    const byPath = id === "map" && chosen.path !== undefined;
    const option = document.getElementById(byPath ? `map-p${chosen.path}` : `${id}-l${chosen.layer}`);
    if (option) {
      option.setAttribute("aria-selected", "true");
      list.setAttribute("aria-activedescendant", option.id);
      outline(list, [option]);
    } else {
      outline(list, [...list.querySelectorAll(`[data-layer="${chosen.layer}"]`)]);
    }
  }
  /** Drawn over everything, since neighbours would cover the edge of a shape. */
  function outline(svg, shapes) {
    const boxes = shapes.map((one) => one.getBBox());
    if (!boxes.length) return;
    const x = Math.min(...boxes.map((box) => box.x)) - 1;
    const y = Math.min(...boxes.map((box) => box.y)) - 1;
    const width = Math.max(...boxes.map((box) => box.x + box.width)) + 1 - x;
    const height = Math.max(...boxes.map((box) => box.y + box.height)) + 1 - y;
    const at = { x, y, width, height, "aria-hidden": "true" };
    svg.append(shape("rect", { ...at, class: "outline under" }), shape("rect", { ...at, class: "outline" }));
  }
  function showSelection() {
    const { layer: number, path } = chosen;
    const layer = image().layers[number];
    const lines = [];
    const state = image().update ? [" ", element("span", { class: `chip s-${STATES[stateOf(number)]}` }, STATES[stateOf(number)])] : [];
    if (path !== undefined) {
      lines.push(element("h3", {}, nameOf(path)), element("p", { class: "muted" }, fullName(path)));
      const facts = [`${bytes(sizeOf(path))} NAR size`];
      if (sizeOf(path) < 0) facts.pop();
      if (data.images.length > 1) facts.push(`changed ${times(changesOf(path))}`);
      const others = layer[1].length - 1;
      facts.push(others ? `in layer ${number + 1} with ${plural(others, "other path")}` : `alone in layer ${number + 1}`);
      lines.push(element("p", {}, facts.join(" · ")));
    } else {
      lines.push(element("h3", {}, `Layer ${number + 1} of ${image().layers.length}`, ...state));
      const facts = [`${bytes(layer[0])}`, plural(layer[1].length, "path")];
      if (!layer[1].length) facts[1] = layer[2] || "nobody says what is in it";
      if (layer[3]) facts.push(`sha256:${layer[3]}…`);
      lines.push(element("p", {}, facts.join(" · ")));
      if (image().update && stateOf(number) < 2) lines.push(element("p", { class: "muted" }, STATE_TEXT[stateOf(number)]));
      for (const reason of why(number)) lines.push(element("p", {}, reason));
      const items = largest(layer).slice(0, 12).map((item) =>
        element("li", {}, element("span", {}, nameOf(item)), element("span", { class: "muted" }, sizeOf(item) < 0 ? "" : bytes(sizeOf(item)))));
      if (items.length > 1) lines.push(element("ul", {}, ...items));
      if (layer[1].length > items.length) lines.push(element("p", { class: "muted" }, `and ${count(layer[1].length - items.length)} more`));
    }
    $("selection").replaceChildren(...lines);
  }
  /** A list whose options are shapes: one stop for the tab key, arrows within. */
  function listbox(svg, label, options) {
    if (!options.length) return;
    svg.setAttribute("role", "listbox");
    svg.setAttribute("aria-label", label);
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("keydown", (event) => {
      const at = options.findIndex((option) => option.shape.getAttribute("aria-selected") === "true");
      const steps = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: options.length - 1 };
      if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      options[Math.max(0, Math.min(options.length - 1, steps[event.key]))].choose();
    });
    for (const option of options) option.shape.addEventListener("click", option.choose);
  }

  // Drawings

  function drawStack() {
    const holder = $("stack");
    const width = holder.clientWidth;
    const layers = image().layers;
    const sum = layers.reduce((all, layer) => all + weight(layer), 0) || 1;
    const height = 56;
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height + 24}`, height: height + 24 });
    const gap = layers.length * 3 < width ? 1 : 0;
    const least = Math.min(2, width / (2 * layers.length)); // so that half of the width is left for sizes
    const free = width - layers.length * (least + gap) + gap;
    const options = [];
    let x = 0;
    layers.forEach((layer, number) => {
      const wide = least + (free * weight(layer)) / sum;
      const label = `Layer ${number + 1}: ${bytes(layer[0])}, ${holds(layer)}${image().update ? `, ${STATE_TEXT[stateOf(number)]}` : ""}`;
      // The state is told by the height, too: not everybody sees the colour. All of a layer's column takes the mouse.
      const high = image().update ? (height - 6) * [0.3, 0.65, 1][stateOf(number)] : height - 6;
      const box = shape("g", {
        class: `s-${STATES[stateOf(number)]}`, role: "option", id: `stack-l${number}`, "aria-selected": "false", "aria-label": label,
      });
      const place = { x: x.toFixed(2), width: wide.toFixed(2) };
      box.append(shape("title", {}, label), shape("rect", { ...place, y: 3, height: height - 6, class: "column" }),
        // Without gaps each reaches below the next one: between edges of parts of pixels the paper would shine through.
        shape("rect", { x: place.x, width: (wide + (gap ? 0 : 0.5)).toFixed(2), y: (height - 3 - high).toFixed(1), height: high.toFixed(1) }));
      svg.append(box);
      options.push({ shape: box, choose: () => choose(number) });
      x += wide + gap;
    });
    const ends = shape("g", { "aria-hidden": "true" });
    ends.append(shape("text", { x: 0, y: height + 15 }, "bottom"));
    ends.append(shape("text", { x: width, y: height + 15, "text-anchor": "end" }, "top"));
    svg.append(ends);
    listbox(svg, "Layers, bottom first", options);
    holder.replaceChildren(svg);
    mark(holder, "stack");
    legend($("stack-legend"), image().update
      ? [["bar s-kept", "kept"], ["bar s-above", "downloaded again by chain"], ["bar s-new", "new"]]
      : []);
  }
  function legend(list, entries) {
    list.replaceChildren(...entries.map(([name, text, share]) => {
      const swatch = element("span", { class: `swatch ${name}` });
      if (share) {
        const gauge = element("span", { class: `gauge on-${name}` });
        gauge.style.width = `${Math.round(100 * share)}%`;
        swatch.append(gauge);
      }
      return element("li", {}, swatch, text);
    }));
  }

  /** Squarified: rows along the shorter side, each as long as its worst cell gets no worse. */
  function squarify(items, x, y, width, height, place) {
    let rest = items.filter((item) => item.weight > 0).sort((a, b) => b.weight - a.weight || a.order - b.order);
    let sum = rest.reduce((all, item) => all + item.weight, 0);
    while (rest.length) {
      const across = width >= height;
      const side = across ? height : width;
      const scale = (width * height) / sum;
      const worst = (total, most, fewest) => {
        const deep = (total * scale) / side;
        return Math.max((most * scale) / (deep * deep), (deep * deep) / (fewest * scale));
      };
      let take = 1;
      let total = rest[0].weight;
      while (take < rest.length && worst(total + rest[take].weight, rest[0].weight, rest[take].weight) <= worst(total, rest[0].weight, rest[take - 1].weight)) {
        total += rest[take].weight;
        take += 1;
      }
      const deep = side ? (total * scale) / side : 0;
      let along = across ? y : x;
      for (const item of rest.slice(0, take)) {
        const long = deep ? (item.weight * scale) / deep : 0;
        if (across) place(item, x, along, deep, long);
        else place(item, along, y, long, deep);
        along += long;
      }
      if (across) { x += deep; width -= deep; } else { y += deep; height -= deep; }
      sum -= total;
      rest = rest.slice(take);
    }
  }
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  /** The text, or as much of its start as there is room for; nothing where that would be no word. */
  function fitted(text, width) {
    const room = width - 10;
    if (ruler.measureText(text).width <= room) return text;
    let end = Math.min(text.length, Math.floor(room / 4));
    while (end > 3 && ruler.measureText(`${text.slice(0, end)}…`).width > room) end -= 1;
    return end > 3 ? `${text.slice(0, end)}…` : "";
  }
  function drawMap() {
    const holder = $("map");
    const width = holder.clientWidth;
    const height = Math.round(Math.max(300, Math.min(560, width * 0.55)));
    const layers = image().layers;
    const nested = layers.some((layer) => layer[1].length) && layers.every((layer) => layer[1].every((path) => sizeOf(path) >= 0));
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, height });
    const texts = shape("g", { "aria-hidden": "true" });
    const options = [];
    const updates = data.images.length - 1;
    const cell = (x, y, wide, high, changes, id, label, layer, pick, text, second) => {
      const fill = `v${level(changes)}`;
      // How often it changed is told by the length of a line, too: not everybody sees the colour.
      const gauge = changes > 0 && wide >= 16 && high >= 12;
      const box = shape("rect", {
        x: (x + 0.5).toFixed(1), y: (y + 0.5).toFixed(1), width: Math.max(0.3, wide - 1).toFixed(1), height: Math.max(0.3, high - 1).toFixed(1),
        class: fill, role: "option", id, "aria-selected": "false", "aria-label": label, "data-layer": layer,
      });
      box.append(shape("title", {}, label));
      svg.append(box);
      options.push({ shape: box, choose: pick });
      if (gauge) {
        const length = Math.max(2, ((wide - 8) * changes) / updates);
        texts.append(shape("rect", { x: (x + 4).toFixed(1), y: (y + high - 6).toFixed(1), width: length.toFixed(1), height: 2, class: `gauge on-${fill}` }));
      }
      const line = high >= (gauge ? 26 : 18) ? fitted(text, wide) : "";
      if (line) texts.append(shape("text", { x: (x + 5).toFixed(1), y: (y + 14).toFixed(1), class: `cell on-${fill}` }, line));
      if (line && high >= (gauge ? 40 : 34) && fitted(second, wide) === second)
        texts.append(shape("text", { x: (x + 5).toFixed(1), y: (y + 28).toFixed(1), class: `cell on-${fill}` }, second));
    };
    const all = layers.reduce((sum, layer) => sum + layer[1].length, 0);
    const least = all > 4000 ? 4 : 0; // square pixels; of very many paths, those that nobody could see are not drawn
    const inside = (layer) => layer[1].reduce((all, path) => all + Math.max(1, sizeOf(path)), 0);
    const items = layers.map((layer, order) => ({ order, layer, weight: nested && layer[1].length ? inside(layer) : weight(layer) }));
    squarify(items, 0, 0, width, height, (item, x, y, wide, high) => {
      const { layer, order } = item;
      if (!nested || !layer[1].length) {
        const most = Math.max(0, ...layer[1].map(changesOf));
        cell(x, y, wide, high, most, `map-l${order}`, `Layer ${order + 1}: ${bytes(layer[0])}, ${holds(layer)}`, order,
          () => choose(order), `${order + 1}: ${holds(layer)}`, bytes(layer[0]));
        return;
      }
      const inner = layer[1].map((path, place) => ({ order: place, path, weight: Math.max(1, sizeOf(path)) }));
      const edge = Math.min(1, wide / 6, high / 6); // layers are further apart than paths of one layer
      squarify(inner, x + edge, y + edge, wide - 2 * edge, high - 2 * edge, (part, left, top, w, h) => {
        const { path } = part;
        if (w * h < least) return;
        const label = `${nameOf(path)}, ${bytes(sizeOf(path))}, layer ${order + 1}${data.images.length > 1 ? `, changed ${times(changesOf(path))}` : ""}`;
        cell(left, top, w, h, changesOf(path), `map-p${path}`, label, order, () => choose(order, path), nameOf(path), bytes(sizeOf(path)));
      });
    });
    svg.append(texts);
    listbox(svg, nested ? "Paths by size, layer by layer" : "Layers by size", options);
    holder.replaceChildren(svg);
    mark(holder, "map");
    const changed = nested ? "changed it" : "changed one of its paths";
    const gauges = updates > 1 ? ` The line in it is as long as the share of updates that ${changed}.` : updates ? ` A line in it: the update ${changed}.` : "";
    $("map-hint").textContent = nested
      ? `A rectangle is a path, as large as its NAR; paths of one layer lie together.${gauges}${least ? " The smallest are left out." : ""}`
      : `A rectangle is a layer.${gauges} Sizes of paths are not known: --closure tells them.`;
    const levels = updates < 4
      ? [...Array(updates + 1).keys()].map((n) => [`v${level(n)}`, n ? `changed ${plural(n, "time")}` : "never changed", n / updates])
      : [["v0", "never changed", 0], ["v1", "in up to ¼ of the updates", 1 / 4], ["v2", "up to ½", 2 / 4], ["v3", "up to ¾", 3 / 4], ["v4", "more", 1]];
    legend($("map-legend"), updates ? levels : []);
  }

  function drawUpdate() {
    const update = image().update;
    $("update-section").hidden = !update;
    if (!update) return;
    const states = update.layers.map((layer) => layer[0]);
    const fresh = states.filter((state) => state === 2).length;
    const above = states.filter((state) => state > 0).length;
    $("update-lead").textContent = `From ${data.images[current - 1].name}.`;
    const bound = update.bound === null ? "nobody says which paths are in which layers" : update.exact ? "the paths that are new" : "at least; sizes of some paths are not known: --closure tells them";
    const rows = [
      ["Bound", bound, "s-bound", update.bound],
      ["By digest", `podman, containerd: ${plural(fresh, "layer")}`, "s-new", update.digest],
      ["By chain", `Docker’s graph drivers: ${plural(above, "layer")}`, "s-above", update.chain],
    ];
    const most = Math.max(1, ...rows.map((row) => row[3] || 0));
    const grid = element("div", { class: "compare" });
    const told = (size, exact) => (exact ? bytes(size) : size ? `≥ ${bytes(size)}` : "?");
    for (const [name, text, fill, size] of rows) {
      const bar = element("div", { class: `fill ${fill}` });
      bar.style.width = `${(100 * (size || 0)) / most}%`;
      const ratio = update.bound && update.exact && size !== null ? `${(size / update.bound).toFixed(2)} ×` : "";
      grid.append(element("div", { class: "row" }, element("div", {}, name, element("small", {}, text)),
        element("div", { class: "track" }, bar), element("div", { class: "number" }, told(size, fill !== "s-bound" || update.exact || size === null)),
        element("div", { class: "number muted" }, ratio)));
    }
    $("update-bars").replaceChildren(grid);
  }

  function niceStep(most, steps) {
    const raw = most / steps;
    const power = 10 ** Math.floor(Math.log10(raw));
    return power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  }
  function drawCurve() {
    const updates = data.images.slice(1).map((one) => one.update);
    $("history-section").hidden = updates.length < 2;
    if (updates.length < 2) return;
    const holder = $("curve");
    const width = holder.clientWidth;
    const height = 250;
    const edge = { left: 58, right: width < 520 ? 12 : 104, top: 12, bottom: 36 };
    const series = [["chain", "by chain", "above"], ["digest", "by digest", "new"], ["bound", "bound", "bound"]];
    const dot = (name, at, down, r) => // of another form for each line: not everybody sees the colour
      name === "above" ? shape("rect", { x: (at - r).toFixed(1), y: (down - r).toFixed(1), width: 2 * r, height: 2 * r, class: "s-above" })
        : name === "bound" ? shape("path", { d: `M${at.toFixed(1)} ${(down - r - 1).toFixed(1)}l${r + 1} ${r + 1}l${-r - 1} ${r + 1}l${-r - 1} ${-r - 1}z`, class: "s-bound" })
          : shape("circle", { cx: at.toFixed(1), cy: down.toFixed(1), r, class: "s-new" });
    const most = Math.max(1, ...updates.flatMap((update) => series.map(([key]) => update[key] || 0)));
    const step = niceStep(most, 4);
    const top = Math.ceil(most / step) * step;
    const x = (number) => edge.left + ((width - edge.left - edge.right) * number) / (updates.length - 1);
    const y = (size) => height - edge.bottom - ((height - edge.top - edge.bottom) * size) / top;
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "Bytes downloaded for each update; the table below has the figures" });
    for (let size = 0; size <= top; size += step) {
      svg.append(shape("line", { x1: edge.left, x2: width - edge.right, y1: y(size), y2: y(size), class: "grid" }));
      svg.append(shape("text", { x: edge.left - 8, y: y(size) + 4, "text-anchor": "end" }, size ? bytes(size).replace(/\.0+ /, " ") : "0"));
    }
    const every = Math.ceil(updates.length / Math.max(1, Math.floor((width - edge.left - edge.right) / 36)));
    updates.forEach((_, number) => {
      if (number % every === 0) svg.append(shape("text", { x: x(number), y: height - edge.bottom + 17, "text-anchor": "middle" }, String(number + 1)));
    });
    svg.append(shape("text", { x: (edge.left + width - edge.right) / 2, y: height - 3, "text-anchor": "middle" }, "update"));
    const labels = [];
    for (const [key, text, color] of series) {
      let path = "";
      updates.forEach((update, number) => {
        if (update[key] === null) return;
        path += `${path ? "L" : "M"}${x(number).toFixed(1)} ${y(update[key]).toFixed(1)}`;
        svg.append(dot(color, x(number), y(update[key]), 3));
      });
      if (!path) continue;
      svg.append(shape("path", { d: path, class: `line l-${color}` }));
      const last = updates[updates.length - 1][key];
      labels.push({ text, color, at: y(last === null ? 0 : last) + 4 });
    }
    if (edge.right > 60) {
      labels.sort((a, b) => a.at - b.at);
      for (let i = 1; i < labels.length; i += 1) labels[i].at = Math.max(labels[i].at, labels[i - 1].at + 15);
      const low = height - edge.bottom + 4;
      for (let i = labels.length - 1, limit = low; i >= 0; i -= 1, limit -= 15) labels[i].at = Math.min(labels[i].at, limit);
      for (const label of labels) {
        svg.append(dot(label.color, width - edge.right + 14, label.at - 4, 4));
        svg.append(shape("text", { x: width - edge.right + 23, y: label.at, class: "name" }, label.text));
      }
      holder.replaceChildren(svg);
    } else {
      const list = element("ul", { class: "legend" });
      legend(list, series.map(([, text, color]) => [`dot s-${color}`, text]));
      holder.replaceChildren(list, svg);
    }
  }

  // Tables and search

  const cells = (row, kind = "td") => element("tr", {}, ...row.map(([content, name]) => element(kind, { ...(name ? { class: name } : {}), ...(kind === "th" ? { scope: "col" } : {}) }, content)));

  function tellHistory() {
    if (data.images.length < 3) return;
    const head = cells([["Update", "n"], ["By digest", "n"], ["By chain", "n"], ["Bound", "n"], ["To", ""]], "th");
    const body = data.images.slice(1).map((one, number) => {
      const { digest, chain, bound, exact } = one.update;
      const least = bound !== null && !exact ? "≥ " : "";
      return cells([[String(number + 1), "n"], [bytes(digest), "n"], [bytes(chain), "n"], [least + bytes(bound), "n"], [one.name, "wide"]]);
    });
    $("history").replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
  }
  function tellLayers() {
    const update = image().update;
    const head = [["Layer", "n"], ["Size", "n"], ["Paths", "n spare"]];
    if (update) head.push(["State", ""]);
    head.push(["Holds", "wide"]);
    if (update) head.push(["Why", "wide spare"]);
    const rows = image().layers.map((layer, number) => {
      const button = element("button", { type: "button", "aria-label": `Layer ${number + 1}` }, String(number + 1));
      button.addEventListener("click", () => choose(number, undefined, true));
      const row = [[button, "n"], [bytes(layer[0]), "n"], [layer[1].length ? count(layer[1].length) : "", "n spare"]];
      if (update) {
        const state = STATES[stateOf(number)];
        row.push([element("span", { class: `chip s-${state}` }, state), ""]);
      }
      // Where the window is narrow the reason stands below what the layer holds: there is no room for its column.
      const reason = update ? why(number).join("; ") : "";
      row.push([reason ? element("span", {}, holds(layer), element("small", { class: "narrow" }, reason)) : holds(layer), "wide"]);
      if (update) row.push([reason, "wide spare"]);
      return cells(row);
    });
    $("layers").replaceChildren(element("thead", {}, cells(head, "th")), element("tbody", {}, ...rows));
  }
  const SHOWN = 50;
  function find() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    if (words.length) {
      image().layers.forEach((layer, number) => {
        for (const path of layer[1]) {
          const text = fullName(path).toLowerCase();
          if (words.every((word) => text.includes(word))) found.push([path, number]);
        }
      });
    }
    found.sort((a, b) => sizeOf(b[0]) - sizeOf(a[0]) || (nameOf(a[0]) < nameOf(b[0]) ? -1 : 1));
    const more = found.length > SHOWN ? `; the ${sizeOf(found[0][0]) >= 0 ? "largest" : "first"} ${SHOWN} are shown` : "";
    $("found-count").textContent = words.length ? `${plural(found.length, "path")} found${more}.` : "";
    $("found").replaceChildren(...found.slice(0, SHOWN).map(([path, number]) => {
      const facts = [`layer ${number + 1}`];
      if (sizeOf(path) >= 0) facts.unshift(bytes(sizeOf(path)));
      const button = element("button", { type: "button", title: fullName(path) }, element("span", {}, nameOf(path)), element("span", {}, facts.join(" · ")));
      button.addEventListener("click", () => choose(number, path, true));
      return element("li", {}, button);
    }));
  }

  // The whole

  function tellImage() {
    const one = image();
    $("title").textContent = one.name;
    document.title = `${one.name} · fastlayers report`;
    const paths = one.layers.reduce((all, layer) => all + layer[1].length, 0);
    const figures = [
      ["layers", count(one.layers.length)],
      [one.unit === "stored" ? "stored" : "NAR size", bytes(one.size)],
      ["largest layer", bytes(Math.max(...one.layers.map((layer) => layer[0]), -1))],
    ];
    if (paths) figures.splice(1, 0, ["paths", count(paths)]);
    $("figures").replaceChildren(...figures.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    $("note").textContent = `Sizes of layers are ${one.unit === "stored" ? "those that are stored and sent (compressed, where layers are)" : "NAR sizes"}; sizes of paths are NAR sizes. 1 MB is 1,000,000 bytes.`;
  }
  function draw() {
    drawStack();
    drawMap();
    drawCurve();
  }
  function show() {
    chosen = null;
    $("selection").replaceChildren(element("p", { class: "muted" }, "Nothing yet: choose a layer or a path."));
    tellImage();
    drawUpdate();
    tellLayers();
    draw();
    find();
  }
  if (data.images.length > 1) {
    $("choice").hidden = false;
    $("image").append(...data.images.map((one, number) => element("option", { value: String(number) }, `${number + 1}: ${one.name}`)));
    $("image").value = String(current);
    $("image").addEventListener("change", () => {
      current = Number($("image").value);
      show();
    });
  }
  $("search").addEventListener("input", find);
  let drawn = 0;
  new ResizeObserver(() => {
    if ($("stack").clientWidth !== drawn) {
      drawn = $("stack").clientWidth;
      draw();
    }
  }).observe($("stack"));
  tellHistory();
  show();
  drawn = $("stack").clientWidth;
})();
