// Draws the charts of a proof.
function stockChart(place, run) {
  const at = run.samples.map(s => s.at_ms / 1000);
  const data = [at, run.samples.map(s => s.sold), run.samples.map(s => s.available), at.map(() => run.stock)];
  const top = Math.max(run.stock, ...data[1]) * 1.06;
  const line = (label, colourName, more) => ({label, stroke: colour(colourName), width: 2, value: (_, v) => whole(v), points: {show: false}, ...more});
  return new uPlot({
    width: place.clientWidth, height: 260, scales: {x: {time: false}, y: {range: () => [0, top]}},
    cursor: {y: false},
    axes: [axis({label: "seconds since the start of the attack", size: 32}), axis({size: 58, values: (_, vs) => vs.map(whole)})],
    series: [
      {label: "second", value: (_, v) => v == null ? "–" : v.toFixed(2)},
      line("in orders", run.oversold > 0 ? "--over" : "--sold", {width: 2.5}),
      line("available", "--left"),
      line("on sale", "--line", {width: 1.5, dash: [6, 5]}),
    ],
  }, data, place);
}

const latencies = proof.runs.map(r => ({name: r.strategy || "the service", points: r.latency_curve.map(p => [p.share, p.ms])}));
keepDrawn(() => [
  ...[...document.querySelectorAll("[data-stock]")].map(place => stockChart(place, proof.runs[place.dataset.stock])),
  ...[...document.querySelectorAll("[data-latency]")].map(place => latencyChart(place, latencies)),
]);
