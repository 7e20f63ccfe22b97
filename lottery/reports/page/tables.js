// The rest of the page, in the same scope as the others: switches, tables, and what happens on input.

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
    element("p", { class: "note" }, "Intervals are 95 % t-intervals over seeds. Where fewer than five seeds agree to the last digit there is none, since that may be chance. Training FLOPs count a multiplication and an addition as two, and kept weights alone; those “were it dense” count all. Curves join means over seeds; every number is in results.csv of its study."));
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
