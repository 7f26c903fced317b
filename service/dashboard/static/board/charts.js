// Charts, drawn as SVG to the width that they have.

import { el, span, svg } from "./show.js";

const HEIGHT = 150;
const LEFT = 54;
const BOTTOM = 20;
const TOP = 8;

/**
 * A chart of steps in time. `series`: [{name, value(step), className}]; bars are stacked, lines leave gaps where a value
 * is null. `steps` are those of GET /stats: steps without a message are missing.
 */
export function chart(title, stats, series, { kind = "lines", format = String } = {}) {
  const figure = el("figure.chart");
  const legend = el("figcaption", {}, el("b", {}, title), series.map(({ name, className }) => el("span.key", {}, el(`i.${className}`), name)));
  const canvas = el("div.canvas");
  const told = el("p.told", { "aria-hidden": "true" });
  figure.append(legend, canvas, told);
  let width = 0;
  const draw = () => canvas.replaceChildren(drawing(title, stats, series, { kind, format, width, told }));
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now && now !== width) {
      width = now;
      draw();
    }
  }).observe(canvas);
  return figure;
}

function drawing(title, stats, series, { kind, format, width, told }) {
  const begin = new Date(stats.begin).getTime();
  const length = new Date(stats.end).getTime() - begin;
  const stepLength = stats.step_seconds * 1000;
  const x = (time) => LEFT + Math.max(0, Math.min(1, (time - begin) / length)) * (width - LEFT - 4);
  const values = stats.steps.map((step) => series.map(({ value }) => value(step)));
  const top = nice(Math.max(0, ...values.map((row) => (kind === "bars" ? row.reduce((sum, value) => sum + (value ?? 0), 0) : Math.max(0, ...row.map((value) => value ?? 0))))));
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const root = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": summary(title, stats, series, format) });
  for (const share of [0, 0.5, 1]) {
    const at = y(top * share);
    root.append(svg("line", { class: "grid", x1: LEFT, x2: width, y1: at, y2: at }), svg("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, format(top * share)));
  }
  const ticks = width > 500 ? 5 : 3;
  for (let tick = 0; tick < ticks; tick += 1) {
    const time = begin + (length * tick) / (ticks - 1);
    root.append(svg("text", { x: x(time), y: HEIGHT - 4, "text-anchor": tick === 0 ? "start" : tick === ticks - 1 ? "end" : "middle" }, clock(time, length)));
  }
  if (kind === "bars") bars(root, { stats, series, values, x, y, stepLength });
  else lines(root, { stats, series, values, x, y, stepLength });
  hover(root, { stats, series, values, x, format, told, stepLength, length });
  return root;
}

function bars(root, { stats, series, values, x, y, stepLength }) {
  stats.steps.forEach((step, index) => {
    const from = new Date(step.at).getTime();
    const left = x(from);
    let base = 0;
    series.forEach(({ className }, place) => {
      const value = values[index][place] ?? 0;
      if (!value) return;
      const high = y(base + value);
      root.append(svg("rect", { class: className, x: left, y: high, width: Math.max(1.5, x(from + stepLength) - left - 1), height: Math.max(1, y(base) - high) }));
      base += value;
    });
  });
}

function lines(root, { stats, series, values, x, y, stepLength }) {
  series.forEach(({ className }, place) => {
    let path = "";
    let before = null;
    let alone = null; // the place of a point without a line to it
    const dot = () => alone && root.append(svg("circle", { class: className, cx: alone[0], cy: alone[1], r: 2.5 }));
    stats.steps.forEach((step, index) => {
      const value = values[index][place];
      const time = new Date(step.at).getTime();
      if (value === null || value === undefined) return;
      const point = [x(time + stepLength / 2).toFixed(1), y(value).toFixed(1)];
      const continues = before !== null && time - before <= stepLength * 3;
      if (!continues) dot();
      path += `${continues ? "L" : "M"}${point}`;
      alone = continues ? null : point;
      before = time;
    });
    dot();
    if (path) root.append(svg("path", { class: `line ${className}`, d: path }));
  });
}

function hover(root, { stats, series, values, x, format, told, stepLength, length }) {
  const mark = svg("line", { class: "mark", y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9 });
  root.append(mark);
  root.addEventListener("pointermove", (event) => {
    const at = event.clientX - root.getBoundingClientRect().left;
    let nearest = -1;
    stats.steps.forEach((step, index) => {
      const distance = Math.abs(x(new Date(step.at).getTime() + stepLength / 2) - at);
      if (nearest < 0 || distance < Math.abs(x(new Date(stats.steps[nearest].at).getTime() + stepLength / 2) - at)) nearest = index;
    });
    if (nearest < 0) return;
    const time = new Date(stats.steps[nearest].at).getTime();
    const place = x(time + stepLength / 2);
    mark.setAttribute("x1", place);
    mark.setAttribute("x2", place);
    const said = series.map(({ name }, index) => `${name} ${values[nearest][index] === null || values[nearest][index] === undefined ? "–" : format(values[nearest][index])}`);
    told.textContent = `${clock(time, length)}: ${said.join(", ")}`;
  });
  root.addEventListener("pointerleave", () => {
    mark.setAttribute("x1", -9);
    mark.setAttribute("x2", -9);
    told.textContent = "";
  });
}

/** What the chart shows, for those who do not see it. */
function summary(title, stats, series, format) {
  const said = series.map(({ name, value }) => {
    const found = stats.steps.map(value).filter((one) => one !== null && one !== undefined);
    return found.length ? `${name} from ${format(Math.min(...found))} to ${format(Math.max(...found))}` : `${name}: nothing`;
  });
  return `${title}: ${said.join("; ")}`;
}

/** A round number that is not below the value. */
function nice(value) {
  if (value <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * size).find((round) => round >= value);
}

function clock(time, length) {
  const options = length > 172_800_000 ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
  return new Date(time).toLocaleString("en", { ...options, hour12: false });
}

/**
 * Bars below each other on one scale of time. `rows`: [{name, from, to, className, title, depth}], times in milliseconds;
 * `name` is text or an element.
 */
export function waterfall(rows) {
  const begin = Math.min(...rows.map(({ from }) => from));
  const end = Math.max(begin + 1, ...rows.map(({ to }) => to));
  const share = (time) => ((time - begin) / (end - begin)) * 100;
  const list = el("ol.waterfall", { "aria-label": "Timeline" });
  for (const { name, from, to, className = "", title = "", depth = 0 } of rows) {
    const bar = el(`i${className ? `.${className}` : ""}`);
    bar.style.left = `${share(from)}%`;
    bar.style.width = `${Math.max(0.4, share(to) - share(from))}%`;
    const label = el("span.name", { title }, name);
    label.style.paddingInlineStart = `${Math.min(depth, 6) * 0.9}rem`;
    list.append(el("li", {}, label, el("span.track", { "aria-hidden": "true" }, bar), el("span.length", {}, span((to - from) / 1000))));
  }
  return el("div", {}, list, el("p.scale", { "aria-hidden": "true" }, el("span", {}, "0"), el("span", {}, span((end - begin) / 1000))));
}
