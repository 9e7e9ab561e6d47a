// Starts the kept libraries on what is in the page: a table with id "board", and the figures.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const { plotly } = document.currentScript.dataset;
let printing = false;

// Figures name colours as var(--name); the style sheet says which they are, by scheme.
function coloured(description) {
  const style = getComputedStyle(document.documentElement);
  return JSON.parse(JSON.stringify(description), (_, value) =>
    typeof value === "string" && value.startsWith("var(--")
      ? value.replace(/^var\((--[a-z0-9]+)\)/, (_, name) => style.getPropertyValue(name).trim())
      : value);
}

function layout(own, narrow) {
  const axis = { gridcolor: "var(--line)", zerolinecolor: "var(--line)", linecolor: "var(--quiet)", automargin: true };
  return coloured({
    height: 420, showlegend: false, hovermode: "closest", dragmode: narrow ? false : "zoom",
    paper_bgcolor: "var(--paper)", plot_bgcolor: "var(--paper)",
    font: { family: "system-ui, sans-serif", size: narrow ? 12 : 14, color: "var(--ink)" },
    hoverlabel: { bgcolor: "var(--raised)", bordercolor: "var(--quiet)", font: { color: "var(--ink)" }, align: "left" },
    margin: { l: 56, r: 16, t: 28, b: 56 },
    ...own,
    xaxis: { ...axis, ...(narrow && own.xaxis.ticktext && own.xaxis.type !== "log" ? { tickangle: -90 } : {}), ...own.xaxis }, yaxis: { ...axis, ...own.yaxis },
  });
}

const figures = [...document.querySelectorAll("script[data-plot]")].map((source) => ({
  place: document.getElementById(source.dataset.plot),
  content: JSON.parse(source.textContent),
  drawn: false,
}));

function draw(figure) {
  const { place, content } = figure, narrow = place.clientWidth < 560;
  const settings = { responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  Plotly.react(place, coloured(content.traces), layout(content.layout, narrow), settings);
  figure.drawn = true;
}

function redraw() {
  for (const figure of figures) if (figure.drawn) draw(figure);
}

// One figure after the other, so that the page answers in between.
function drawNext() {
  const next = figures.find(({ drawn }) => !drawn);
  if (!next) return;
  draw(next);
  setTimeout(drawNext);
}

function toggle(group, shown) {
  for (const { content } of figures)
    for (const trace of content.traces) if (trace.legendgroup === group) trace.visible = shown;
  for (const box of document.querySelectorAll("input[data-group]"))
    if (box.dataset.group === group) box.checked = shown;
}

if (figures.length) {
  for (const fieldset of document.querySelectorAll("fieldset.toggles"))
    fieldset.addEventListener("change", ({ target }) => { toggle(target.dataset.group, target.checked); redraw(); });
  for (const box of document.querySelectorAll("input[data-group]")) toggle(box.dataset.group, box.defaultChecked);
  // The library is large: the page is there, and can be read, before it.
  addEventListener("load", () => setTimeout(() => {
    const script = document.createElement("script");
    script.src = plotly;
    script.addEventListener("load", drawNext);
    document.head.append(script);
  }));
}

// What is printed is drawn for paper.
for (const [event, state] of [["beforeprint", true], ["afterprint", false]])
  addEventListener(event, () => { printing = state; scheme(); });

function scheme() {
  for (const details of document.querySelectorAll("details")) if (printing) details.open = true;
  document.documentElement.classList.toggle("dark", dark.matches && !printing);
  document.documentElement.classList.toggle("printing", printing);
  redraw();
}
dark.addEventListener("change", scheme);
document.documentElement.classList.toggle("dark", dark.matches);

const board = document.getElementById("board");
// A long table can be read before it can be sorted.
if (board) addEventListener("load", () => setTimeout(() => {
  const Table = DataTables.jQuery.fn.dataTable;
  const table = new Table(board, {
    order: [], autoWidth: false, paging: board.tBodies[0].rows.length > 50, pageLength: 50,
    columnDefs: [{ targets: "number", className: "number", type: "num" }, { targets: "_all", type: "string" }],
    layout: { topStart: "search", topEnd: { buttons: [{ extend: "colvis", text: "Columns" }] } },
    language: { search: "Search" },
  });
  // What scrolls sideways is the table alone, not what stands above it.
  const outer = board.closest(".scroll"), inner = board.closest(".dt-layout-cell");
  for (const name of ["class", "tabindex", "role", "aria-label"]) {
    inner.setAttribute(name, [inner.getAttribute(name), outer.getAttribute(name)].filter(Boolean).join(" "));
    outer.removeAttribute(name);
  }
  for (const chooser of document.querySelectorAll("select[data-filter]"))
    chooser.addEventListener("change", () => {
      table.column(Number(chooser.dataset.filter)).search(chooser.value ? (text) => text === chooser.value : "").draw();
    });
}));
