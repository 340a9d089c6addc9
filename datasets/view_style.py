"""The style sheet of an episode's page: light and dark, 400 px and wide.

Next: `view_page.py`.
"""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1c2328; --muted: #59646d; --line: #dedad0;
  --accent: #1d5f8a; --second: #a4500c; --good: #1c6b41; --bad: #a8281f;
  --c0: #1d5f8a; --c1: #b8560b; --c2: #1c7a4a; --c3: #8441a3; --c4: #b3261e; --c5: #0b7d87;
  --c6: #8a6d00; --c7: #a8437c; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14181b; --card: #1b2024; --ink: #e7eaec; --muted: #a1adb6; --line: #343c43;
  --accent: #7fbce6; --second: #e8a765; --good: #79c99b; --bad: #f0948b;
  --c0: #7fbce6; --c1: #e8a765; --c2: #79c99b; --c3: #c99be2; --c4: #f0948b; --c5: #6fcdd6;
  --c6: #d9c25e; --c7: #ec9cc6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: break-word; }
main { max-width: 1320px; margin: 0 auto; padding: 40px 40px 72px; }
h1, h2 { font-family: "Iowan Old Style", Charter, Georgia, "Liberation Serif", serif;
  font-weight: 500; }
h1 { font-size: 38px; line-height: 1.2; letter-spacing: -0.01em; margin: 0 0 10px;
  max-width: 24em; }
h2 { font-size: 24px; line-height: 1.25; margin: 44px 0 6px; padding-top: 18px;
  border-top: 1px solid var(--line); }
p { margin: 0 0 10px; max-width: 70ch; }
.place { color: var(--muted); margin: 0 0 18px; overflow-wrap: anywhere; }
.lead { font-size: 17px; }
.muted { color: var(--muted); } .small { font-size: 14px; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--second); }
.columns { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1.15fr); gap: 44px;
  align-items: start; margin-top: 26px; }
.player { position: sticky; top: 20px; }
.plots > section:first-child h2 { margin-top: 0; border-top: 0; padding-top: 0; }
.film { position: relative; line-height: 0; }
video { width: 100%; display: block; border-radius: 4px; background: #000; }
video.small { image-rendering: pixelated; }
.film span { position: absolute; font-size: 12.5px; line-height: 1; color: #fff; padding: 4px 7px;
  margin: 6px; border-radius: 3px; background: rgb(0 0 0 / .6); pointer-events: none; }
.controls { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; margin: 12px 0 4px; }
button, select { font: inherit; font-size: 15px; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: 5px; padding: 4px 11px; min-height: 36px; }
button { cursor: pointer; } button:hover { border-color: var(--accent); }
#play { min-width: 82px; color: var(--paper); background: var(--accent);
  border-color: var(--accent); }
.controls output { margin-left: auto; font-variant-numeric: tabular-nums; font-size: 15px;
  text-align: right; }
input[type=range] { width: 100%; margin: 6px 0 2px; accent-color: var(--accent); }
.goals { position: relative; height: 8px; margin: 4px 0 0; border-radius: 4px; overflow: hidden;
  background: var(--line); }
.goals i { position: absolute; top: 0; bottom: 0; }
.goal-list { list-style: none; padding: 0; margin: 10px 0 0; display: flex; flex-wrap: wrap;
  gap: 4px 18px; }
.goal-list button, .findings button { border: 0; background: none; padding: 2px 0; min-height: 0;
  text-align: left; }
.goal-list button::before { content: ""; display: inline-block; width: 11px; height: 11px;
  border-radius: 2px; margin-right: 8px; background: var(--color); }
.goal-list button[aria-current=true] { font-weight: 650; }
.findings { list-style: none; padding: 0; margin: 8px 0; }
.findings li { border-left: 3px solid var(--line); padding: 1px 0 1px 12px; margin: 0 0 10px;
  font-size: 15px; line-height: 1.5; }
.findings li.error { border-color: var(--bad); }
.findings li.warning { border-color: var(--second); }
.findings button { color: var(--accent); font-size: 15px; text-decoration: underline; }
.panel { margin: 10px 0 18px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 14px; line-height: 1.5;
  font-variant-numeric: tabular-nums; min-height: 21px; }
.legend span::before { content: ""; display: inline-block; width: 16px; margin-right: 6px;
  vertical-align: middle; border-top: 3px solid var(--color); }
.legend b { font-weight: 500; color: var(--muted); display: inline-block; min-width: 58px; }
svg { display: block; width: 100%; touch-action: pan-y; cursor: crosshair; }
svg text { font: 12.5px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  fill: var(--muted); font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); } svg .limit { stroke: var(--muted); stroke-dasharray: 2 4; }
svg .trace { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke: var(--color); }
svg .goal { fill: var(--color); opacity: .1; }
svg .doubt { fill: var(--bad); }
svg .cursor { stroke: var(--ink); stroke-width: 1.2; }
details { margin: 12px 0; } summary { cursor: pointer; padding: 6px 0; }
h3 { font-size: 15px; margin: 20px 0 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: 400; font-size: 15px; }
th { color: var(--muted); width: 34%; } td { overflow-wrap: anywhere; }
.tables { display: grid; grid-template-columns: 1fr 1fr; gap: 0 44px; align-items: start; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 980px) {
  main { padding: 26px 20px 48px; }
  .columns, .tables { grid-template-columns: minmax(0, 1fr); gap: 8px; }
  .player { position: static; }
  .plots > section:first-child h2 { margin-top: 30px; border-top: 1px solid var(--line);
    padding-top: 16px; }
}
@media (max-width: 560px) { h1 { font-size: 28px; } h2 { font-size: 22px; margin-top: 34px; } }
@media print { .player { position: static; } h2 { break-after: avoid; }
  .panel { break-inside: avoid; } }
"""
