// What the charts of all pages share.
export const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const whole = v => v == null ? "–" : Math.round(v).toLocaleString("en-US");
export const millis = v => v == null ? "–" : (v < 10 ? v.toFixed(2) : whole(v)) + " ms";
export const axis = more => ({
  stroke: colour("--soft"), grid: {stroke: colour("--rule"), width: 1}, ticks: {stroke: colour("--rule"), width: 1},
  font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 18, ...more,
});

// Strategies, and the bench's other peers, that share a hue differ by their dashes: the
// first line is solid.
const hues = {
  "--c0": ["none"],
  "--c1": ["process", "zookeeper", "kubernetes", "kubernetes-stocklock"],
  "--c2": ["etcd", "etcd-textbook", "etcd-try", "etcd-cas", "etcd-no-desk"],
  "--c3": ["conditional", "version", "row-lock", "lock-row", "conditional-1trip"],
  "--c4": ["redis", "redlock", "memcached", "redis-lua", "redis-lua-aof"],
  "--c5": ["lock-table", "get-lock", "conditional-batched", "skip-locked", "buckets"],
  "--c6": ["noop"],
};
const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3], [16, 4]];

function strategyLook(name) {
  const [hue, names] = Object.entries(hues).find(([, names]) => names.includes(name)) ?? ["--c6", [name]];
  return {hue, dash: dashes[names.indexOf(name)]};
}

// strategyLine is how a strategy's line looks in a chart.
export function strategyLine(name) {
  const {hue, dash} = strategyLook(name);
  return {stroke: colour(hue), dash, width: 2};
}

// lineLegend shows each line as it is drawn, in a chart of the class "lines".
export const lineLegend = {markers: {width: 0, fill: (u, i) => {
  const line = u.series[i].stroke(u, i);
  let end = 0;
  const stops = u.series[i].dash?.map((length, n) => `${n % 2 ? "transparent" : line} ${end}px ${end += length}px`);
  return stops?.length ? `repeating-linear-gradient(90deg, ${stops})` : line;
}}};

// Gives each element with data-strategy, and those within it, the strategy's colour as --strategy.
export function paintStrategies() {
  for (const e of document.querySelectorAll("[data-strategy]")) {
    e.style.setProperty("--strategy", `var(${strategyLook(e.dataset.strategy).hue})`);
  }
}

// Lets a link with the attribute download offer a text as its file.
export function offerFile(link, text) {
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
}

// Draws the latency of each strategy {name, points: [[share, milliseconds], ...]}. All
// lines share one scale of nines; the longest line has all of its points.
export function latencyChart(place, lines) {
  const least = 0.01;
  const longest = lines.reduce((a, b) => b.points.length > a.points.length ? b : a);
  const nines = longest.points.map(p => -Math.log10(1 - p[0]));
  const data = [nines, ...lines.map(l => nines.map((_, i) => l.points[i] ? Math.max(l.points[i][1], least) : null))];
  const share = x => Number((100 * (1 - Math.pow(10, -x))).toFixed(Math.max(0, Math.ceil(x - 0.01) - 1))) + " %";
  const marks = place.clientWidth < 500 ? [1, 2, 4, 6] : [Math.log10(2), 1, 2, 3, 4, 5, 6];
  const decades = [0.01, 0.1, 1, 10, 100, 1000, 10000, 100000];
  return new uPlot({
    class: "lines", legend: lineLegend, width: place.clientWidth - 24, height: 320, scales: {x: {time: false}, y: {distr: 3}}, cursor: {y: false},
    axes: [
      axis({label: "share of all answers", size: 32, splits: u => marks.filter(m => m <= u.scales.x.max), values: (_, vs) => vs.map(share)}),
      axis({label: "latency", size: 70, splits: u => decades.filter(d => d >= u.scales.y.min && d <= u.scales.y.max),
        values: (_, vs) => vs.map(v => v < 1000 ? v + " ms" : v / 1000 + " s")}),
    ],
    padding: [10, 28, 0, 0],
    series: [{label: "share", value: (_, v) => v == null ? "–" : share(v)},
      ...lines.map(l => ({label: l.name, ...strategyLine(l.name), value: (_, v) => millis(v), points: {show: false}}))],
  }, data, place);
}

// Draws the page's charts now, and again whenever the colours or the width change. Print
// has its own colours and width.
// drawAll returns the charts. The result redraws them.
export function keepDrawn(drawAll) {
  let charts = [];
  const draw = () => {
    charts.forEach(c => c.destroy());
    charts = drawAll();
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  matchMedia("print").addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      draw();
    }
  });
  return draw;
}
