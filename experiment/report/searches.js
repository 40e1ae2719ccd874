"use strict";
// Draws a search: what was tried when with the best so far, and its front.
(() => {
  const { data, get, BLUE, ORANGE, GREY, BLACK, plain, clip, narrow, isNumber, axis, ticks, draw, jobs } = drawing;
  const GREEN = "#009E73";
  const LOOKS = {  // of what was tried
    "meets the limits": { symbol: "circle", color: BLUE, size: 9 },
    "beyond a limit": { symbol: "x", color: ORANGE, size: 8 },
    "short training": { symbol: "circle-open", color: GREY, size: 7, line: { width: 1.5 } },
    "limits not known": { symbol: "square-open", color: GREY, size: 7 },
  };
  const JUDGED = [  // of finalists
    [true, "confirmed", { symbol: "star", color: GREEN, size: 16, line: { width: 1, color: BLACK } }],
    [false, "not confirmed", { symbol: "star-open", color: ORANGE, size: 15, line: { width: 2 } }],
    [null, "not run again yet", { symbol: "star-open", color: BLACK, size: 14, line: { width: 1.5 } }],
  ];
  const hover = (item, ...more) => [
    `<b>${plain(item.chain)}</b>`, plain(item.about),
    ...(isNumber(item.drop) ? [`drop ${item.drop.toFixed(2)}`] : []), ...item.costs.map(plain), ...more.filter(Boolean),
  ].join("<br>");
  const scatter = (items, x, y, more) => ({
    type: "scatter", mode: "markers", cliponaxis: false, hoverinfo: "text", hovertext: items.map((item) => hover(item)),
    x: items.map((item) => item[x]), y: items.map((item) => item[y]), ...more,
  });
  function scale(what, values) {
    if (!what.log) return axis(what.label, what.reversed ? { autorange: "reversed" } : {});
    // Of less than a decade Plotly's own ticks are written in full.
    const wide = Math.max(...values) > 5 * Math.min(...values);
    return axis(what.label, { type: "log", ...(wide ? ticks(values) : {}) });
  }

  function course(item, id) {
    const traces = Object.entries(LOOKS).map(([kind, marker]) => {
      const items = item.tried.filter((one) => one.kind === kind);
      const more = (one) => [`expected ${plain(one.expected)}`, one.stopped && `stopped: ${plain(one.stopped)}`];
      return scatter(items, "hours", "value", { name: kind, marker, hovertext: items.map((one) => hover(one, ...more(one))) });
    });
    traces.unshift({
      type: "scatter", mode: "lines", name: "best so far", x: item.best.map((at) => at[0]), y: item.best.map((at) => at[1]),
      line: { shape: "hv", color: BLACK, width: 1.5 }, hovertext: item.best.map((at) => plain(at[2])), hoverinfo: "text",
    });
    for (const [meets, name, marker] of JUDGED) {
      const items = item.finalists.filter((one) => one.meets === meets && isNumber(one.hours) && isNumber(one.value));
      traces.push(scatter(items, "hours", "value", { name: `finalist, ${name}`, marker }));
    }
    draw(id, traces.filter((trace) => trace.x.length), `What was tried when: ${item.name}`, {
      height: narrow() ? 440 : 400, hovermode: "closest",
      xaxis: axis("hours", { rangemode: "tozero" }), yaxis: scale(item.aim, item.tried.map((one) => one.value)),
    });
  }

  function front(item, id) {
    const line = [...item.front].sort((a, b) => a.cost - b.cost || a.likely - b.likely);
    const again = item.finalists.filter((one) => isNumber(one.cost) && isNumber(one.drop) && one.meets !== null);
    const seen = new Set(again.map((one) => one.chain));
    const traces = [scatter(line, "cost", "likely", {
      name: "expected", marker: { symbol: "circle-open", color: BLUE, size: 10, line: { width: 2 } },
      mode: "lines+markers", line: { shape: "hv", color: BLUE, width: 1.5, dash: "dot" },
      hovertext: line.map((one) => hover(one, `expected ${plain(one.expected)}`)),
    })];
    const looked = again.filter((one) => isNumber(one.apparent));
    traces.push(scatter(looked, "cost", "apparent", {
      name: "at the search's seed", marker: { symbol: "circle", color: GREY, size: 6 },
    }));
    for (const one of looked) {
      traces.push({
        type: "scatter", mode: "lines", x: [one.cost, one.cost], y: [one.apparent, one.drop],
        line: { color: GREY, width: 1.5 }, hoverinfo: "skip", showlegend: false,
      });
    }
    for (const [meets, name, marker] of JUDGED.slice(0, 2)) {
      const items = again.filter((one) => one.meets === meets);
      const reach = (one, end) => (one.interval ? Math.abs(one.interval[end] - one.drop) : 0);
      traces.push(scatter(items, "cost", "drop", {
        name: `fresh seeds, ${name}`, marker,
        error_y: { type: "data", symmetric: false, array: items.map((one) => reach(one, 1)), arrayminus: items.map((one) => reach(one, 0)), thickness: 1.5, width: 4, color: marker.color },
      }));
    }
    const named = [...again, ...line.filter((one) => !seen.has(one.chain))].filter(() => !narrow() && line.length <= 16);
    const far = Math.max(...named.map((one) => one.cost));  // whose name would leave the frame
    const annotations = named.map((one) => ({
      x: Math.log10(one.cost), y: again.includes(one) ? one.drop : one.likely, text: clip(one.chain, 24), showarrow: false, font: { size: 11 },
      yshift: -10, ...(one.cost === far ? { xanchor: "right", xshift: -8 } : { xanchor: "left", xshift: 8 }),
    }));
    const limit = (more) => ({ type: "line", line: { color: ORANGE, width: 1.5, dash: "dash" }, ...more });
    draw(id, traces.filter((trace) => trace.x.length), `Front: ${item.name}`, {
      height: narrow() ? 440 : 400, hovermode: "closest", annotations,
      shapes: [
        ...item.limits.drop.map((y) => limit({ xref: "paper", x0: 0, x1: 1, y0: y, y1: y })),
        ...item.limits.cost.map((x) => limit({ yref: "paper", y0: 0, y1: 1, x0: x, x1: x })),
      ],
      xaxis: scale(item.cost, [...line, ...again].map((one) => one.cost)), yaxis: axis("accuracy drop (points)", { autorange: "reversed" }),
    });
  }

  data.searches.forEach((item, position) => {
    for (const [id, job] of [[`chart-search-${position}`, course], [`chart-front-${position}`, front]]) {
      if (get(id)) jobs.push(() => job(item, id));
    }
  });
})();
