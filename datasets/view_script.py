"""The script of an episode's page: draws the panels, keeps film, cursor and slider together.

One number, the current step, is the state of the page; `show` draws it everywhere. It needs nothing
but what stands in the page.

Next: `view_page.py`.
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const times = data.times, last = times.length - 1, end = Math.max(times[last], 1e-3);
const find = (id) => document.getElementById(id);
const video = find("film"), slider = find("slider"), readout = find("readout"), play = find("play");
const HEIGHT = 178, PAD = { left: 54, right: 8, top: 26, bottom: 34 };
let step = 0, panels = [];

function lastNotLater(sorted, seconds) {
  let low = 0, high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (sorted[middle] <= seconds + 1e-4) low = middle; else high = middle - 1;
  }
  return low;
}
const stepAt = (seconds) => lastNotLater(times, seconds);
function text(value) {
  if (value === null || value === undefined) return "\u2013";
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-4)) return value.toExponential(2);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 4).replace("-", "\u2212");
}
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) || rough;
  const found = [];
  for (let k = Math.ceil(low / size - 1e-9); k * size <= high + size * 1e-6; k++)
    found.push(+(k * size).toPrecision(12));
  return { found, digits: Math.max(0, -Math.floor(Math.log10(size) + 1e-9)) };
}
function tick(value, digits) {
  if (Math.abs(value) >= 1e5) return value.toExponential(0);
  return digits > 5 ? value.toExponential(1) : value.toFixed(digits).replace("-", "\u2212");
}
function element(name, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  parent.appendChild(made);
  return made;
}
function range(panel) {
  let low = Infinity, high = -Infinity;
  for (const line of panel.lines) for (const y of line.y) if (y !== null) {
    if (y < low) low = y;
    if (y > high) high = y;
  }
  low = Math.min(low, ...(panel.limits || []));
  high = Math.max(high, ...(panel.limits || []));
  if (!(high >= low)) return [-1, 1];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}
function draw(holder) {
  const panel = data.panels[+holder.dataset.panel], svg = holder.querySelector("svg");
  const width = Math.max(240, holder.clientWidth);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("height", HEIGHT);
  const [low, high] = range(panel), right = width - PAD.right, bottom = HEIGHT - PAD.bottom;
  const X = (s) => PAD.left + (s / end) * (right - PAD.left);
  const Y = (v) => bottom - ((v - low) / (high - low)) * (bottom - PAD.top);
  const span = (from, to, more) => {
    const x = X(times[from]), stop = X(to > last ? end : times[to]);
    element("rect", { x, y: PAD.top, width: Math.max(2, stop - x),
      height: bottom - PAD.top, ...more }, svg);
  };
  data.goals.forEach((goal) => span(goal.start, goal.stop, { class: "goal",
    style: `--color: var(--c${goal.color})` }));
  for (const mark of data.marks) if (mark.panels.includes(panel.kind))
    span(mark.start, mark.stop, { class: "doubt", y: PAD.top - 5, height: 5 });
  const vertical = ticks(low, high, 4), across = ticks(0, end, width < 480 ? 4 : 8);
  for (const v of vertical.found) {
    element("line", { class: "grid", x1: PAD.left, x2: right, y1: Y(v), y2: Y(v) }, svg);
    const label = element("text", { x: PAD.left - 7, y: Y(v) + 4, "text-anchor": "end" }, svg);
    label.textContent = tick(v, vertical.digits);
  }
  for (const s of across.found) {
    const anchor = X(s) > right - 14 ? "end" : "middle";
    const label = element("text", { x: X(s), y: bottom + 16, "text-anchor": anchor }, svg);
    label.textContent = tick(s, across.digits);
  }
  element("text", { x: PAD.left - 7, y: 13, "text-anchor": "end" }, svg).textContent = panel.unit;
  element("text", { x: right, y: HEIGHT - 3, "text-anchor": "end" }, svg).textContent = "time (s)";
  for (const limit of panel.limits || [])
    element("line", { class: "limit", x1: PAD.left, x2: right, y1: Y(limit), y2: Y(limit) }, svg);
  const x = panel.x || times;
  panel.lines.forEach((line, color) => {
    let path = "", pen = "M";
    line.y.forEach((y, k) => {
      if (y === null) { pen = "M"; return; }
      path += `${pen}${X(x[k]).toFixed(1)} ${Y(y).toFixed(1)}`;
      pen = "L";
    });
    element("path", { class: "trace", d: path, style: `--color: var(--c${color})` }, svg);
  });
  const cursor = element("line", { class: "cursor", y1: PAD.top - 4, y2: bottom }, svg);
  const values = [...holder.querySelectorAll("b")];
  const at = (k) => {
    if (!panel.x) return k;
    return lastNotLater(x, times[k]);
  };
  const seek = (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * width;
    go(stepAt(((place - PAD.left) / (right - PAD.left)) * end));
  };
  svg.onpointerdown = (event) => { svg.setPointerCapture(event.pointerId); seek(event); };
  svg.onpointermove = (event) => { if (event.buttons) seek(event); };
  return (k) => {
    cursor.setAttribute("x1", X(times[k]));
    cursor.setAttribute("x2", X(times[k]));
    panel.lines.forEach((line, i) => { values[i].textContent = text(line.y[at(k)]); });
  };
}
function layout() {
  panels = [...document.querySelectorAll(".panel")].filter((p) => p.clientWidth).map(draw);
  panels.forEach((update) => update(step));
}
function show(k) {
  step = k;
  slider.value = k;
  readout.textContent = `${times[k].toFixed(2)} s \u00b7 step ${k} of ${last}`;
  document.querySelectorAll("[data-goal]").forEach((button) => {
    const goal = data.goals[+button.dataset.goal];
    button.setAttribute("aria-current", goal.start <= k && k < goal.stop);
  });
  panels.forEach((update) => update(k));
}
// A moment into the frame: exactly at its beginning, players may show the one before.
function go(k) {
  k = Math.min(last, Math.max(0, k));
  if (video) video.currentTime = times[k] + 1e-3;
  else started = performance.now() - times[k] * 1000 / speed;
  show(k);
}
let playing = false, speed = 1, started = 0;
function word() { play.textContent = (video ? !video.paused : playing) ? "Pause" : "Play"; }
function toggle() {
  if (step === last) go(0);
  if (video) { if (video.paused) video.play(); else video.pause(); return; }
  playing = !playing;
  started = performance.now() - times[step] * 1000 / speed;
  if (playing) requestAnimationFrame(run);
  word();
}
function run(now) {                  // an episode without cameras has its clock here
  if (!playing) return;
  const seconds = (now - started) / 1000 * speed;
  show(stepAt(seconds));
  if (seconds >= end) { playing = false; word(); } else requestAnimationFrame(run);
}
if (video) {
  video.onplay = video.onpause = video.onended = word;
  if (video.requestVideoFrameCallback) {
    const follow = (_, frame) => {
      show(stepAt(frame.mediaTime));
      video.requestVideoFrameCallback(follow);
    };
    video.requestVideoFrameCallback(follow);
  } else video.ontimeupdate = () => show(stepAt(video.currentTime));
  video.onclick = toggle;
}
play.onclick = toggle;
find("back").onclick = () => { if (video) video.pause(); go(step - 1); };
find("forth").onclick = () => { if (video) video.pause(); go(step + 1); };
find("speed").onchange = (event) => {
  speed = +event.target.value;
  if (video) video.playbackRate = speed;
  else started = performance.now() - times[step] * 1000 / speed;
};
slider.oninput = () => go(+slider.value);
document.querySelectorAll("[data-step]").forEach((button) => {
  button.onclick = () => go(+button.dataset.step);
});
document.querySelectorAll("details").forEach((part) => { part.ontoggle = layout; });
document.onkeydown = (event) => {
  if (event.target.matches("input, select, button, summary") && event.key === " ") return;
  if (event.target.matches("select, input")) return;
  if (event.key === " ") { event.preventDefault(); toggle(); }
  if (event.key === "ArrowLeft") find("back").onclick();
  if (event.key === "ArrowRight") find("forth").onclick();
};
let waiting = 0;
window.onresize = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(layout); };
layout();
show(0);
"""
