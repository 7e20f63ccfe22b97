// One study in depth, in the same scope as words.js and figure.js.

const chosen = () => D.studies.find((study) => study.name === $("study").value);
function one_study() {
  const study = chosen(), names = study.arms.map((arm) => arm.name);
  options($("arm"), names, $("arm").value);
  options($("other"), [...rivals(study, study.arms.find((arm) => arm.name === $("arm").value)).keys()], $("other").value);
  configuration(study);
  in_depth();
}
function in_depth() {
  const study = chosen(), arm = study.arms.find((one) => one.name === $("arm").value);
  gains(study, arm);
  pairs(study, arm);
  heat(arm);
  cost(study, arm);
  const curves = study.curves?.[arm.name];
  options($("curve-y"), curves ? Object.keys(Object.values(curves)[0]).filter((column) => column !== "step") : [], $("curve-y").value || study.metric.replace("test_", "val_"), label);
  training(study, arm);
}
const apart = (value) => `${value > 0 ? "+" : ""}${minus(value.toFixed(Math.abs(value) >= 10 ? 1 : 4))}`;
function gains(study, arm) {
  const judged = arm.gain && arm.rounds[0] === 0, better = study.higher ? "" : ", signed so that higher is better";
  $("gains-note").textContent = judged ? `${arm.name} at each density minus its own dense network, ${label(study.metric)}${better}, paired over seeds. It matches where the whole interval lies above minus ${number(study.margin, 3)}.` : "Not judged: this takes a dense network, and a metric that is a share.";
  fill($("gains"), ["density", "gain over dense", "matches dense"], !judged ? [] : arm.rounds.slice(1).map((_, at) => at + 1).map((at) => {
    const gain = arm.gain[at], half = arm.half[at];
    return [percent(arm.columns.density.mean[at]), gain === null ? "–" : half === null ? `${apart(gain)} (no interval)` : plus_minus(apart(gain), half), { text: arm.match[at], class: arm.match[at] === "yes" ? "yes" : "" }];
  }));
}
function rivals(study, arm) {
  const own = study.arms.filter((one) => one !== arm).map((one) => [one.name, {
    pairs: study.pairs, mine: study.arms.indexOf(arm), other: study.arms.indexOf(one), all: "of this study" }]);
  const others = D.across.filter((set) => set.arm === arm.name && set.studies.includes(study.name)).flatMap((set) => set.studies.filter((name) => name !== study.name).map((name) =>
    [`${arm.name} of ${D.studies.find((one) => one.name === name)?.short ?? name}`, {
      pairs: set.pairs, mine: set.studies.indexOf(study.name), other: set.studies.indexOf(name), all: `of this arm in ${set.studies.length} studies` }]));
  return new Map([...own, ...others]);
}
function pairs(study, arm) {
  const name = $("other").value, of = rivals(study, arm).get(name);
  $("pairs").closest(".wide").hidden = $("other").closest("label").hidden = !of;
  if (!of) { $("pairs-note").textContent = "This study has one arm alone."; return; }
  const there = of.pairs.filter(([a, b]) => (a === of.mine && b === of.other) || (a === of.other && b === of.mine));
  const rows = there.map(([a, , round, n, density, mean, half, p, holm, effect]) => {
    const turn = a === of.mine ? 1 : -1, value = mean === null ? "no seed in common" : apart(turn * mean);
    return [percent(density), mean === null ? value : half === null ? `${value} (n = ${n}${n > 1 ? ", equal" : ""})` : plus_minus(value, half), String(n), chance(p),
      { text: chance(holm), class: holm !== null && holm < 0.05 ? "yes" : "" }, effect === null ? "–" : number(turn * effect, 2), iqm_of(arm, round)];
  });
  const tests = of.pairs.filter((pair) => pair[7] !== null).length, n = there.map((pair) => pair[3]).filter(Boolean);
  $("pairs-note").textContent = `${arm.name} minus ${name}, ${label(study.metric)}, paired over seeds: t-test, p after Holm's correction for all ${tests} tests ${of.all}, Hedges' g. The interquartile mean is of the arm itself, with its bootstrap interval. ${n.length ? few(Math.min(...n)) : ""}`;
  fill($("pairs"), ["density", "difference", "n", "p", "p (Holm)", "effect g", "interquartile mean of the arm"], rows);
}
const chance = (p) => p === null ? "–" : p < 0.001 ? "< 0.001" : number(p, 3);
function iqm_of(arm, round) {
  if (!arm.iqm.length) return "takes 5 seeds";
  const at = arm.rounds.indexOf(round);
  return at < 0 ? "–" : quartile(arm.iqm[at]);
}
function heat(arm) {
  const layers = Object.keys(arm.layers);
  fill($("layers"), ["layer", ...arm.rounds.map(String)], layers.map((layer) => [layer, ...arm.layers[layer].map((value) => {
    const depth = value > 0 ? Math.max(0, Math.min(1, 1 + Math.log10(value) / 3)) : 0;
    return { text: value === null ? "–" : percent(value), style: `background: rgba(var(--heat), ${(0.42 * depth).toFixed(3)})` };
  })]), `${arm.name}: per cent of each layer's weights that are kept, mean over seeds; rounds across`);
}
function cost(study, arm) {
  const columns = ["train_steps", "train_flops", "total_flops", "early_stop_step", "run/seconds", ...D.columns.filter((column) => /bytes|latency/.test(column))].filter((column) => arm.columns[column]);
  fill($("cost"), ["density", ...columns.map(label)], arm.rounds.map((_, at) => [percent(arm.columns.density.mean[at]), ...columns.map((column) => number(arm.columns[column].mean[at]))]), `${arm.name}, mean over seeds`);
}
let curve_view = null, curve_turn = 0;
function training(study, arm) {
  curve_view?.finalize(); curve_view = null;
  const curves = study.curves?.[arm.name], column = $("curve-y").value;
  $("curve-y").closest(".controls").hidden = !curves;
  $("curves").replaceChildren();
  $("curves").hidden = !curves;
  if (!curves || !column) { $("curves-note").textContent = study.lacks ?? "No training of this arm is in the store."; return; }
  const rounds = Object.keys(curves), rows = rounds.flatMap((round) => curves[round].step.map((step, at) => ({ round: Number(round), x: step, y: curves[round][column]?.[at] ?? null })).filter((row) => row.y !== null));
  const width = Math.max(280, Math.min($("curves").clientWidth, 1100));
  const turn = curve_turn += 1, drawn = figure($("curves"), `Training curves of ${arm.name}: ${label(column)} by step, a line for each round`, width, 280, { title: "step", log: false }, label(column), (x, y) => [
    { data: { name: "rows" }, mark: { type: "line", strokeWidth: 1.6, clip: true }, encoding: { x, y: y("y"), detail: { field: "round" },
      color: { field: "round", type: "quantitative", scale: { scheme: "viridis", domain: [0, Math.max(1, ...rounds.map(Number))] }, legend: { title: "round", labelColor: "currentColor", titleColor: "currentColor" } } } },
    { data: { name: "stops" }, mark: { type: "tick", orient: "vertical", thickness: 2, size: 10, color: "currentColor" }, encoding: { x, y: y("y") } },
  ]);
  const stops = rounds.flatMap((round) => {
    const at = arm.rounds.indexOf(Number(round)), step = arm.columns.early_stop_step?.mean[at], steps = curves[round].step;
    if (step === undefined || step === null) return [];
    const near = steps.reduce((best, value, index) => Math.abs(value - step) < Math.abs(steps[best] - step) ? index : best, 0);
    const y = curves[round][column]?.[near];
    return y === null || y === undefined ? [] : [{ x: step, y }];
  });
  drawn.then((made) => {
    if (turn !== curve_turn) { made.finalize(); return; }
    curve_view = made.data("rows", rows).data("stops", stops).resize().run();
  });
  $("curves-note").textContent = `Mean over seeds, at most 40 evaluations of each round; a tick marks the early stop. ${study.lacks ?? ""}`;
}
function configuration(study) {
  const parts = [], others = D.studies.filter((one) => Object.keys(one.settings || {}).length);
  const unlike = [...new Set(others.flatMap((one) => Object.keys(one.settings)))].filter((key) => new Set(others.map((one) => one.settings[key])).size > 1);
  if (others.length > 1) parts.push(unlike.length ? wide("Settings in which the studies differ", ["setting", ...others.map((one) => one.short)], unlike.map((key) => [key, ...others.map((one) => one.settings[key] ?? "not there")]))
    : element("p", { class: "note" }, "The studies that have a configuration do not differ in it."));
  if (study.again) parts.push(element("p", {}, "To make these results again:"), element("pre", { tabindex: "0" }, study.again));
  if (study.command) parts.push(element("p", {}, "One cell of it again:"), element("pre", { tabindex: "0" }, study.command));
  const where = [...(study.versions ?? []), ...(study.hosts ?? []).map((host) => `host ${host}`)];
  if (where.length) parts.push(element("p", { class: "note" }, `Trained with ${where.join("; ")}.`));
  if (study.config) parts.push(element("details", {}, element("summary", {}, `The whole configuration of ${study.arms[0].name}, seed ${study.arms[0].seeds[0]}`), element("pre", { tabindex: "0" }, study.config)));
  else if (!study.again) parts.push(element("p", { class: "note" }, study.lacks ?? "No configuration lies beside the ledgers."));
  $("config").replaceChildren(...parts);
  $("overlap").replaceChildren(...(study.overlap ? [element("h3", {}, "Overlap of masks"), wide("Kept weights in common over those of the sparser mask, mean over pairs", ["between", "round", "density", "in common", "by chance"],
    study.overlap.map(([round, between, density, shared, chance]) => [between, String(round), percent(density), number(shared), number(chance)]))] : []));
}
