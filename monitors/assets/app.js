"use strict";
// The page of spread-web: one event stream in, everything drawn from its last event. Text of strangers (paths,
// user agents, names) only ever becomes text nodes.

const $ = (id) => document.getElementById(id);
const COLORS = ["#1098ad", "#e8590c", "#5f3dc4", "#2f9e44", "#c2255c", "#1971c2", "#a9740b", "#495057"];
const SPANS = [["1s", "1 s"], ["10s", "10 s"], ["1m", "1 min"], ["1h", "1 h"]];
const OVER = { "1s": "last second", "10s": "last 10 s", "1m": "last minute", "1h": "last hour", start: "since start" };
const LINES_MAX = 300;

const state = {
  shot: null, span: "10s", sinceStart: false, chart: "seconds", paused: false, filter: "", stream: null,
  sort: { key: "name", down: false }, lastLine: 0, history: [], plot: null, plotKey: "",
};

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const number = (n, digits = 0) =>
  n.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const rate = (n) => (n >= 100 || n === 0 ? number(n) : number(n, n >= 10 ? 1 : 2));
function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 1000) return `${number(n, n < 10 && unit !== "B" ? 1 : 0)} ${unit}`;
    n /= 1000;
  }
  return `${number(n, 1)} TB`;
}
function duration(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${us} µs`;
  if (us < 1e6) return `${number(us / 1000, us < 1e4 ? 1 : 0)} ms`;
  return `${number(us / 1e6, 2)} s`;
}
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
const latencyOf = (series, span) => series.latency[span === "1s" ? "10s" : span];

// ---- Stream -------------------------------------------------------------------------------------------------

function connect() {
  if (state.stream) state.stream.close();
  const over = state.sinceStart ? "start" : state.span;
  const query = new URLSearchParams({ top: "15", over, count: "200", after: String(state.lastLine) });
  if (state.filter) query.set("filter", state.filter);
  state.stream = new EventSource(`/api/stream?${query}`);
  state.stream.onmessage = (event) => {
    const { snapshot, lines } = JSON.parse(event.data);
    if (lines.length) state.lastLine = lines[lines.length - 1].number;
    if (state.paused) return;
    state.shot = snapshot;
    draw();
    addLines(lines);
  };
  state.stream.onerror = () => setStatus("lost", "spread-web does not answer");
}

async function applyFilter(text) {
  text = text.trim();
  const query = new URLSearchParams({ top: "1" });
  if (text) query.set("filter", text);
  const answer = await fetch(`/api/snapshot?${query}`);
  if (!answer.ok) {
    $("filter-error").textContent = (await answer.json()).error;
    $("filter").setAttribute("aria-invalid", "true");
    return;
  }
  $("filter-error").textContent = "";
  $("filter").removeAttribute("aria-invalid");
  $("filter").value = text;
  $("clear").hidden = !text;
  state.filter = text;
  state.lastLine = 0;
  $("tail").replaceChildren();
  const url = new URL(location.href);
  if (text) url.searchParams.set("filter", text);
  else url.searchParams.delete("filter");
  history.replaceState(null, "", url);
  connect();
}

function narrow(condition) {
  applyFilter(state.filter ? `(${state.filter}) and ${condition}` : condition);
}
const quoted = (text) => (/[\s()"]/.test(text) ? `"${text.replaceAll('"', "*")}"` : text);

// ---- Drawing ------------------------------------------------------------------------------------------------

function setStatus(kind, text) {
  $("status").className = kind;
  if ($("status-text").textContent !== text) $("status-text").textContent = text;
}

function draw() {
  const shot = state.shot;
  if (!shot) return;
  setStatus(shot.daemon ? "live" : "lost", shot.daemon ? `live from ${shot.daemon}` : "no daemon");
  drawAlerts(shot);
  drawTiles(shot);
  drawChart(shot);
  drawServers(shot);
  drawMachines(shot);
  drawBars("statuses", Object.entries(shot.statuses).map(([code, w]) => ({
    name: code, value: w.requests, css: `c${code[0]}`, narrow: `status=${code}` })).filter((b) => b.value > 0));
  drawBars("methods", Object.entries(shot.methods).map(([name, w]) => ({
    name, value: w.requests, narrow: `method=${quoted(name)}` })).filter((b) => b.value > 0));
  drawBars("vhosts", shot.vhosts.map((v) => ({
    name: v.name, value: state.sinceStart ? v.requests : v.windows[state.span].requests, narrow: `vhost=${quoted(v.name)}` }))
    .sort((a, b) => b.value - a.value).slice(0, 15), "The format of the lines has no virtual host.");
  for (const [kind, field] of [["path", "path"], ["failed_path", "path"], ["client", "client"], ["agent", "agent"], ["referer", "referer"]]) {
    drawBars(`top-${kind}`, shot.top[kind].map((t) => ({
      name: t.value, value: t.count, error: t.error, bytes: t.bytes, narrow: `${field}=${quoted(t.value)}` })));
  }
  for (const place of document.querySelectorAll(".over")) place.textContent = OVER[shot.top_over];
  drawCompare(shot);
  drawSources(shot);
  drawGroups(shot);
  drawIntake(shot);
  $("notices").replaceChildren(...(shot.notices.length
    ? shot.notices.map((n) => el("li", {}, el("time", {}, clock(n.at_ms)), n.text))
    : [el("li", { class: "empty" }, "None.")]));
}

function drawAlerts(shot) {
  const box = $("alerts");
  const key = shot.alerts.map((a) => `${a.name} ${a.subject}`).join("|");
  box.hidden = !shot.alerts.length;
  // Only a change is worth a reader's voice; the figures in the text change all the time.
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(el("ul", {}, ...shot.alerts.map((a) => el("li", {}, el("b", {}, a.name), ` ${a.text}`))));
}

function drawTiles(shot) {
  const w = shot.total.windows[state.span], l = latencyOf(shot.total, state.span);
  const tiles = [
    [rate(w.rps), "requests/s", ""], [number(w.mbps, 2), "Mbit/s", ""],
    [number(w.classes[2]), "2xx", "c2"], [number(w.classes[3]), "3xx", "c3"],
    [number(w.classes[4]), "4xx", "c4"], [number(w.classes[5]), "5xx", "c5"],
  ];
  if (l.count) tiles.push([duration(l.p50), "median", ""], [duration(l.p95), "95 %", ""], [duration(l.p99), "99 %", ""]);
  tiles.push([number(shot.total.clients), "clients", ""], [number(shot.total.requests), "since start", ""]);
  $("tiles").replaceChildren(...tiles.map(([value, name, css]) =>
    el("div", { class: "tile" }, el("b", { class: css }, value), el("span", {}, name))));
}

// Requests per second of each server: [seconds since 1970, names, values].
function chartData(shot) {
  const names = shot.servers.slice(0, COLORS.length).map((s) => s.name);
  const day = state.chart === "day";
  const step = state.chart === "seconds" ? 1 : 60;
  const count = day ? 1440 : 60;
  const end = Math.floor(shot.last_second / step) * step;
  const xs = Array.from({ length: count }, (_, i) => end - (count - 1 - i) * step);
  if (!day) return [xs, names, names.map((name) => shot.servers.find((s) => s.name === name)[state.chart].map((n) => n / step))];
  const minutes = new Map(state.history.map((m) => [m.second, m.servers]));
  return [xs, names, names.map((name) => xs.map((x) => {
    const servers = minutes.get(x);
    return servers ? (servers[name]?.requests ?? 0) / 60 : null;
  }))];
}

// The history in the file of spread-web, if it keeps one. It knows no filter.
async function loadHistory() {
  const answer = await fetch("/api/history");
  const kept = answer.status === 200;
  $("day-choice").hidden = !kept;
  if (kept) state.history = await answer.json();
}

function drawChart(shot) {
  const [xs, names, series] = chartData(shot);
  const servers = names.map((name) => ({ name }));
  const key = `${state.chart} ${servers.map((s) => s.name).join(" ")} ${document.documentElement.dataset.theme}`;
  const box = $("chart");
  if (!state.plot || state.plotKey !== key) {
    if (state.plot) state.plot.destroy();
    const css = getComputedStyle(document.documentElement);
    const axis = { stroke: css.getPropertyValue("--dim"), grid: { stroke: css.getPropertyValue("--line"), width: 1 } };
    state.plot = new uPlot({
      width: box.clientWidth, height: 220, legend: { show: false }, cursor: { show: true },
      axes: [axis, { ...axis, size: 56 }],
      scales: { y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] } },
      series: [{}, ...servers.map((s, i) => ({ label: s.name, stroke: COLORS[i], width: 2, fill: `${COLORS[i]}18` }))],
    }, [xs, ...series], box);
    state.plotKey = key;
  } else {
    state.plot.setData([xs, ...series]);
  }
  $("legend").replaceChildren(...servers.map((s, i) => el("li", {},
    Object.assign(el("i"), { style: `background:${COLORS[i]}` }), s.name)));
}

const COLUMNS = [
  ["name", "Server", (s) => s.name], ["trend", "Last 60 s", null],
  ["rps", "req/s", (s, w) => w.rps, (v) => rate(v)], ["mbps", "Mbit/s", (s, w) => w.mbps, (v) => number(v, 2)],
  ["c2", "2xx", (s, w) => w.classes[2], number], ["c3", "3xx", (s, w) => w.classes[3], number],
  ["c4", "4xx", (s, w) => w.classes[4], number], ["c5", "5xx", (s, w) => w.classes[5], number],
  ["p50", "median", (s, w, l) => l.p50 ?? -1, (v) => duration(v < 0 ? null : v)],
  ["p95", "95 %", (s, w, l) => l.p95 ?? -1, (v) => duration(v < 0 ? null : v)],
  ["p99", "99 %", (s, w, l) => l.p99 ?? -1, (v) => duration(v < 0 ? null : v)],
  ["clients", "clients", (s) => s.clients, number], ["total", "total", (s) => s.requests, number],
];

function spark(values) {
  const max = Math.max(1, ...values);
  const points = values.map((v, i) => `${i ? "L" : "M"}${(i * 2).toFixed(0)} ${(21 - (v / max) * 19).toFixed(1)}`);
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 120 22");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(ns, "path");
  path.setAttribute("d", points.join(""));
  svg.append(path);
  return svg;
}

function drawServers(shot) {
  const table = $("servers");
  const focused = document.activeElement?.dataset?.focus;
  const values = (s) => COLUMNS.map((c) => c[2] && c[2](s, s.windows[state.span], latencyOf(s, state.span)));
  const index = COLUMNS.findIndex((c) => c[0] === state.sort.key);
  const rows = shot.servers.map((s) => [s, values(s)]);
  rows.sort(([, a], [, b]) => {
    const order = typeof a[index] === "string" ? a[index].localeCompare(b[index]) : a[index] - b[index];
    return state.sort.down ? -order : order;
  });
  const head = el("tr", {}, ...COLUMNS.map(([key, title, value]) => {
    if (!value) return el("th", { scope: "col" }, title);
    const sorted = state.sort.key === key ? (state.sort.down ? "descending" : "ascending") : false;
    const click = () => {
      state.sort = { key, down: state.sort.key === key ? !state.sort.down : key !== "name" };
      draw();
    };
    return el("th", { scope: "col", "aria-sort": sorted }, el("button", { type: "button", onclick: click, "data-focus": `h-${key}` }, title));
  }));
  const body = rows.map(([s, v]) => el("tr", { class: s.windows["1m"].requests ? "" : "silent" }, ...COLUMNS.map((c, i) => {
    if (c[0] === "name") return el("td", {}, el("button", { type: "button", title: "Only this server", "data-focus": `s-${s.name}`,
      onclick: () => narrow(`server=${quoted(s.name)}`) }, s.name));
    if (c[0] === "trend") return el("td", {}, spark(s.seconds));
    return el("td", { class: c[0] }, c[3](v[i]));
  })));
  table.replaceChildren(el("thead", {}, head), el("tbody", {}, ...body));
  if (!rows.length) table.append(el("tbody", {}, el("tr", {}, el("td", { class: "empty" }, "No line has arrived yet."))));
  // Who works with the keyboard keeps his place when the table is drawn anew.
  if (focused) table.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

// The resource matrix: what mod_backhand of each machine announces.
function drawMachines(shot) {
  $("machines-card").hidden = !shot.machines.length;
  const titles = ["Machine", "Serves at", "Load", "CPU idle", "CPUs", "Memory free", "Workers idle", "Speed", "Age"];
  $("machines").replaceChildren(
    el("thead", {}, el("tr", {}, ...titles.map((t) => el("th", { scope: "col" }, t)))),
    el("tbody", {}, ...shot.machines.map((m) => {
      const age = shot.now_ms - m.at_ms;
      const cells = [m.name + (m.draining ? " (draining)" : ""), m.contact, number(m.load, 2), `${number(m.cpu_idle, 1)} %`, number(m.cpus),
        `${bytes(m.memory_available)} of ${bytes(m.memory)}`, `${number(m.workers_idle)} of ${number(m.workers)}`, number(m.speed),
        `${number(Math.max(0, age) / 1000, 1)} s`];
      return el("tr", { class: age > 5 * m.interval_ms ? "silent" : "" }, ...cells.map((c) => el("td", {}, c)));
    })));
}

function drawBars(id, bars, none = "Nothing yet.") {
  const box = $(id);
  const focused = box.contains(document.activeElement) ? document.activeElement.textContent : null;
  if (!bars.length) {
    box.replaceChildren(el("p", { class: "empty" }, none));
    return;
  }
  const max = Math.max(1, ...bars.map((b) => b.value));
  box.replaceChildren(el("ul", { class: "bars" }, ...bars.map((b) => {
    const value = `${b.error ? "≤ " : ""}${number(b.value)}${b.bytes === undefined ? "" : ` · ${bytes(b.bytes)}`}`;
    return el("li", { title: b.name + (b.error ? ` (at most ${number(b.error)} too many)` : "") },
      Object.assign(el("span", { class: "fill", "aria-hidden": "true" }), { style: `width:${(100 * b.value) / max}%` }),
      el("span", { class: "name" }, el("button", { type: "button", class: b.css ?? "", onclick: () => narrow(b.narrow) }, b.name || "(empty)")),
      el("span", { class: "value" }, value));
  })));
  if (focused) [...box.querySelectorAll("button")].find((b) => b.textContent === focused)?.focus();
}

function options(select, values, chosen) {
  const key = values.map(([v]) => v).join("\n");
  if (select.dataset.key === key) return;
  const kept = select.value;
  select.replaceChildren(...values.map(([value, text]) => el("option", { value }, text)));
  select.value = values.some(([v]) => v === kept) ? kept : (values[chosen] ?? values[0])[0];
  select.dataset.key = key;
}

function drawCompare(shot) {
  const names = [["", "all servers"], ...shot.servers.map((s) => [s.name, s.name])];
  options($("left"), names, 1);
  options($("right"), names, 2);
  options($("left-span"), SPANS, 1);
  options($("right-span"), SPANS, 1);
  const side = (who) => {
    const name = $(who).value, span = $(`${who}-span`).value;
    const series = name ? shot.servers.find((s) => s.name === name) ?? shot.total : shot.total;
    return { w: series.windows[span], l: latencyOf(series, span) };
  };
  const [a, b] = [side("left"), side("right")];
  const percent = (s, n) => (s.w.requests ? (100 * n) / s.w.requests : 0);
  const rows = [
    ["requests/s", (s) => s.w.rps, rate], ["Mbit/s", (s) => s.w.mbps, (v) => number(v, 2)],
    ["4xx %", (s) => percent(s, s.w.classes[4]), (v) => number(v, 2)], ["5xx %", (s) => percent(s, s.w.classes[5]), (v) => number(v, 2)],
    ["median", (s) => s.l.p50, duration], ["95 %", (s) => s.l.p95, duration], ["99 %", (s) => s.l.p99, duration],
  ];
  $("compare").replaceChildren(
    el("thead", {}, el("tr", {}, ...["Figure", "Left", "Right", "Right / left"].map((t) => el("th", { scope: "col" }, t)))),
    el("tbody", {}, ...rows.map(([title, value, show]) => {
      const [x, y] = [value(a), value(b)];
      const ratio = x && y ? `${number(y / x, 2)} ×` : "–";
      return el("tr", {}, el("th", { scope: "row" }, title), el("td", {}, show(x)), el("td", {}, show(y)), el("td", {}, ratio));
    })));
}

// Who publishes: a line that was missed is said of the server it is missing from.
function drawSources(shot) {
  const titles = ["Daemon", "Apache", "Streams", "Lines", "Missed", "Dropped there", "Came twice", "Without number", "Last heard"];
  $("sources").replaceChildren(
    el("thead", {}, el("tr", {}, ...titles.map((t) => el("th", { scope: "col" }, t)))),
    el("tbody", {}, ...shot.sources.map((s) => {
      const cells = [s.daemon, s.apache || "not known yet", number(s.processes), number(s.lines), number(s.missed), number(s.dropped),
        number(s.twice), number(s.unnumbered), `${number(Math.max(0, shot.now_ms - s.last_ms) / 1000, 1)} s ago`];
      return el("tr", {}, ...cells.map((c, i) => el("td", { class: i === 4 && s.missed ? "c5" : "" }, c)));
    })));
  if (!shot.sources.length) $("sources").append(el("tbody", {}, el("tr", {}, el("td", { class: "empty", colspan: titles.length }, "None heard yet."))));
}

function drawGroups(shot) {
  // All of the ring if a daemon's metrics are asked for them, and in any case those with members of the groups.
  const ring = shot.ring;
  const names = [...new Set([...Object.keys(shot.daemons), ...(ring?.daemons ?? []).map((d) => d.name)])].sort();
  const lines = names.map((name) => {
    const known = ring?.daemons.find((d) => d.name === name);
    const here = known && (known.member ? "in the ring" : known.heard ? "heard, but not in the ring" : "not in the ring");
    const members = shot.daemons[name]?.join(", ") ?? "no member of the groups";
    return el("li", { class: known && !known.member ? "c5" : "" }, el("b", {}, name), ` – ${[here, members].filter(Boolean).join("; ")}`);
  });
  $("daemons").replaceChildren(
    ...(ring?.error ? [el("p", { class: "c5" }, `The ring is not known: ${ring.error}`)] : []),
    lines.length ? el("ul", {}, ...lines) : el("p", { class: "empty" }, "None seen yet."));
  const groups = Object.entries(shot.groups);
  $("groups").replaceChildren(...(groups.length ? groups.flatMap(([group, members]) => [
    el("p", {}, el("b", {}, group), ` – ${members.length} members`),
    el("ul", {}, ...members.map((m) => el("li", {}, m))),
  ]) : [el("p", { class: "empty" }, "None seen yet.")]));
}

function drawIntake(shot) {
  const i = shot.intake;
  const rejected = Object.entries(i.rejected);
  const rows = [
    ["counts since", new Date(shot.since_ms).toLocaleString()],
    ["lines, messages", `${number(i.lines)}, ${number(i.messages)}`], ["bytes", bytes(i.bytes)],
    ["lines of another format", rejected.length ? rejected.map(([c, n]) => `${c}: ${number(n)}`).join(", ") : "none"],
    ["lines missed", i.missed ? number(i.missed) : "none of the numbered ones"],
    ["dropped by servers", number(i.dropped)],
    ["connection lost", i.reconnects ? `${number(i.reconnects)} times, ${duration(i.disconnected_ms * 1000)}: lines of that time were missed` : "never"],
  ];
  if (shot.clock_ahead) rows.push(["times ahead of this clock", number(shot.clock_ahead)]);
  $("intake").replaceChildren(el("table", {}, el("tbody", {}, ...rows.map(([k, v]) =>
    el("tr", {}, el("th", { scope: "row" }, k), el("td", {}, v))))));
}

function addLines(lines) {
  const box = $("tail");
  const follow = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const failed = /" [45]\d\d /;
  for (const line of lines) {
    if ($("errors-only").checked && !failed.test(line.line)) continue;
    box.append(el("div", {}, el("b", {}, line.server), " ", line.line));
  }
  while (box.childElementCount > LINES_MAX) box.firstChild.remove();
  if (follow) box.scrollTop = box.scrollHeight;
}

// ---- Controls -----------------------------------------------------------------------------------------------

$("filter-form").addEventListener("submit", (event) => { event.preventDefault(); applyFilter($("filter").value); });
$("clear").addEventListener("click", () => { applyFilter(""); $("filter").focus(); });
// The most frequent values of another window come with the next event; connecting anew brings it at once.
$("span").addEventListener("change", (event) => { state.span = event.target.value; draw(); connect(); });
$("since-start").addEventListener("change", (event) => { state.sinceStart = event.target.checked; connect(); });
$("chart-span").addEventListener("change", (event) => { state.chart = event.target.value; draw(); });
$("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", String(state.paused));
});
$("errors-only").addEventListener("change", () => { $("tail").replaceChildren(); state.lastLine = 0; connect(); });
for (const id of ["left", "right", "left-span", "right-span"]) $(id).addEventListener("change", draw);

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* a browser may forbid it; the theme then lasts as long as the page */ }
  draw();
}
$("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
let stored = null;
try { stored = localStorage.getItem("theme"); } catch { /* as above */ }
setTheme(stored ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));

new ResizeObserver(() => { if (state.plot) state.plot.setSize({ width: $("chart").clientWidth, height: 220 }); }).observe($("chart"));
loadHistory();
setInterval(loadHistory, 60000);
const wanted = new URL(location.href).searchParams.get("filter");
if (wanted) { $("filter").value = wanted; applyFilter(wanted); } else connect();
