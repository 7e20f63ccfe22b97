// The figure: what is shown of which study, and how, in the same scope as words.js.
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"];
const DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]];
const MOST = 8;

// what is shown

const arms = [...new Set(D.studies.flatMap((study) => study.arms.map((arm) => arm.name)))];
const first = D.studies[0];
const on = {
  studies: new Set(D.studies.slice(0, D.studies.length <= 3 ? 3 : 1).map((study) => study.name)),
  arms: new Set(arms.slice(0, D.studies.length > 1 && D.studies.length <= 3 ? 2 : 5)),
};
const looks = new Map();
const state = { x: "density", y: first ? first.metric : "", at: 0, hovered: null };
// the pointer begins where the first arm still matches dense: what the answer above speaks of
if (first) state.at = Math.max(0, first.arms[0].match?.lastIndexOf("yes") ?? 0);

function series() {
  const found = [];
  for (const study of D.studies) if (on.studies.has(study.name)) for (const arm of study.arms) if (on.arms.has(arm.name)) {
    const key = `${study.name} ${arm.name}`;
    if (arm.columns[state.y] && arm.columns[state.x]) found.push({ key, study, arm, name: on.studies.size > 1 ? `${arm.name} · ${study.short}` : arm.name });
  }
  for (const key of looks.keys()) if (!found.some((one) => one.key === key)) looks.delete(key);
  for (const one of found) if (!looks.has(one.key)) {
    let look = 0;
    while ([...looks.values()].includes(look)) look += 1;
    looks.set(one.key, look);
  }
  return found;
}
const colour = (look) => `var(--c${look % MOST})`;
const x_of = (one, at) => { const value = one.arm.columns[state.x].mean[at]; return state.x === "density" && value !== null ? 100 * value : value; };

// the figure

let view = null, shape = "";
function rows_of(found) {
  const means = [], seeds = [];
  for (const one of found) {
    const look = looks.get(one.key), column = one.arm.columns[state.y];
    const fixed = { key: one.key, colour: colour(look), dash: DASHES[Math.floor(look / MOST) % DASHES.length], shape: SHAPES[look % SHAPES.length] };
    // an interval may reach beyond what a share can be, and would take the figure's room
    const within = (value) => one.study.share && state.y === one.study.metric ? Math.min(1, Math.max(0, value)) : value;
    one.arm.rounds.forEach((_, at) => {
      const x = x_of(one, at), y = column.mean[at], half = column.half ? column.half[at] ?? 0 : 0;
      if (!(x > 0) || y === null) return;
      means.push({ ...fixed, x, y, low: within(y - half), high: within(y + half) });
      if (column.seeds && ($("seeds").checked || state.hovered === one.key)) column.seeds.forEach((values, seed) => {
        if (values[at] !== null) seeds.push({ ...fixed, seed: `${one.key} ${seed}`, x, y: values[at] });
      });
    });
  }
  const paper = state.x !== "density" ? [] : found.flatMap((one) => (one.study.claims || []).filter((claim) => claim.point
    && claim.point.arm === one.arm.name && claim.point.column === state.y).map((claim) => ({ x: 100 * claim.point.density, y: claim.point.value,
    low: claim.point.value - (claim.point.tolerance ?? 0), high: claim.point.value + (claim.point.tolerance ?? 0) })));
  const whole = found.filter((one) => state.y === one.study.metric && one.arm.rounds[0] === 0);
  const dense = [...new Map(whole.map((one) => [one.study.name, { y: one.arm.columns[state.y].mean[0] }])).values()];
  return { means, bands: $("band").checked ? means : [], seeds, paper, dense };
}
const TICKS = [2, 1, 0, -1, -2, -3, -4].flatMap((power) => [1, 0.5, 0.2].map((of) => Number((of * 10 ** power).toPrecision(1))));
async function figure(box, name, width, height, x, y, layers, reverse) {
  const axis = { labelColor: "currentColor", titleColor: "currentColor", tickColor: "currentColor", domainColor: "currentColor", gridColor: "currentColor", gridOpacity: 0.13, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 };
  const scaled = { field: "x", type: "quantitative", title: x.title, scale: { type: x.log ? "log" : "linear", reverse: !!reverse, nice: false, padding: 8, ...(x.log ? {} : { zero: false }) }, axis: { format: reverse ? "~g" : x.log ? "~s" : ",~f", labelOverlap: true, ...(reverse ? { values: TICKS } : x.log ? { tickCount: 8 } : {}) } };
  const spec = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", width, height, background: null, padding: 4, autosize: { type: "fit", contains: "padding" },
    config: { aria: false, axis, view: { stroke: null }, font: "system-ui, sans-serif" }, layer: layers(scaled, (field) => ({ field, type: "quantitative", title: y, scale: { zero: false }, axis: { format: "~g" } })),
  };
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", name);
  const inside = element("div");  // Vega makes its own box as narrow as the figure
  box.replaceChildren(inside);
  const made = await vegaEmbed(inside, spec, { mode: "vega-lite", renderer: "svg", actions: false, tooltip: false, hover: false, logLevel: 1 });
  inside.querySelector("svg").setAttribute("aria-hidden", "true");  // the box has its name, the table its numbers
  return made.view;
}
const plain = (field, extra = {}) => ({ field, type: "nominal", scale: null, legend: null, ...extra });
function layers(x, y) {
  const look = { stroke: plain("colour"), detail: { field: "key" } };
  return [
    { data: { name: "dense" }, mark: { type: "rule", strokeDash: [2, 3], color: "currentColor", opacity: 0.6 }, encoding: { y: y("y") } },
    { data: { name: "bands" }, mark: { type: "area", opacity: 0.16, stroke: null }, encoding: { x, y: y("low"), y2: { field: "high" }, fill: plain("colour"), detail: { field: "key" } } },
    { data: { name: "seeds" }, mark: { type: "line", strokeWidth: 0.8, opacity: 0.65 }, encoding: { x, y: y("y"), stroke: plain("colour"), detail: { field: "seed" } } },
    { data: { name: "means" }, mark: { type: "line", strokeWidth: 2, fill: null }, encoding: { x, y: y("y"), ...look, strokeDash: plain("dash") } },
    { data: { name: "means" }, mark: { type: "point", filled: true, size: 38, opacity: 1 }, encoding: { x, y: y("y"), fill: plain("colour"), shape: plain("shape") } },
    { data: { name: "paper" }, mark: { type: "rule", color: "currentColor", strokeWidth: 1.5 }, encoding: { x, y: y("low"), y2: { field: "high" } } },
    { data: { name: "paper" }, mark: { type: "point", shape: "diamond", size: 110, stroke: "currentColor", strokeWidth: 2, fill: "none", opacity: 1 }, encoding: { x, y: y("y") } },
    { data: { name: "here" }, mark: { type: "rule", color: "currentColor", opacity: 0.35 }, encoding: { x } },
  ];
}
const y_title = () => {
  const measured = D.studies.find((study) => study.metric === state.y);
  return label(state.y) + (measured && !measured.higher ? " (lower is better)" : "");
};
function show() {
  if (!view) return;
  const found = series();
  if (!found.length) return;
  for (const [name, rows] of Object.entries(rows_of(found))) view.data(name, rows);
  view.data("here", here(found)).resize().run();
}
function draw() {
  const found = series(), data = rows_of(found);
  if (!found.length) {
    view?.finalize(); view = null; shape = "";
    $("chart").replaceChildren(element("p", { class: "note" }, "Nothing to draw: choose a study and an arm that measured both quantities."));
  } else {
    const width = Math.max(280, Math.min($("chart").clientWidth, 1100)), now = [state.x, state.y, width].join(" ");
    if (now === shape) show();
    else {
      view?.finalize(); view = null; shape = now;
      figure($("chart"), `${label(state.y)} against ${label(state.x)}; the table below has its numbers`, width, Math.min(420, Math.max(270, width * 0.5)),
        { title: label(state.x), log: true }, y_title(), layers, state.x === "density").then((made) => {
        if (shape !== now) { made.finalize(); return; }
        view = made;
        show();
      });
    }
  }
  const notes = [];
  if (data.paper.length) notes.push("Open diamonds: a paper's numbers, with their tolerance.");
  if (data.dense.length) notes.push(data.dense.length > 1 ? "Dotted: dense, of each study." : "Dotted: dense.");
  if (found.length > MOST) notes.push(`${found.length} curves are drawn: colours come again with other dashes; switch some off to tell them apart.`);
  const ns = found.map((one) => one.arm.seeds.length);
  if (ns.length) notes.push(few(Math.min(...ns)));
  $("chart-note").textContent = notes.filter(Boolean).join(" ");
  numbers(found);
}
function place(found) {
  const longest = found.reduce((most, one) => one.arm.rounds.length > (most?.arm.rounds.length ?? 0) ? one : most, null);
  $("at").max = Math.max(0, (longest?.arm.rounds.length ?? 1) - 1);
  state.at = Math.min(state.at, Number($("at").max));
  return longest;
}
function here(found) {
  const longest = place(found), x = longest ? x_of(longest, state.at) : null;
  return x > 0 ? [{ x }] : [];
}
function nearest(one, x) {
  let best = -1, least = Infinity;
  one.arm.rounds.forEach((_, at) => {
    const apart = Math.abs(Math.log(x_of(one, at) / x));
    if (apart < least) { best = at; least = apart; }
  });
  return best;
}
function numbers(found) {
  const longest = place(found);
  if (!longest) { $("readout").replaceChildren(); $("at-said").textContent = ""; return; }
  const x = x_of(longest, state.at);
  $("at").value = state.at;
  const said = state.x === "density" ? percent(x / 100) : number(x);
  $("at").setAttribute("aria-valuetext", `round ${longest.arm.rounds[state.at]}, ${label(state.x)} ${said}`);
  $("at-said").textContent = `round ${longest.arm.rounds[state.at]}: ${said}`;
  fill($("readout"), ["arm", "density", label(state.y), "n", "matches dense", "single seeds"], found.map((one) => {
    const at = nearest(one, x);
    if (at < 0) return [named(one), "–", "–", "–", "–", "–"];
    const column = one.arm.columns[state.y], n = column.n ? column.n[at] : one.arm.seeds.length;
    const judged = state.y === one.study.metric && one.arm.match ? one.arm.match[at] : "–";
    const all = column.seeds ? column.seeds.map((values) => number(values[at])).join(", ") : `all ${number(column.mean[at])}`;
    return [named(one), percent(one.arm.columns.density.mean[at]), spread(column, at, one.arm.seeds.length), String(n), judged, { text: all, class: "text" }];
  }));
}
function named(one) {
  const box = element("span", { style: "display:inline-flex;gap:0.4rem;align-items:center" });
  box.append(swatch(looks.get(one.key)), one.name);
  return box;
}
function swatch(look) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "swatch"); svg.setAttribute("viewBox", "0 0 30 12"); svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M1 6H29"); path.setAttribute("stroke", colour(look)); path.setAttribute("stroke-width", "3");
  path.setAttribute("stroke-dasharray", DASHES[Math.floor(look / MOST) % DASHES.length].join(" "));
  svg.append(path);
  return svg;
}
function point(event) {
  if (!view) return;
  const svg = $("chart").querySelector("svg"), box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width || 1;
  const [left, top] = view.origin(), px = (event.clientX - box.left) * scale - left, py = (event.clientY - box.top) * scale - top;
  const found = series(), longest = place(found);
  if (!longest || px < -10 || px > view.width() + 10) return;
  const at = nearest(longest, view.scale("x").invert(px));
  let hovered = null, least = 60;
  for (const one of found) {
    const y = one.arm.columns[state.y].mean[nearest(one, x_of(longest, at))];
    const apart = y === null ? Infinity : Math.abs(view.scale("y")(y) - py);
    if (apart < least) { hovered = one.key; least = apart; }
  }
  if (at === state.at && hovered === state.hovered) return;
  const again = hovered !== state.hovered;
  Object.assign(state, { at, hovered });
  if (again) draw();
  else { view.data("here", here(found)).run(); numbers(found); }
}
