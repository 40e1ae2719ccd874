"use strict";
// Draws the charts: accuracy against cost, one chain, sensitivity, exits, studies.
(() => {
  const { data, get, BLUE, ORANGE, GREY, BLACK, COLOURS, SYMBOLS, DASHES, plain, clip, short, named, signed, narrow, isNumber, axis, draw, jobs } = drawing;
  const byName = new Map(data.experiments.map((item) => [item.name, item]));

  // --- accuracy against cost ---------------------------------------------------------------------

  function tradeoff() {
    const cost = data.costs.find((item) => item.key === get("cost").value);
    const split = get("split") ? get("split").value : Object.keys(data.fronts)[0];
    const judge = data.judges[split], by = judge === "accuracy" ? "test accuracy" : "validation accuracy";
    const shown = data.experiments.filter(
      (item) => item.dataset === split && item.final[judge] && item.final[cost.key]);
    const front = data.fronts[split][cost.key];
    const kind = (item) =>
      item.status !== "done" ? "not finished" : item.baseline === null ? "baseline"
        : front.includes(item.name) ? "on the Pareto front" : "other chains";
    const x = (item) => item.final[cost.key][0] / cost.scale;
    const hover = (item) => {
      const [accuracy, deviation, n] = item.final[judge];
      const spread = deviation === null ? "" : ` ± ${deviation.toFixed(2)} (${n} seeds)`;
      return [
        `<b>${plain(item.name)}</b>`, plain(item.sequence), `${by} ${accuracy.toFixed(2)} %${spread}`,
        ...(item.change === null ? [] : [`${signed(item.change)} points against ${plain(item.baseline)}`]),
        ...(item.final.accuracy && judge !== "accuracy" ? [`on the test split ${item.final.accuracy[0].toFixed(2)} %`] : []),
        `${plain(cost.label)}: ${Number(x(item).toPrecision(4))}`,
        ...(item.status === "done" ? [] : [`status: ${plain(item.status)}`]),
      ].join("<br>");
    };
    const looks = {
      "other chains": { symbol: "circle", color: "#56B4E9", size: 9, line: { width: 1, color: "#33789c" } },
      "on the Pareto front": { symbol: "circle", color: BLUE, size: 12 },
      baseline: { symbol: "diamond", color: BLACK, size: 13 },
      "not finished": { symbol: "x-thin", color: GREY, size: 9, line: { width: 2, color: GREY } },
    };
    const deviations = (items, key, scale) => ({
      type: "data", array: items.map((item) => (item.final[key][1] || 0) / scale),
      visible: items.some((item) => item.final[key][1]), thickness: 1, width: 3,
    });
    const traces = Object.entries(looks).map(([name, marker]) => {
      const items = shown.filter((item) => kind(item) === name);
      const labelled = shown.length <= 30 && ["baseline", "on the Pareto front"].includes(name);
      return {
        name, marker, type: "scatter", x: items.map(x), y: items.map((item) => item.final[judge][0]),
        mode: labelled && !narrow() ? "markers+text" : "markers",
        text: items.map((item) => clip(item.name)), textposition: "top center", textfont: { size: 11 },
        hovertext: items.map(hover), hoverinfo: "text", customdata: items.map((item) => item.name),
        error_x: deviations(items, cost.key, cost.scale), error_y: deviations(items, judge, 1),
        cliponaxis: false,
      };
    }).filter((trace) => trace.x.length);
    const steps = front.map((name) => byName.get(name));
    traces.unshift({
      name: "Pareto front", type: "scatter", mode: "lines", x: steps.map(x),
      y: steps.map((item) => item.final[judge][0]),
      line: { shape: "hv", color: BLUE, width: 1.5, dash: "dot" }, hoverinfo: "skip", showlegend: false,
    });
    const accuracies = shown.map((item) => item.final[judge][0]);
    const top = Math.max(...accuracies), reach = Number(get("reach").value);
    const limited = reach && accuracies.length ? [top - reach, top + 0.08 * reach] : undefined;
    const outside = limited ? accuracies.filter((value) => value < limited[0]).length : 0;
    get("outside").textContent = outside ? `${outside} less accurate not in view.` : "";
    const element = draw("chart-tradeoff", traces, `Accuracy against ${cost.title}`, {
      xaxis: axis(cost.label, get("log").checked ? { type: "log" } : { type: "linear", rangemode: "tozero", minallowed: 0 }),
      yaxis: axis(`${by} (%)`, { range: limited, autorange: !limited }),
      hovermode: "closest",
    });
    element.removeAllListeners("plotly_click");
    element.on("plotly_click", (event) => {
      const name = event.points[0].customdata;
      if (name) open(name);
    });
  }

  // --- one chain ---------------------------------------------------------------------------------

  function waterfall(item, measure) {
    const bars = item.steps.map((step, place) => ({
      label: `${place + 1} ${clip(step.stage, 18)}`, value: step.metrics[measure.key],
      spec: Object.entries(step.spec).slice(0, 8).map(([key, value]) => plain(`${key} = ${JSON.stringify(value)}`)),
    })).filter((bar) => isNumber(bar.value));
    const start = item.start[measure.key];
    if (isNumber(start)) bars.unshift({ label: "baseline", value: start, spec: [plain(item.baseline)] });
    const values = bars.map((bar) => bar.value / measure.scale);
    const low = Math.min(...values), high = Math.max(...values);
    // Accuracies are close together: an axis from 0 would show no stage's share.
    const from = measure.key === "accuracy" && low > 50 ? Math.max(0, Math.floor(low - 0.3 * (high - low) - 1)) : 0;
    const heights = values.map((value, place) => (place ? value - values[place - 1] : value));
    const colours = heights.map((change, place) =>
      place === 0 ? GREY : change * measure.good >= 0 ? BLUE : ORANGE);
    // Bars with a base, for a waterfall's colours cannot differ by what is good.
    const traces = [{
      type: "bar", x: bars.map((bar) => bar.label), width: 0.6,
      base: values.map((value, place) => (place ? Math.min(value, values[place - 1]) : from)),
      y: heights.map((change, place) => (place ? Math.abs(change) : change - from)),
      marker: { color: colours, line: { color: colours, width: 1.5 } },
      text: heights.map((change, place) => place === 0 ? change.toFixed(measure.digits)
        : Number(change.toFixed(measure.digits)) ? signed(change, measure.digits) : "±0"),
      textposition: "outside", textangle: 0, cliponaxis: false, constraintext: "none", textfont: { size: 11 },
      hovertext: bars.map((bar, place) =>
        [`<b>${bar.label}</b>`, `${values[place].toFixed(measure.digits)} ${measure.unit}`, ...bar.spec].join("<br>")), hoverinfo: "text",
    }];
    if (bars.length > 1) {
      bars.push({ label: "end" });
      const value = values[values.length - 1];
      traces.push({
        type: "bar", x: ["end"], base: [from], y: [value - from], width: 0.6, marker: { color: GREY },
        text: [value.toFixed(measure.digits)], textposition: "outside", cliponaxis: false, textfont: { size: 11 },
        hoverinfo: "skip",
      });
    }
    const shapes = values.map((value, place) => ({
      type: "line", x0: place + 0.3, x1: place + 0.7, y0: value, y1: value, line: { color: GREY, width: 1 },
    })).slice(0, bars.length - 1);
    const note = from ? `, axis from ${from}` : "";
    draw(`chart-${measure.key}`, bars.length ? traces : [], measure.title[0].toUpperCase() + measure.title.slice(1), {
      showlegend: false, barmode: "overlay", shapes,
      xaxis: axis("", { type: "category", tickangle: bars.length > 4 ? -35 : 0 }),
      yaxis: axis(`${measure.title} (${measure.unit}${note})`, {
        range: bars.length ? [from, high + 0.16 * (high - from || 1)] : undefined }),
      annotations: bars.length ? [] : [empty("no figures of this chain yet")],
    });
  }
  const empty = (text) => ({ text, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 });

  function curves(item) {
    get("curves").hidden = !item.curves.length;
    if (!item.curves.length) return;
    const panels = [["chart-loss", "loss", "Learning curves: loss", "cross-entropy"],
      ["chart-curve", "accuracy", "Learning curves: accuracy", "accuracy (%)"]];
    for (const [id, what, title, label] of panels) {
      const traces = [], named = new Set(), shapes = [], annotations = [], seen = new Map();
      for (const part of item.curves) {
        const begin = seen.get(part.seed) || 0, length = part[`train_${what}`].length;
        seen.set(part.seed, begin + length);
        if (part.seed === item.curves[0].seed) {
          if (begin) shapes.push({ type: "line", x0: begin + 0.5, x1: begin + 0.5, yref: "paper", y0: 0, y1: 1, line: { color: GREY, width: 1, dash: "dot" } });
          annotations.push({ text: clip(part.stage), x: begin + (length + 1) / 2, yref: "paper", y: 1, yanchor: "bottom", showarrow: false, font: { size: 12, color: GREY } });
        }
        for (const [kind, colour, dash] of [["validation", BLUE, "solid"], ["train", "#E69F00", "dash"]]) {
          const values = part[`${kind}_${what}`];
          if (!values.some(isNumber)) continue;
          traces.push({
            type: "scatter", mode: length > 40 ? "lines" : "lines+markers", marker: { size: 4, symbol: kind === "train" ? "square" : "circle" },
            x: values.map((_, epoch) => begin + epoch + 1), y: values, line: { color: colour, dash, width: 2 },
            opacity: item.curves.some((other) => other.seed !== part.seed) ? 0.65 : 1,
            name: kind === "train" ? "training" : "validation", legendgroup: kind, showlegend: !named.has(kind),
            hovertemplate: `%{y:.4g} after epoch %{x}, seed ${Number(part.seed)}<extra></extra>`,
          });
          named.add(kind);
        }
      }
      draw(id, traces, title, {
        xaxis: axis("epoch", { dtick: Math.ceil(Math.max(...seen.values()) / 8) }), yaxis: axis(label),
        shapes, annotations, margin: { l: 56, r: 16, t: 60, b: 48 },
      });
    }
  }

  function pairsOf(item, key) {  // first size before, last size after
    const found = new Map();
    for (const step of item.steps) {
      for (const [name, [before, after]] of Object.entries(step[key] || {})) {
        if (isNumber(before) && isNumber(after)) found.set(name, [found.has(name) ? found.get(name)[0] : before, after]);
      }
    }
    return found;
  }
  function widths(item) {
    const panels = [["chart-widths", "widths", "Widths before and after", "units", 1],
      ["chart-macs", "layer_macs", "MACs by layer before and after", "MACs an image (millions)", 1e6]];
    let any = false;
    for (const [id, key, title, label, scale] of panels) {
      const pairs = pairsOf(item, key), names = [...pairs.keys()];
      get(id).parentElement.hidden = !pairs.size;
      if (!pairs.size) continue;
      any = true;
      get("widths").hidden = false;
      const bar = (name, place, color) => ({
        type: "bar", orientation: "h", name, y: names, x: names.map((n) => pairs.get(n)[place] / scale),
        marker: { color }, hovertemplate: `%{x:.4g} ${name}<extra></extra>`,
      });
      draw(id, [bar("before", 0, "#afb8c1"), bar("after", 1, BLUE)], title, {
        height: Math.max(260, 130 + 30 * names.length), barmode: "group", bargap: 0.3,
        xaxis: axis(label), yaxis: axis("", { autorange: "reversed", tickfont: { size: 11 }, ...named(names) }),
      });
    }
    get("widths").hidden = !any;
  }

  function chain() {
    const item = byName.get(get("which").value);
    if (!item) return;
    const start = item.baseline === null ? "" : ` from ${item.baseline}`;
    const end = item.final.accuracy ? `, test accuracy ${item.final.accuracy[0].toFixed(2)} %` : "";
    const change = item.test_change === null ? "" : ` (${signed(item.test_change)} points)`;
    get("chain-text").textContent = `${item.sequence}${start}; ${item.status}${end}${change}`;
    for (const measure of data.measures) waterfall(item, measure);
    curves(item);
    widths(item);
    get("chain-config").textContent = JSON.stringify(item.config, null, 2);
  }
  function open(name) {
    get("which").value = name;
    chain();
    get("chain").scrollIntoView();
    get("which").focus({ preventScroll: true });
  }

  // --- sensitivity, exits, studies ---------------------------------------------------------------

  function sensitivity() {
    const item = data.sensitivities[Number(get("scan").value)];
    if (item.lines) {
      const traces = Object.entries(item.lines).map(([name, points], place) => ({
        type: "scatter", mode: "lines+markers", name: short(name), x: points.map((p) => p[0]), y: points.map((p) => p[1]),
        line: { color: COLOURS[place % COLOURS.length], dash: DASHES[Math.floor(place / COLOURS.length) % 3] },
        marker: { symbol: SYMBOLS[place % SYMBOLS.length], size: 8 },
        hovertemplate: "%{fullData.name}: %{y:.2f} % at %{x:.0%} removed<extra></extra>",
      }));
      get("scan-text").textContent = "One dimension pruned at a time, without training after it, on the validation share.";
      draw("chart-sensitivity", traces, item.title, {
        height: 480, xaxis: axis("share of units removed", { tickformat: ".0%", rangemode: "tozero" }),
        yaxis: axis("validation accuracy (%)"), hovermode: "closest",
      });
      return;
    }
    const kept = new Set(item.float_layers), names = item.scan.map((entry) => entry.layer);
    const bar = (values, more) => ({
      type: "bar", orientation: "h", y: names, x: values, showlegend: false,
      marker: { color: item.scan.map((entry) => (kept.has(entry.layer) ? ORANGE : BLUE)) }, ...more,
    });
    const float = isNumber(item.float_accuracy) ? item.float_accuracy : null;
    const second = item.scan.map((entry) => entry.accuracy - (float || 0));
    get("scan-text").textContent = "One layer in int8 at a time, the most sensitive on top, on the validation share." +
      (kept.size ? ` Orange: kept float (${[...kept].join(", ")}).` : "");
    draw("chart-sensitivity", [
      bar(item.scan.map((entry) => entry.sqnr_db), { hovertemplate: "%{x:.1f} dB<extra></extra>" }),
      bar(second, { xaxis: "x2", hovertemplate: "%{x:.2f}<extra></extra>" }),
    ], item.title, {
      height: Math.max(300, 130 + 26 * names.length), bargap: 0.3,
      xaxis: axis("SQNR of the logits (dB)", { domain: [0, 0.47], nticks: narrow() ? 4 : 8 }),
      xaxis2: axis(float === null ? "validation accuracy (%)" : narrow() ? "accuracy (points)" : "validation accuracy against float (points)", { domain: [0.53, 1], nticks: narrow() ? 4 : 8 }),
      yaxis: axis("", { autorange: "reversed", tickfont: { size: 11 }, ...named(names) }),
    });
  }

  function exits() {
    const places = [...new Set(data.exits.flatMap((item) => item.places))].filter((place) => place !== "end");
    places.push("end");
    const shades = ["#00507d", BLUE, "#56B4E9", "#a6d8f5", "#cfe8f7"];
    const traces = places.map((place, position) => {
      const items = data.exits.filter((item) => item.places.includes(place));
      const at = (item) => item.places.indexOf(place);
      const macs = (item) => item.macs ? `, ${(item.macs[at(item)] / 1e6).toPrecision(3)} M MACs` : "";
      return {
        type: "bar", orientation: "h", name: clip(place), y: items.map((item) => item.name),
        x: items.map((item) => 100 * item.share[at(item)]),
        text: items.map((item) => `${(100 * item.share[at(item)]).toFixed(0)} %`), textposition: "inside", insidetextanchor: "middle", textangle: 0,
        hovertext: items.map((item) => `${plain(place)}: ${(100 * item.share[at(item)]).toFixed(2)} % leave${macs(item)}`), hoverinfo: "text",
        marker: { color: place === "end" ? "#E69F00" : shades[position % shades.length], line: { color: "#fff", width: 1 } },
      };
    });
    draw("chart-exits", traces, "Where images leave", {
      height: 160 + 34 * data.exits.length, barmode: "stack",
      xaxis: axis("share of the test split (%)", { range: [0, 100] }), yaxis: axis("", { autorange: "reversed", ...named(data.exits.map((item) => item.name)) }),
      uniformtext: { minsize: 10, mode: "hide" },
    });
  }

  function study(item, position) {
    const id = `chart-study-${position}`;
    if (!get(id)) return;
    const cell = new Map();
    for (const pair of item.pairs) {
      cell.set(JSON.stringify([pair.first, pair.second]), { ...pair, sign: 1 });
      const back = JSON.stringify([pair.second, pair.first]);
      if (!cell.has(back)) cell.set(back, { ...pair, sign: -1 });
    }
    const at = (row, column) => cell.get(JSON.stringify([row, column]));
    const value = (pair) => (pair && isNumber(pair.difference) ? pair.sign * pair.difference : null);
    const z = item.stages.map((row) => item.stages.map((column) => value(at(row, column))));
    const widest = Math.max(0.01, ...z.flat().filter(isNumber).map(Math.abs));
    const annotations = [];
    item.stages.forEach((row, y) => item.stages.forEach((column, x) => {
      const pair = at(row, column), difference = value(pair);
      if (difference === null) return;
      const mark = { equal: "≈ ", open: "? " }[pair.verdict] || "";
      const lines = [`${mark}${pair.bound ? (pair.sign > 0 ? "≥ " : "≤ ") : ""}<b>${signed(difference, item.digits)}</b>`];
      if (pair.interval && !narrow()) {  // a phone has no room; the table below has them
        const [low, high] = pair.sign > 0 ? pair.interval : [-pair.interval[1], -pair.interval[0]];
        lines.push(`${signed(low, item.digits)} … ${signed(high, item.digits)}`);
      }
      if (isNumber(pair.probability) && !narrow()) {
        lines.push(`sure ${(100 * (pair.sign > 0 ? pair.probability : 1 - pair.probability)).toFixed(0)} %`);
      }
      const dark = Math.abs(difference) > 0.6 * widest;
      annotations.push({ x, y, text: lines.join("<br>"), showarrow: false, font: { size: 12, color: dark ? "#fff" : BLACK } });
    }));
    draw(id, [{
      type: "heatmap", z, x: item.stages, y: item.stages, zmin: -widest, zmax: widest, xgap: 2, ygap: 2,
      colorscale: [[0, "#a84300"], [0.5, "#ffffff"], [1, "#00507d"]], hoverinfo: "skip",
      colorbar: { title: { text: item.unit, side: "right" }, thickness: 12 },
    }], `Row before column: ${item.name}`, {
      xaxis: axis("second", { showgrid: false, ...named(item.stages) }), yaxis: axis("first", { ...named(item.stages), autorange: "reversed", showgrid: false }),
      annotations, plot_bgcolor: "#eceff2",
    });
  }

  // --- at the start ------------------------------------------------------------------------------

  document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
  if (data.experiments.length) {
    const logarithmic = () => {  // also where one figure would squeeze all others into a corner
      const cost = data.costs.find((item) => item.key === get("cost").value);
      const values = data.experiments.filter((item) => item.final[cost.key]).map((item) => item.final[cost.key][0]);
      get("log").checked = cost.log || Math.max(...values) > 15 * Math.min(...values);
    };
    logarithmic();
    get("cost").addEventListener("change", () => { logarithmic(); tradeoff(); });
    for (const id of ["split", "reach", "log"]) if (get(id)) get(id).addEventListener("change", tradeoff);
    get("which").addEventListener("change", chain);
    get("table").addEventListener("click", (event) => {
      if (event.target.matches(".open")) open(event.target.dataset.name);
    });
    jobs.push(tradeoff, chain);
  }
  if (get("scan")) {
    get("scan").addEventListener("change", sensitivity);
    jobs.push(sensitivity);
  }
  if (data.exits.length) jobs.push(exits);
  data.studies.forEach((item, position) => jobs.push(() => study(item, position)));

  function next() {  // one chart after another, so that the page answers in between
    const job = jobs.shift();
    if (job) job();
    if (jobs.length) setTimeout(next);
    else document.body.dataset.drawn = "all";
  }
  window.addEventListener("DOMContentLoaded", next);  // Plotly's long script comes last

  const PAPER = 690;  // pixels between the margins of an A4 sheet
  const drawn = () => [...document.querySelectorAll(".js-plotly-plot")].filter((chart) => chart.offsetParent);
  window.addEventListener("beforeprint", () => {
    while (jobs.length) jobs.shift()();
    document.querySelectorAll("details:not(.noprint)").forEach((part) => { part.open = true; });
    for (const chart of drawn()) {
      Plotly.relayout(chart, { width: chart.closest(".grid") ? PAPER / 2 - 6 : PAPER, autosize: false });
    }
  });
  window.addEventListener("afterprint", () => {
    for (const chart of drawn()) Plotly.relayout(chart, { width: null, autosize: true });
  });
})();
