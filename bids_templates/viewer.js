"use strict";
(function (anchor) {
  const SVG = "http://www.w3.org/2000/svg";
  const POSITIVE = ["#fdb863", "#e08214", "#b35806", "#7f3b08"];
  const NEGATIVE = ["#b2abd2", "#8073ac", "#542788", "#2d004b"];
  const GREYS = ["#f2f2f2", "#dedede"]; // every other layer, and the others
  const TINTS = ["#fddcb5", "#dcd6ee", "#cfe9df", "#f7d5e4", "#e6ecc6", "#d3e6f5"];
  const RESTING = ["off", "n/a", "baseline", "rest", "control"];
  const NAME_HEIGHT = 18, GAP = 18, NARROWEST = 44;

  const root = document.getElementById(anchor + "-viewer");
  const parts = Object.fromEntries(
    Array.from(root.querySelectorAll("[data-part]"), (one) => [one.dataset.part, one]));
  const state = { map: 0, threshold: 0, unit: 0, pointed: null };
  const courses = new Map(); // by task, or null where there is none
  let space, maps, starts, steps, tiles = [], started = null, view = null;

  // ---- what was embedded

  function embedded(name) {
    const block = document.getElementById(anchor + "-viewer-" + name);
    return block && JSON.parse(block.textContent);
  }

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function readMap(one) {
    const values = new Float32Array(await unpacked(one.values));
    const network = new Uint8Array(await unpacked(one.network));
    const largest = values.reduce((most, value) => Math.max(most, sizeOf(one, value) || 0), 0);
    // A file holds single precision: the unit that is just in must not fall out by rounding.
    return { ...one, values, network, largest: largest || 1, threshold: Math.fround(one.threshold ?? 0) };
  }

  async function readCourses(task) {
    const found = embedded("course-" + task);
    if (!found) return null;
    const units = new Int32Array(await unpacked(found.units));
    return {
      ...found,
      places: new Map(Array.from(units, (unit, place) => [unit, place])),
      points: new Int8Array(await unpacked(found.points)),
      layout: pointsOf(found),
    };
  }

  // One entry per point: where it lies, and which prompt it is of.
  function pointsOf({ runs, scans }) {
    const layout = [];
    let offset = 0, prompt = 0;
    for (const run of runs) {
      for (const [start, length] of run.prompts) {
        for (let at = start; at < start + length; at += scans) {
          const n = Math.min(scans, start + length - at);
          layout.push({ from: offset + at, to: offset + at + n, prompt });
        }
        prompt += 1;
      }
      offset += run.scans;
    }
    return layout;
  }

  // ---- units and voxels

  function place(unit) {
    let layer = starts.length - 1;
    while (starts[layer] > unit) layer -= 1;
    const channel = unit - starts[layer];
    return { layer, channel, i: channel % space.shape[0], j: Math.floor(channel / space.shape[0]) };
  }

  function unitAt(layer, i, j) {
    const channel = i + space.shape[0] * j;
    return channel < space.channels[layer] ? starts[layer] + channel : null;
  }

  function voxelOf(unit) {
    const { layer, i, j } = place(unit);
    return i + space.shape[0] * (j + space.shape[1] * (layer + space.empty));
  }

  const clamp = (number, least, most) => Math.min(Math.max(number, least), most);
  const nUnits = () => maps[0].values.length;
  const current = () => maps[state.map];

  // As long as there is room: of a block its number, of other layers the number by which they are chosen.
  function layerName(layer, width) {
    const long = space.names[layer];
    if (long.length * 7 <= width) return long;
    return String(/^block \d+$/.test(long) ? space.blocks[layer] : layer);
  }

  // Of a test with one tail, values of the other are nothing: they are neither shown nor strong.
  function sizeOf({ tail }, value) {
    return tail ? tail * value : Math.abs(value);
  }

  function isShown(map, unit) {
    const value = sizeOf(map, map.values[unit]);
    return value > 0 && value >= state.threshold && (!parts.network.checked || map.network[unit] === 1);
  }

  function nShown() {
    let n = 0;
    for (let unit = 0; unit < nUnits(); unit += 1) n += isShown(current(), unit);
    return n;
  }

  function short(value) {
    if (!Number.isFinite(value)) return "no value";
    return Math.abs(value) >= 1000 ? String(Number(value.toPrecision(3))) : value.toPrecision(3);
  }

  // ---- the map, by NiiVue

  function nifti(values) {
    const buffer = new ArrayBuffer(352 + 4 * values.length);
    const header = new DataView(buffer);
    const short16 = (at, numbers) => numbers.forEach((n, k) => header.setInt16(at + 2 * k, n, true));
    const floats = (at, numbers) => numbers.forEach((n, k) => header.setFloat32(at + 4 * k, n, true));
    header.setInt32(0, 348, true);
    short16(40, [3, ...space.shape, 1, 1, 1, 1]);
    short16(70, [16, 32]); // single precision
    floats(76, [1, 1, 1, 1, 1, 0, 0, 0, 352, 1]); // voxels of 1 mm, where values begin, slope
    header.setUint8(123, 2); // millimetres
    short16(252, [0, 1]);
    floats(280, [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]);
    [0x6e, 0x2b, 0x31].forEach((letter, k) => header.setUint8(344 + k, letter));
    new Float32Array(buffer, 352).set(values);
    return buffer;
  }

  function layerVolume() {
    const volume = new Float32Array(space.shape.reduce((product, n) => product * n, 1));
    for (let unit = 0; unit < nUnits(); unit += 1) volume[voxelOf(unit)] = place(unit).layer % 2 ? 2 : 0.01;
    return volume;
  }

  // What is hidden is 0 in the volume: what is drawn and what is counted are then the same by one comparison.
  function shownVolume(volume) {
    volume.fill(0);
    for (let unit = 0; unit < nUnits(); unit += 1)
      if (isShown(current(), unit)) volume[voxelOf(unit)] = current().values[unit];
    return volume;
  }

  // Colours from that of the smallest number to that of the largest; 0 itself is transparent.
  function colourMap(colours) {
    const all = [colours[0], ...colours];
    const channel = (at) => all.map((colour) => parseInt(colour.slice(at, at + 2), 16));
    const steps = colours.map((_, k) => Math.round(1 + (254 * k) / (colours.length - 1)));
    return { R: channel(1), G: channel(3), B: channel(5), A: [0, ...colours.map(() => 255)], I: [0, ...steps] };
  }

  // NiiVue's own mosaic leaves no room for the names of layers; slices are drawn one by one where we want them.
  function layerView(Niivue) {
    return class extends Niivue {
      drawMosaic() {
        const ratio = this.canvas.width / parts.canvas.clientWidth;
        this.screenSlices = [];
        for (const { layer, x, y, width, height } of tiles)
          this.draw2D([x, y, width, height].map((n) => Math.round(n * ratio)), 0, layer + space.empty);
      }
    };
  }

  function hasWebGL() {
    const context = document.createElement("canvas").getContext("webgl2");
    context?.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep few of them
    return Boolean(context && window.niivue);
  }

  async function startView() {
    if (!hasWebGL()) return showWithoutMap();
    const made = new (layerView(window.niivue.Niivue))({
      backColor: [1, 1, 1, 1], isNearestInterpolation: true, interactive: false, dragAndDropEnabled: false,
      isOrientationTextVisible: false, loadingText: "", logLevel: "silent", sliceMosaicString: "A 0",
    });
    made.addColormap("llm2bids-layers", colourMap(GREYS));
    made.addColormap("llm2bids-positive", colourMap(POSITIVE));
    made.addColormap("llm2bids-negative", colourMap(NEGATIVE));
    await made.attachToCanvas(parts.canvas, false);
    parts.stage.style.backgroundColor = "";
    made.addVolume(await image("layers.nii", "llm2bids-layers", "", layerVolume(), [0, 2]));
    made.addVolume(await image("map.nii", "llm2bids-positive", "llm2bids-negative", layerVolume(), [0, 1]));
    view = made;
  }

  function image(name, colours, negative, volume, [least, most]) {
    return window.niivue.NVImage.new(
      nifti(volume), name, colours, 1, null, least, most, true, 0.02, false, false, negative);
  }

  function showWithoutMap() {
    parts.missing.hidden = false;
    for (const name of ["stage", "scale", "view"]) parts[name].hidden = true;
    parts.view.parentElement.hidden = true;
    document.getElementById(anchor + "-viewer-keys").hidden = true;
  }

  // ---- where slices lie

  function layersInView() {
    const all = parts.view.value === "all";
    return all ? space.hookpoints.map((_, layer) => layer) : [place(state.unit).layer];
  }

  function arrange() {
    const [nx, ny] = space.shape, layers = layersInView(), room = parts.stage.clientWidth;
    const highest = Math.max(320, Math.min(640, window.innerHeight * 0.7));
    const most = Math.min(layers.length, Math.max(1, Math.floor((room + GAP) / (NARROWEST + GAP))));
    let columns = 0, size, rows, height;
    do {
      columns += 1;
      rows = Math.ceil(layers.length / columns);
      size = voxelSize((room - GAP * (columns - 1)) / columns / nx);
      height = rows * (NAME_HEIGHT + size * ny + GAP / 2);
    } while (height > highest && columns < most);
    if (columns === 1 && height > highest) size = voxelSize((size * highest) / height);
    tiles = layers.map((layer, k) => ({
      layer, size, width: size * nx, height: size * ny,
      x: (k % columns) * (size * nx + GAP),
      y: NAME_HEIGHT + Math.floor(k / columns) * (NAME_HEIGHT + size * ny + GAP / 2),
    }));
    parts.stage.style.height = Math.ceil(rows * (NAME_HEIGHT + size * ny + GAP / 2)) + "px";
  }

  // Whole pixels of the screen, so that all voxels are equally large.
  function voxelSize(size) {
    const ratio = window.devicePixelRatio || 1;
    return size * ratio >= 2 ? Math.floor(size * ratio) / ratio : size;
  }

  function pixelOf(unit) {
    const { layer, i, j } = place(unit);
    const tile = tiles.find((one) => one.layer === layer);
    return tile && { x: tile.x + i * tile.size, y: tile.y + (space.shape[1] - 1 - j) * tile.size, size: tile.size };
  }

  function unitUnder(event) {
    const frame = parts.stage.getBoundingClientRect();
    const x = event.clientX - frame.left, y = event.clientY - frame.top;
    for (const tile of tiles) {
      const i = Math.floor((x - tile.x) / tile.size), fromTop = Math.floor((y - tile.y) / tile.size);
      if (i >= 0 && i < space.shape[0] && fromTop >= 0 && fromTop < space.shape[1])
        return unitAt(tile.layer, i, space.shape[1] - 1 - fromTop);
    }
    return null;
  }

  // ---- drawing

  function drawn(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function drawMap() {
    if (!view) return;
    const overlay = view.volumes[1];
    shownVolume(overlay.img);
    overlay.cal_min = overlay.robust_min = 0;
    overlay.cal_max = current().largest;
    view.updateGLVolume();
  }

  function drawMarks() {
    const marks = tiles.flatMap(({ layer, x, y, width, height }) => {
      return [drawn("text", { x, y: y - 5 }, layerName(layer, width)),
        drawn("rect", { x, y, width, height, fill: "none", stroke: "#8c8c8c" })];
    });
    for (const unit of new Set([state.unit, state.pointed ?? state.unit])) marks.push(...frame(unit));
    parts.marks.replaceChildren(...marks);
  }

  function frame(unit) {
    const at = pixelOf(unit);
    if (!at) return [];
    const side = Math.max(at.size, 7), shift = (side - at.size) / 2;
    const box = { x: at.x - shift, y: at.y - shift, width: side, height: side, fill: "none" };
    return [drawn("rect", { ...box, stroke: "#fff", "stroke-width": 5 }),
      drawn("rect", { ...box, stroke: "#000", "stroke-width": 2 })];
  }

  function drawScale() {
    const { largest, label, tail } = current(), share = clamp(state.threshold / largest, 0, 1) * 50;
    parts.colours.style.background =
      `linear-gradient(to right, ${[...NEGATIVE].reverse().join(",")} 50%, ${POSITIVE[0]} 50%, ${POSITIVE.slice(1).join(",")})`;
    parts["hidden-range"].style.left = (tail > 0 ? 0 : 50 - share) + "%";
    parts["hidden-range"].style.right = (tail < 0 ? 0 : 50 - share) + "%";
    parts.low.textContent = short(-largest);
    parts.middle.textContent = `${label}, grey is hidden`;
    parts.high.textContent = short(largest);
  }

  function drawCount() {
    const { label, network, tail } = current(), n = nShown();
    const own = network.reduce((sum, one) => sum + one, 0);
    const from = short(state.threshold);
    parts.level.textContent = { 1: `${label} ≥ ${from}`, [-1]: `${label} ≤ −${from}`, 0: `|${label}| ≥ ${from}` }[tail];
    parts.threshold.setAttribute("aria-valuetext", `${short(state.threshold)}, ${n} units shown`);
    parts.count.textContent = `${n} of ${nUnits()} units shown; ${own} in the network`;
  }

  function wordsOf(unit) {
    const { layer, channel } = place(unit), { values, network, label } = current();
    return [
      ["site", space.site],
      ["block", space.blocks[layer] < 0 ? "none" : space.blocks[layer]],
      ["hookpoint", space.hookpoints[layer]],
      ["channel", channel],
      ["unit", unit],
      [label, short(values[unit])],
      ["in the network", network[unit] ? "yes" : "no"],
    ];
  }

  function drawWords(unit) {
    parts.words.replaceChildren(...wordsOf(unit).map(([term, value]) => {
      const pair = document.createElement("div");
      pair.append(document.createElement("dt"), document.createElement("dd"));
      pair.firstChild.textContent = term;
      pair.lastChild.textContent = value;
      return pair;
    }));
  }

  function speak() {
    parts.spoken.textContent = wordsOf(state.unit).map((pair) => pair.join(" ")).join(", ");
  }

  function drawUnit() {
    const unit = state.pointed ?? state.unit;
    drawMarks();
    drawWords(unit);
    drawCourse(unit);
  }

  function drawAll() {
    arrange();
    view?.resizeListener(); // at once: until NiiVue notices by itself, the map would lie beside its frames
    drawMap();
    drawScale();
    drawCount();
    drawUnit();
  }

  // ---- time courses

  const FRAME = { left: 46, right: 8, top: 22, bottom: 38, height: 190 };

  function signalOf(course, unit) {
    const n = course.layout.length, at = course.places.get(unit);
    return at === undefined ? null : Array.from(course.points.subarray(at * n, (at + 1) * n), (step) => step / steps);
  }

  function drawCourse(unit) {
    const course = courses.get(current().task);
    const signal = course && signalOf(course, unit);
    parts.course.style.display = signal ? "" : "none";
    parts.legend.replaceChildren();
    if (signal) return plot(course, signal, unit);
    parts.caption.textContent = course
      ? "The page holds no time course of this unit: there was room for those of networks only."
      : "The page holds no time course of this task.";
  }

  function plot(course, signal, unit) {
    const width = Math.max(parts.course.parentElement.clientWidth, 200);
    const length = course.runs.reduce((sum, run) => sum + run.scans, 0);
    const top = Math.max(2, Math.ceil(signal.reduce((most, value) => Math.max(most, Math.abs(value)), 0)));
    const scale = {
      width, top, colours: tints(course),
      x: (scan) => FRAME.left + ((width - FRAME.left - FRAME.right) * scan) / length,
      y: (value) => FRAME.top + ((FRAME.height - FRAME.top - FRAME.bottom) * (top - value)) / (2 * top),
    };
    const means = promptMeans(course, signal);
    parts.course.setAttribute("viewBox", `0 0 ${width} ${FRAME.height}`);
    parts.course.replaceChildren(
      ...shading(course, scale), ...axes(course, scale), points(course, signal, scale), meanLines(course, means, scale));
    describe(course, means, signal, unit);
    legend(scale.colours);
  }

  const typesOf = (course) => course.runs.flatMap((run) => run.prompts.map((prompt) => prompt[2]));

  function tints(course) {
    const kinds = [...new Set(typesOf(course))].sort();
    const active = kinds.filter((kind) => !RESTING.includes(kind));
    return new Map([...active, ...kinds.filter((kind) => RESTING.includes(kind))]
      .map((kind, k) => [kind, k < active.length ? TINTS[k % TINTS.length] : "#ffffff"]));
  }

  function promptMeans(course, signal) {
    const means = [];
    course.layout.forEach(({ from, to, prompt }, k) => {
      const mean = (means[prompt] ??= { from, to, sum: 0 });
      mean.to = to;
      mean.sum += signal[k] * (to - from);
    });
    return means.map((one) => ({ ...one, value: one.sum / (one.to - one.from) }));
  }

  function shading(course, { x, y, top, colours }) {
    const boxes = [];
    let offset = 0;
    for (const run of course.runs) {
      for (const [start, length, kind] of run.prompts) {
        const box = drawn("rect", {
          x: x(offset + start), y: y(top), width: x(length) - x(0), height: y(-top) - y(top), fill: colours.get(kind),
        });
        box.append(drawn("title", {}, kind)); // shown where a pointer rests: of many conditions some share a colour
        boxes.push(box);
      }
      offset += run.scans;
    }
    return boxes;
  }

  function axes(course, { x, y, top, width }) {
    const lines = [-top, 0, top].flatMap((value) => [
      drawn("line", { x1: FRAME.left, x2: width - FRAME.right, y1: y(value), y2: y(value), stroke: value ? "#ccc" : "#8c8c8c" }),
      drawn("text", { x: FRAME.left - 6, y: y(value) + 4, "text-anchor": "end" }, value)]);
    const name = { transform: `translate(12 ${y(0)}) rotate(-90)`, "text-anchor": "middle" };
    const middle = (FRAME.left + width - FRAME.right) / 2;
    lines.push(drawn("text", name, "signal (sd)"));
    lines.push(drawn("text", { x: middle, y: FRAME.height - 4, "text-anchor": "middle" }, "scan (token) of the run"));
    return [...lines, ...runBorders(course, { x, y, top })];
  }

  function runBorders(course, { x, y, top }) {
    let offset = 0;
    return course.runs.flatMap((run) => {
      const begin = offset, span = x(run.scans) - x(0);
      offset += run.scans;
      return [
        drawn("line", { x1: x(begin), x2: x(begin), y1: y(top) - 16, y2: y(-top) + 4, stroke: "#444" }),
        ...(span > 44 ? [drawn("text", { x: x(begin) + 4, y: y(top) - 6 }, run.label)] : []),
        ...ticks(run.scans, span).flatMap((scan) => [
          drawn("text", { x: x(begin + scan) + (scan ? 0 : 2), y: y(-top) + 16, "text-anchor": scan ? "middle" : "start" }, scan)]),
      ];
    });
  }

  // Round numbers, 60 pixels apart at least and clear of the next run's 0.
  function ticks(length, span) {
    const apart = (60 / span) * length;
    const step = [1, 2, 5].flatMap((n) => [n, 10 * n, 100 * n, 1000 * n, 10000 * n]).sort((a, b) => a - b)
      .find((n) => n >= apart) ?? length;
    const found = [];
    for (let scan = 0; scan <= length - apart / 2; scan += step) found.push(scan);
    return found;
  }

  function points(course, signal, { x, y }) {
    const path = course.layout.map(({ from, to }, k) => `M${x((from + to) / 2).toFixed(1)} ${y(signal[k]).toFixed(1)}h0`);
    return drawn("path", {
      d: path.join(""), stroke: "#0072b2", "stroke-width": 2.4, "stroke-linecap": "round", "stroke-opacity": 0.45,
      fill: "none", "data-points": path.length,
    });
  }

  function meanLines(course, means, { x, y }) {
    const path = means.map(({ from, to, value }) => `M${x(from).toFixed(1)} ${y(value).toFixed(1)}H${x(to).toFixed(1)}`);
    return drawn("path", { d: path.join(""), stroke: "#222", "stroke-width": 2, fill: "none" });
  }

  function describe(course, means, signal, unit) {
    const types = typesOf(course), kinds = [...new Set(types)].sort();
    const each = kinds.map((kind) => {
      const own = means.filter((_, k) => types[k] === kind);
      const n = own.reduce((sum, one) => sum + one.to - one.from, 0);
      return `${kind}\u00a0${(own.reduce((sum, one) => sum + one.sum, 0) / n).toFixed(2)}`;
    });
    const task = current().task;
    parts.caption.textContent =
      `Unit ${unit} in task ${task}; ${course.description}; line: mean of a prompt. Mean in standard deviations: ${each.join(", ")}.`;
    parts.course.setAttribute("aria-label",
      `Time course of unit ${unit} in task ${task}, ${signal.length} points. Mean in standard deviations: ${each.join(", ")}.`);
  }

  function legend(colours) {
    parts.legend.replaceChildren(...Array.from(colours, ([kind, colour]) => {
      const item = document.createElement("span"), patch = document.createElement("i");
      patch.style.background = colour;
      item.append(patch, kind);
      return item;
    }));
    if (new Set(colours.values()).size < colours.size)
      parts.legend.append("Some conditions share a colour: point at a prompt for its own.");
  }

  // ---- what a person does

  async function chooseMap(number) {
    state.map = number;
    const { task, largest, threshold } = current();
    if (!courses.has(task)) courses.set(task, await readCourses(task));
    if (state.map !== number) return; // another was chosen meanwhile
    parts.threshold.max = largest;
    parts.threshold.value = state.threshold = threshold;
    drawAll();
  }

  function select(layer, channel) {
    const own = clamp(Math.round(layer) || 0, 0, space.hookpoints.length - 1);
    state.unit = starts[own] + clamp(Math.round(channel) || 0, 0, space.channels[own] - 1);
    state.pointed = null;
    const found = place(state.unit);
    parts.layer.value = found.layer;
    parts.channel.value = found.channel;
    parts.channel.max = space.channels[own] - 1;
    if (parts.view.value === "one") drawAll();
    else drawUnit();
    speak();
  }

  function move(event) {
    const { layer, channel } = place(state.unit), row = space.shape[0];
    const next = {
      ArrowLeft: [layer, channel - 1], ArrowRight: [layer, channel + 1], ArrowUp: [layer, channel + row],
      ArrowDown: [layer, channel - row], PageUp: [layer + 1, channel], PageDown: [layer - 1, channel],
    }[event.key];
    if (!next) return;
    event.preventDefault();
    if (next[1] >= 0 && next[1] < space.channels[clamp(next[0], 0, space.channels.length - 1)]) select(...next);
  }

  function point(event) {
    const unit = unitUnder(event);
    if (unit === state.pointed) return;
    state.pointed = unit;
    drawUnit();
  }

  function click(event) {
    const unit = unitUnder(event);
    if (unit === null) return;
    const { layer, channel } = place(unit);
    select(layer, channel);
  }

  function setThreshold(value) {
    state.threshold = value;
    drawMap();
    drawScale();
    drawCount();
  }

  function listen() {
    const chosen = () => select(Number(parts.layer.value), Number(parts.channel.value));
    parts.map.addEventListener("change", () => chooseMap(Number(parts.map.value)).then(speak));
    parts.view.addEventListener("change", drawAll);
    parts.threshold.addEventListener("input", () => setThreshold(Number(parts.threshold.value)));
    parts.network.addEventListener("change", () => setThreshold(state.threshold));
    parts.layer.addEventListener("change", chosen);
    parts.channel.addEventListener("change", chosen);
    parts.canvas.addEventListener("keydown", move);
    parts.canvas.addEventListener("pointermove", point);
    parts.canvas.addEventListener("pointerleave", () => { state.pointed = null; drawUnit(); });
    parts.canvas.addEventListener("click", click);
    let width = root.clientWidth;
    new ResizeObserver(() => {
      if (root.clientWidth === width) return;
      width = root.clientWidth;
      drawAll();
    }).observe(root);
  }

  // ---- beginning: when it is looked at, since browsers keep few WebGL contexts

  async function begin() {
    const found = embedded("maps");
    ({ space, steps } = found);
    maps = await Promise.all(found.maps.map(readMap));
    starts = space.channels.reduce((list, n) => [...list, list.at(-1) + n], [0]).slice(0, -1);
    state.unit = strongest(maps[0]);
    await startView();
    await chooseMap(0);
    listen();
    const { layer, channel } = place(state.unit);
    select(layer, channel);
    root.setAttribute("aria-busy", "false");
  }

  const hasBegun = () => root.getAttribute("aria-busy") === "false";

  function strongest(map) {
    const size = (unit) => sizeOf(map, map.values[unit]);
    return map.values.reduce((best, _, unit) => (size(unit) > size(best) || Number.isNaN(size(best)) ? unit : best), 0);
  }

  function start() {
    started ??= new Promise((done) => {
      if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", done, { once: true });
      else done();
    }).then(begin);
    return started;
  }

  function api() {
    return {
      start, nShown,
      select: (layer, channel) => select(layer, channel),
      unit: () => (hasBegun() ? { number: state.unit, ...place(state.unit), value: current().values[state.unit] } : undefined),
      threshold: () => state.threshold,
      pixel: (layer, channel) => pixelOf(starts[layer] + channel),
    };
  }

  root.hidden = false;
  window.llm2bids = { ...window.llm2bids, [anchor]: api() };
  new IntersectionObserver((entries, watching) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watching.disconnect();
    start();
  }).observe(root);
  root.addEventListener("focusin", start, { once: true });
})(document.currentScript.dataset.anchor);
