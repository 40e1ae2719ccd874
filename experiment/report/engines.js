"use strict";
// Draws engine × network × batch: a picture a batch size, a row a network, a mark an engine.
(() => {
  const { data, get, GREY, BLACK, COLOURS, SYMBOLS, plain, named, axis, ticks, draw, jobs } = drawing;
  const ROW = 32;  // pixels a network
  const number = (ms) => (ms < 100 ? ms.toPrecision(3) : ms.toFixed(0));

  function shown() {
    const choice = get("engine-networks");
    const all = !choice || choice.value === "all";
    return data.engines.networks.filter((item) => all || item.is_baseline || item.on_front);
  }
  function batch(size) {
    const items = shown().filter((item) => item.batches[size]);
    const at = (item) => item.batches[size];
    const names = items.map((item) => item.name);
    const hover = (item, text) => `<b>${plain(item.name)}</b>, batch ${size}<br>${text}`;
    const traces = data.engines.engines.map((engine, place) => {
      const having = items.filter((item) => engine in at(item).ms);
      const first = (item) => at(item).fastest.includes(engine);
      const int8 = (item) => (item.int8[engine] || "–") === "–" ? "" : `, ${item.int8[engine]} layers in int8`;
      return {
        type: "scatter", mode: "markers+text", name: plain(engine), cliponaxis: false,
        x: having.map((item) => at(item).ms[engine]), y: having.map((item) => item.name),
        text: having.map((item) => (first(item) ? `<b>${number(at(item).ms[engine])}</b>` : "")),
        textposition: "top center", textfont: { size: 11, color: BLACK },
        marker: {
          symbol: SYMBOLS[place % SYMBOLS.length], color: COLOURS[place % COLOURS.length],
          size: having.map((item) => (first(item) ? 13 : 8)),
          line: { color: BLACK, width: having.map((item) => (first(item) ? 1.5 : 0)) },
        },
        hovertext: having.map((item) =>
          hover(item, `${plain(engine)}: ${number(at(item).ms[engine])} ms${first(item) ? ", the fastest" : ""}${int8(item)}`)),
        hoverinfo: "text",
      };
    });
    const beside = items.filter((item) => at(item).baseline_ms !== null);
    traces.unshift({
      type: "scatter", mode: "markers", name: "float baseline in turn", cliponaxis: false,
      x: beside.map((item) => at(item).baseline_ms), y: beside.map((item) => item.name),
      marker: { symbol: "line-ns", size: 14, line: { color: GREY, width: 3 } },
      hovertext: beside.map((item) =>
        hover(item, `its float baseline beside it: ${number(at(item).baseline_ms)} ms by ${plain(at(item).baseline_engine)}`)),
      hoverinfo: "text",
    });
    draw(`chart-engines-${size}`, traces.filter((trace) => trace.x.length), `Batch ${size}: ms by engine`, {
      height: 170 + ROW * items.length, hovermode: "closest",
      legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom", itemsizing: "constant" },
      xaxis: axis("ms a batch (logarithmic)", { type: "log", ...ticks(traces.flatMap((trace) => trace.x)) }),
      yaxis: axis("", { ...named(names), categoryorder: "array", categoryarray: names, autorange: false, range: [items.length - 0.4, -0.7], tickfont: { size: 11 } }),
    });
  }

  if (data.engines) {
    const every = () => data.engines.batches.forEach(batch);
    if (get("engine-networks")) get("engine-networks").addEventListener("change", every);
    jobs.push(every);
  }
})();
