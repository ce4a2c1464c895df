"use strict";
// Draws the charts of one proof, and again whenever the colours or the width change.
(() => {
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const whole = v => v == null ? "–" : Math.round(v).toLocaleString("en-US");
  const millis = v => v == null ? "–" : (v < 10 ? v.toFixed(1) : whole(v)) + " ms";
  const axis = more => ({
    stroke: colour("--soft"), grid: {stroke: colour("--rule"), width: 1}, ticks: {stroke: colour("--rule"), width: 1},
    font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 18, ...more,
  });
  const name = run => run.strategy || "the service";

  function stockChart(place, run) {
    const at = run.samples.map(s => s.at_ms / 1000);
    const data = [at, run.samples.map(s => s.sold), run.samples.map(s => s.available), at.map(() => run.stock)];
    const top = Math.max(run.stock, ...data[1]) * 1.06;
    const inOrders = {label: "in orders", stroke: colour("--sold"), width: 2.5, value: (_, v) => whole(v), points: {show: false}};
    if (run.oversold > 0) {
      inOrders.stroke = colour("--over");
    }
    return new uPlot({
      width: place.clientWidth, height: 260, scales: {x: {time: false}, y: {range: () => [0, top]}},
      cursor: {y: false},
      axes: [axis({label: "seconds since the attack began", size: 32}), axis({size: 58, values: (_, vs) => vs.map(whole)})],
      series: [
        {label: "second", value: (_, v) => v == null ? "–" : v.toFixed(2)},
        inOrders,
        {label: "available", stroke: colour("--left"), width: 2, value: (_, v) => whole(v), points: {show: false}},
        {label: "on sale", stroke: colour("--line"), width: 1.5, dash: [6, 5], value: (_, v) => whole(v), points: {show: false}},
      ],
    }, data, place);
  }

  // The points of all runs stand on one grid of nines; the longest run has them all.
  function latencyChart(place) {
    const longest = proof.runs.reduce((a, b) => b.latency_curve.length > a.latency_curve.length ? b : a);
    const nines = longest.latency_curve.map(p => -Math.log10(1 - p.share));
    const data = [nines, ...proof.runs.map(r => nines.map((_, i) => r.latency_curve[i] ? Math.max(r.latency_curve[i].ms, 0.1) : null))];
    const share = x => Number((100 * (1 - Math.pow(10, -x))).toFixed(Math.max(0, Math.ceil(x - 0.01) - 1))) + " %";
    const marks = [Math.log10(2), 1, 2, 3, 4, 5, 6];
    const decades = [0.1, 1, 10, 100, 1000, 10000, 100000];
    return new uPlot({
      width: place.clientWidth - 24, height: 320, scales: {x: {time: false}, y: {distr: 3}},
      cursor: {y: false},
      axes: [
        axis({label: "share of all answers", size: 32, splits: u => marks.filter(m => m <= u.scales.x.max), values: (_, vs) => vs.map(share)}),
        axis({size: 70, splits: u => decades.filter(d => d >= u.scales.y.min && d <= u.scales.y.max),
          values: (_, vs) => vs.map(v => v < 1000 ? v + " ms" : v / 1000 + " s")}),
      ],
      padding: [10, 28, 0, 0],
      series: [{label: "share", value: (_, v) => v == null ? "–" : share(v)},
        ...proof.runs.map((r, i) => ({label: name(r), stroke: colour("--c" + i % 7), width: 2, value: (_, v) => millis(v), points: {show: false}}))],
    }, data, place);
  }

  let charts = [];
  function draw() {
    charts.forEach(c => c.destroy());
    charts = [];
    document.querySelectorAll("[data-stock]").forEach(place => charts.push(stockChart(place, proof.runs[place.dataset.stock])));
    document.querySelectorAll("[data-latency]").forEach(place => charts.push(latencyChart(place)));
  }
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      draw();
    }
  });
})();
