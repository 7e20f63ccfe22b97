// The page's data, and how its words, numbers and elements are made. All numbers come from the data, ready made: nothing
// is computed in the page that a reader would quote.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

// words and numbers

const LABELS = {
  density: "density: kept weights (%)", compression_ratio: "compression: all parameters over kept ones",
  train_flops: "training FLOPs of the round", total_flops: "training FLOPs, finding included",
  train_flops_dense: "FLOPs of the round, were it dense", total_flops_dense: "FLOPs with finding, were all dense",
  train_steps: "training steps", early_stop_step: "early-stopping step", "run/seconds": "seconds of the round",
};
const label = (column) => LABELS[column] || column.replace("early_stop_test_", "test at early stop: ").replace(/^(test|val)_/, "$1 ");
const minus = (text) => text.replace("-", "−");
function number(value, digits = 4) {
  if (value === null || value === undefined) return "no number";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6 && size >= 10) return minus(value.toLocaleString("en-US"));
  if (size && (size >= 1e6 || size < 1e-4)) return minus(value.toExponential(2).replace("e+", "e"));
  return minus(size >= 10 ? value.toFixed(1) : value.toFixed(digits));
}
const percent = (value) => value === null || value === undefined ? "–" : `${Number((100 * value).toPrecision(3))} %`;
function spread(column, at, seeds) {
  const mean = column.mean[at], half = column.half ? column.half[at] : 0;
  const n = column.n ? column.n[at] : seeds;
  if (mean === null) return "no number";
  if (!column.half) return number(mean) + (n > 1 ? " (all equal)" : " (n = 1)");
  if (half === null) return number(mean) + (n > 1 ? ` (n = ${n}, equal)` : " (n = 1)");
  return plus_minus(number(mean), half) + (n < seeds ? ` (n = ${n})` : "");
}
const plus_minus = (text, half) => `${text} ±\u00a0${number(half)}`;
const few = (n) => n === 1 ? "With one seed nothing can be shown: run more seeds."
  : n < 5 ? `With ${n} seeds intervals are wide; much stays undecided, and what is decided may still be chance.` : "";

// elements

function element(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}
function fill(table, head, rows, caption) {
  const cell = (tag, inside, extra) => element(tag, extra, inside);
  const body = rows.map((row) => element("tr", {}, ...row.map((inside, at) => {
    const text = typeof inside === "object" && inside !== null && !(inside instanceof Node) ? inside : { text: inside };
    const extra = { ...(text.class ? { class: text.class } : {}), ...(text.style ? { style: text.style } : {}) };
    return at ? cell("td", text.text, extra) : cell("th", text.text, { scope: "row", ...extra });
  })));
  table.replaceChildren(
    ...(caption ? [element("caption", {}, caption)] : []),
    element("thead", {}, element("tr", {}, ...head.map((text, at) => cell("th", text, { scope: "col", ...(rows[0]?.[at]?.class === "text" ? { class: "text" } : {}) })))),
    element("tbody", {}, ...body));
  return table;
}
function wide(name, head, rows) {
  return element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": name }, fill(element("table"), head, rows, name));
}
function options(select, values, chosen, text = (value) => value) {
  select.replaceChildren(...values.map((value) => element("option", { value }, text(value))));
  select.value = values.includes(chosen) ? chosen : values[0] ?? "";
}
