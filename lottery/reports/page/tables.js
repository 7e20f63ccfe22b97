// The rest of the page, in the same scope as page.js: switches, tables, one study in depth, and what happens on input.

// switches

function switches() {
  options($("y"), D.columns, state.y, label);
  options($("x"), D.ways, state.x, label);
  const group = (box, names, chosen, text) => {
    const all = names.length > 2 ? ["all", "none"].map((what) => {
      const button = element("button", { type: "button" }, what);
      button.addEventListener("click", () => {
        chosen.clear();
        if (what === "all") names.forEach((name) => chosen.add(name));
        box.querySelectorAll("input").forEach((input) => { input.checked = what === "all"; });
        changed();
      });
      return button;
    }) : [];
    box.append(...names.map((name) => {
      const input = element("input", { type: "checkbox" });
      input.checked = chosen.has(name);
      input.addEventListener("change", () => { input.checked ? chosen.add(name) : chosen.delete(name); changed(); });
      return element("label", {}, input, element("span", { class: "key", "data-name": name }), text(name));
    }), ...all);
  };
  group($("studies"), D.studies.map((study) => study.name), on.studies, (name) => D.studies.find((study) => study.name === name).short);
  group($("arms"), arms, on.arms, (name) => name);
  if (D.studies.length < 2) $("studies").hidden = true;
}
function keys() {
  const found = series();
  document.querySelectorAll("#arms .key").forEach((key) => {
    const mine = found.filter((one) => one.arm.name === key.dataset.name);
    key.replaceChildren(...(mine.length === 1 ? [swatch(looks.get(mine[0].key))] : []));
  });
}
function changed() { draw(); keys(); }

// all studies

function answers() {
  $("title").textContent = D.studies.length === 1 ? first.short : `${D.studies.length} studies`;
  const shown = D.studies.slice(0, 4).map((study) => element("p", { class: "answer" }, ...(D.studies.length > 1 ? [element("strong", {}, study.short)] : []), study.answer.replace(/ %/g, "\u00a0%").replace(/n = /g, "n\u00a0=\u00a0")));
  if (D.studies.length === 1) {
    if (first.about) shown.unshift(element("p", { class: "note" }, first.about));
    if (first.better) shown.push(element("p", { class: "answer" }, first.better));
    const kinds = [...new Set(first.arms.map((arm) => arm.what).filter(Boolean))].slice(0, 8);
    const notes = kinds.map((what) => `${first.arms.filter((arm) => arm.what === what).map((arm) => arm.name).join("; ")}: ${what}.`);
    if (kinds.some((what) => /rewinding point|step k/.test(what))) notes.push("Rewinding point: the weights that every round starts from, those of initialisation or of an early step k.");
    shown.push(...notes.map((note) => element("p", { class: "note" }, note)));
  }
  if (D.studies.length > 4) shown.push(element("p", { class: "note" }, `The table of matches below holds all ${D.studies.length} studies.`));
  if (D.problems.length) shown.push(element("p", { class: "warn" }, `${D.problems.length} left out since they can't be read or shown; the last part but one says which.`));
  $("answers").replaceChildren(...shown);
}
function matches() {
  const judged = D.studies.filter((study) => study.margin !== null);
  const seeds = D.studies.flatMap((study) => study.arms.map((arm) => arm.seeds.length));
  $("matches-note").textContent = [judged.length ? `A density matches dense where the whole 95 % interval of the paired difference lies above minus ${number(100 * judged[0].margin, 1)} points. ` +
    "“Unbroken to” ends the run of matches that begins at dense, and is missing where the first pruned round is not sure already; “may reach” is the sparsest density whose interval is not wholly below that margin. Each density is tested by itself, so that one match far below the others may be chance." : "",
  D.studies.length > judged.length ? "A metric that is no share has no margin, and is not judged." : "", seeds.length ? few(Math.min(...seeds)) : ""].join(" ");
  const several = D.studies.length > 1, rows = D.studies.flatMap((study) => study.arms.map((arm) => {
    const of = arm.sparsest, dense = arm.rounds[0] === 0 ? spread(arm.columns[study.metric], 0, arm.seeds.length) : "–";
    const down = !of ? "not judged" : of.density === null ? "none shown" : percent(of.density);
    return [...(several ? [study.short] : []), { text: arm.name, class: "text" }, { text: down, class: "yes" },
      of?.matching ? `${of.matching} of ${of.rounds}` : "–", of ? percent(of.surely) : "–", of ? percent(of.possibly) : "–", dense, String(arm.seeds.length)];
  }));
  fill($("matches-table"), [...(several ? ["study"] : []), "arm", "matches down to", "rounds to there", "unbroken to", "may reach", "dense", "n"], rows);
  if (D.together.length) $("together").append(element("h3", {}, "Studies taken together"),
    element("p", { class: "note" }, "Interquartile mean over all runs of the gain over dense, with a 95 % bootstrap interval stratified by study; none below five runs."),
    wide("Studies taken together, gains over dense", ["arm", "density", "studies", "runs", "gain over dense"], D.together.map((row) => [row.arm, percent(row.density), String(row.studies), String(row.n), quartile(row.iqm)])));
  const claims = D.studies.flatMap((study) => (study.claims || []).map((claim) => ({ study, ...claim })));
  if (claims.length) $("claims").append(element("h3", {}, "Claims, of papers and of those who ran this"),
    element("p", { class: "note" }, "Quantities are means of a column at arm@density over seeds, differences paired and ratios geometric. A claim holds if all of the measured 95 % interval lies on the claimed side or within the tolerance, does not if none of it does, else it is undecided; before any rounding, and without a correction for their number."),
    wide("Claims and verdicts", ["claim", "verdict", "claimed", "measured [95 %]", "n", "quantity", "source"],
      claims.map((claim) => [{ text: `${claim.id}: ${claim.claim}`, class: "text" }, { text: claim.verdict + (claim.reason ? `: ${claim.reason}` : ""), class: "text" }, claim.claimed ?? "", claim.measured ?? "", String(claim.n ?? ""), { text: claim.quantity ?? "", class: "text" }, { text: claim.where ?? "", class: "text" }])));
}
const MARKS = { yes: " ✓", undecided: " ?", no: " ✗" };
const quartile = ([middle, low, high]) => number(middle) + (low === null ? " (too few)" : ` [${number(low)}, ${number(high)}]`);
function results() {
  $("results-tables").replaceChildren(...D.studies.map((study, index) => {
    const box = element("details", {}, element("summary", {}, study.short));
    const open = () => {
      const there = study.arms.filter((arm) => arm.columns[state.y]);
      const rounds = [...new Set(there.flatMap((arm) => arm.rounds))].sort((a, b) => a - b);
      const rows = rounds.map((round) => {
        const densities = there.map((arm) => arm.rounds.includes(round) ? percent(arm.columns.density.mean[arm.rounds.indexOf(round)]) : null);
        return [[...new Set(densities.filter(Boolean))].join(" / "), ...there.map((arm) => {
          const at = arm.rounds.indexOf(round);
          if (at < 0) return "–";
          const match = state.y === study.metric && round > 0 ? arm.match?.[at] : "";
          return { text: spread(arm.columns[state.y], at, arm.seeds.length) + (MARKS[match] ?? ""), class: match === "yes" ? "yes" : "" };
        })];
      });
      box.querySelector(".wide")?.remove();
      box.append(wide(`${study.short}: ${label(state.y)}${state.y === study.metric && study.margin !== null ? "; ✓ matches dense, ? undecided, ✗ does not" : ""}`, ["density", ...there.map((arm) => arm.name)], rows));
    };
    box.addEventListener("toggle", () => { if (box.open) open(); });
    box.open = index === 0;
    return box;
  }));
}

// one study

const chosen = () => D.studies.find((study) => study.name === $("study").value);
function one_study() {
  const study = chosen(), names = study.arms.map((arm) => arm.name);
  options($("arm"), names, $("arm").value);
  options($("other"), names.filter((name) => name !== $("arm").value), $("other").value);
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
function pairs(study, arm) {
  const mine = study.arms.indexOf(arm), other = study.arms.findIndex((one) => one.name === $("other").value);
  const rows = study.pairs.filter(([a, b]) => (a === mine && b === other) || (a === other && b === mine)).map(([a, , , n, density, mean, half, p, holm, effect]) => {
    const turn = a === mine ? 1 : -1, value = mean === null ? "no seed in common" : apart(turn * mean);
    const level = iqm_of(arm, density, study);
    return [percent(density), mean === null ? value : half === null ? `${value} (n = ${n}${n > 1 ? ", equal" : ""})` : plus_minus(value, half), String(n), chance(p),
      { text: chance(holm), class: holm !== null && holm < 0.05 ? "yes" : "" }, effect === null ? "–" : number(turn * effect, 2), level];
  });
  const tests = study.pairs.filter((pair) => pair[7] !== null).length, n = Math.min(...study.arms.map((one) => one.seeds.length));
  $("pairs-note").textContent = other < 0 ? "This study has one arm alone." : `${arm.name} minus ${$("other").value}, ${label(study.metric)}, paired over seeds: t-test, p after Holm's correction for all ${tests} tests of this study, Hedges' g. The interquartile mean is of the arm itself, with its bootstrap interval. ${few(n)}`;
  $("pairs").closest(".wide").hidden = $("other").closest("label").hidden = other < 0;
  fill($("pairs"), ["density", "difference", "n", "p", "p (Holm)", "effect g", "interquartile mean of the arm"], rows);
}
const chance = (p) => p === null ? "–" : p < 0.001 ? "< 0.001" : number(p, 3);
function iqm_of(arm, density) {
  if (!arm.iqm.length) return "takes 5 seeds";
  const at = arm.columns.density.mean.findIndex((value) => Math.abs(value / density - 1) <= 0.03);
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

// the end

function list(items) { return element("ul", {}, ...items.map((item) => element("li", {}, item))); }
function open_and_made() {
  const parts = D.problems.length ? [element("h3", {}, "Left out"), list(D.problems)] : [];
  for (const study of D.studies) {
    const said = [...(study.failed ?? []).map((what) => `failed: ${what}`), ...study.arms.flatMap((arm) => arm.ended.map((what) => `${arm.name} ${what}`)), ...study.missing.map((what) => `missing: ${what}`)];
    if (study.unknown) said.push(`in ${study.unknown} rounds ${label(study.metric)} is no finite number; means and differences leave them out`);
    if (said.length) parts.push(element("h3", {}, study.short), list(said.slice(0, 200)), ...(said.length > 200 ? [element("p", {}, `and ${said.length - 200} more`)] : []));
  }
  $("open-list").replaceChildren(...(parts.length ? parts : [element("p", {}, "Nothing: every cell of every study ended as planned.")]));
  $("made-list").replaceChildren(element("p", {}, `This page: ${D.versions.join(", ")}.`),
    element("p", { class: "note" }, "Intervals are 95 % t-intervals over seeds. Where two seeds agree to the last digit there is none, since that may be chance. Training FLOPs count a multiplication and an addition as two, and kept weights alone; those “were it dense” count all. Curves join means over seeds; every number is in results.csv of its study."));
}

// input

const PAPER = 660;  // pixels between the margins of A4, at most
function start() {
  answers(); switches(); matches(); results(); open_and_made();
  options($("study"), D.studies.map((study) => study.name), first.name, (name) => D.studies.find((study) => study.name === name).short);
  changed(); one_study();
  $("y").addEventListener("change", () => { state.y = $("y").value; state.hovered = null; changed(); results(); });
  $("x").addEventListener("change", () => { state.x = $("x").value; changed(); });
  for (const id of ["band", "seeds"]) $(id).addEventListener("change", draw);
  $("at").addEventListener("input", () => { state.at = Number($("at").value); state.hovered = null; draw(); });
  $("chart").addEventListener("pointermove", point);
  $("chart").addEventListener("pointerdown", point);
  $("chart").addEventListener("pointerleave", () => { if (state.hovered) { state.hovered = null; draw(); } });
  $("study").addEventListener("change", one_study);
  $("arm").addEventListener("change", one_study);
  $("other").addEventListener("change", in_depth);
  $("curve-y").addEventListener("change", () => training(chosen(), chosen().arms.find((arm) => arm.name === $("arm").value)));
  let turn = 0;
  window.addEventListener("resize", () => { cancelAnimationFrame(turn); turn = requestAnimationFrame(() => { draw(); in_depth(); }); });
  // on paper a figure as wide as the screen would be scaled down, and its words with it
  window.addEventListener("beforeprint", () => { for (const [made, height] of [[view, 330], [curve_view, 240]]) made?.width(PAPER).height(height).resize().run(); });
  window.addEventListener("afterprint", () => { shape = ""; draw(); in_depth(); });
  document.documentElement.dataset.ready = "true";
}
if (first) start();
else document.querySelector("main").replaceChildren(element("p", { class: "warn" }, "No study could be shown:"), list(D.problems));
