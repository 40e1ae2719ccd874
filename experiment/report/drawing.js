"use strict";
// What all charts are drawn with, and the JSON in the page that they are drawn from.
const drawing = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const BLUE = "#0072B2", ORANGE = "#D55E00", GREY = "#6e7781", BLACK = "#1b1f24";
  // Okabe and Ito's, which the colour-blind tell apart; symbols and dashes say the same again.
  const COLOURS = [BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", ORANGE, "#000000"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star", "cross", "pentagon"];
  const DASHES = ["solid", "dash", "dot"];
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

  // Plotly reads tags in its texts; names are not to be read as such.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  // Labels beside an axis leave room for the chart; hovering shows the whole.
  const clip = (text, length = 30) => plain(text.length > length ? `${text.slice(0, length - 1)}…` : text);
  const short = (layer) => clip(layer.replace(/^transformer\.layers\./, "layer "));
  const named = (names) => ({ type: "category", tickmode: "array", tickvals: names, ticktext: names.map(short) });
  const signed = (value, digits = 2) =>
    (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
  const narrow = () => window.innerWidth < 700;
  const isNumber = (value) => typeof value === "number";

  function axis(title, more = {}) {
    return { title: { text: title, standoff: 8 }, automargin: true, exponentformat: "none", separatethousands: true, gridcolor: "#e6e8eb", zerolinecolor: "#afb8c1", ...more };
  }
  // Of a logarithmic axis: 1, 2 and 5 of every decade, written in full.
  function ticks(values) {
    const all = [...Array(20).keys()].flatMap((decade) => [1, 2, 5].map((digit) => digit * 10 ** (decade - 6)));
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const within = all.filter((tick) => tick >= low / 2.5 && tick <= 2.5 * high);
    return { tickmode: "array", tickvals: within, ticktext: within.map((tick) => String(Number(tick.toPrecision(1)))) };
  }
  function draw(id, traces, title, layout) {
    const element = get(id);
    element.setAttribute("aria-label", `Chart: ${title}`);
    if (layout.height) element.style.height = `${layout.height}px`;
    Plotly.react(element, traces, {
      title: { text: clip(title, narrow() ? 50 : 120), font: { size: narrow() ? 13 : 15 }, x: 0, xref: "container", xanchor: "left", pad: { l: 8 } },
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: BLACK },
      margin: { l: 56, r: 16, t: 44, b: 48 },
      hoverlabel: { align: "left", bgcolor: "#fff", font: { color: BLACK } },
      legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom", traceorder: "normal" },
      ...layout,
    }, config);
    return element;
  }
  const jobs = [];  // charts that are still to be drawn

  return { data, get, BLUE, ORANGE, GREY, BLACK, COLOURS, SYMBOLS, DASHES, plain, clip, short, named, signed, narrow, isNumber, axis, ticks, draw, jobs };
})();
