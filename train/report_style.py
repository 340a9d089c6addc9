"""The report's style sheet: light and dark, 400 px and wide. Contrast of text is 4.5 to 1 or more.

Next: `train/report.py` (the page).
"""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1c2328; --muted: #59646d; --line: #dedad0;
  --accent: #1d5f8a; --second: #a4500c; --good: #1c6b41; --bad: #a8281f; --tint: 29 95 138;
  --violet: #6b3fa0; --teal: #0f6e75; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14181b; --card: #1b2024; --ink: #e7eaec; --muted: #a1adb6; --line: #343c43;
  --accent: #7fbce6; --second: #e8a765; --good: #79c99b; --bad: #f0948b; --tint: 127 188 230;
  --violet: #c3a6ee; --teal: #76cdd3; } }
.s0 { --series: var(--accent); } .s1 { --series: var(--second); } .s2 { --series: var(--good); }
.s3 { --series: var(--violet); } .s4 { --series: var(--teal); } .s5 { --series: var(--bad); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: break-word; }
figcaption, pre, .facts td, .missing { overflow-wrap: anywhere; }
main { max-width: 800px; margin: 0 auto; padding: 56px 40px 72px; }
h1, h2, .figure { font-family: "Iowan Old Style", Charter, Georgia, "Liberation Serif", serif;
  font-weight: 500; }
h1 { font-size: 19px; margin: 0 0 28px; color: var(--muted); }
h2 { font-size: 26px; line-height: 1.25; margin: 72px 0 10px; padding-top: 20px;
  border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 30px 0 8px; }
p { margin: 0 0 14px; max-width: 66ch; }
.figure { font-size: 88px; line-height: 1; letter-spacing: -0.02em; margin: 0 0 10px; }
.lead { font-size: 19px; line-height: 1.55; }
.muted, figcaption { color: var(--muted); }
.small { font-size: 14px; margin-top: 8px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.missing { border-left: 3px solid var(--second); padding: 2px 0 2px 14px; color: var(--second); }
figure { margin: 18px 0 8px; }
figcaption { font-size: 14px; line-height: 1.5; margin-top: 8px; max-width: 70ch; }
svg { width: 100%; height: auto; display: block; }
svg.narrow { display: none; }
svg text { font: 12.5px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  fill: var(--muted); font-variant-numeric: tabular-nums; }
svg text.strong { fill: var(--ink); font-size: 14px; }
svg text.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--muted); }
svg .mark { stroke: var(--second); stroke-dasharray: 3 3; }
svg .bar { fill: var(--accent); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .raw { stroke: var(--accent); stroke-width: 1; opacity: .3; }
svg .train { stroke: var(--accent); } svg .line.held { stroke: var(--second); }
svg circle.held { fill: var(--second); } svg circle.train { fill: var(--accent); }
svg .interval { stroke: var(--accent); stroke-width: 6; stroke-linecap: round; opacity: .4; }
svg .rate { fill: var(--accent); }
svg .series { stroke: var(--series); } svg .dot { fill: var(--series); }
svg .interval.s1 { stroke: var(--second); }
svg .whisker { stroke-width: 2; opacity: .45; }
svg .s1.line { stroke-dasharray: 7 3; } svg .s2.line { stroke-dasharray: 2 3; }
svg .s3.line { stroke-dasharray: 9 3 2 3; } svg .s4.line { stroke-dasharray: 4 4; }
svg .frontier { stroke: var(--bad); stroke-dasharray: 4 3; }
svg .trace { stroke: var(--accent); stroke-width: 1.4; }
.key::before { content: ""; display: inline-block; width: 18px; height: 0; margin-right: 6px;
  vertical-align: middle; border-top: 3px solid var(--accent); }
.key.held::before { border-color: var(--second); }
.key.series::before { border-color: var(--series); }
.key.frontier::before { border-top: 3px dashed var(--bad); }
.key { margin-right: 18px; white-space: nowrap; }
.versus .key { white-space: normal; display: inline-block; }
.stages { display: flex; height: 18px; gap: 2px; margin: 14px 0 12px; border-radius: 3px;
  overflow: hidden; }
.stages i { background: rgb(var(--tint) / var(--weight)); min-width: 2px; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin-right: 9px; background: rgb(var(--tint) / var(--weight)); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: 14px; color: var(--muted); padding-bottom: 6px; }
th, td { text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: 400; }
thead th { color: var(--muted); font-size: 14px; }
td.number, th.number { text-align: right; padding-right: 4px; }
table + p, table + h3 + p { margin-top: 18px; }
.facts th { color: var(--muted); width: 42%; font-size: 15px; }
.facts td { font-size: 15px; }
.confusion td { text-align: center; padding: 8px 4px;
  background: rgb(var(--tint) / calc(var(--share) * .32)); border: 2px solid var(--paper); }
.confusion td.match { font-weight: 650; }
.confusion thead th { text-align: center; padding: 7px 6px; }
.confusion { font-size: 15px; }
.confusion thead th:first-child { text-align: left; padding-left: 0; }
.scroll { overflow-x: auto; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 32px; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(216px, 1fr));
  gap: 22px 16px; margin-top: 14px; }
.films figure { margin: 0; }
.plotted { display: grid; gap: 26px; margin-top: 14px; } .plotted figure { margin: 0; }
.beside { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 16px;
  align-items: center; }
.versus-films { align-items: start; } .versus-films .beside { grid-template-columns: 1fr; }
.versus-films figure { margin: 0; } .side { margin: 0 0 4px; }
.verdict { font-size: 64px; } ul { padding-left: 20px; margin: 12px 0; max-width: 66ch; }
li { margin-bottom: 6px; }
video { width: 100%; display: block; border-radius: 4px; background: #000; }
.films figcaption { color: var(--ink); }
code, pre { font: 13.5px/1.7 ui-monospace, "SF Mono", Menlo, "Liberation Mono", monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 5px;
  padding: 12px 14px; margin: 6px 0 16px; white-space: pre-wrap; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 640px) {
  main { padding: 30px 20px 48px; }
  .figure { font-size: 64px; } .verdict { font-size: 44px; }
  .beside { grid-template-columns: 1fr; }
  h2 { margin-top: 52px; font-size: 23px; }
  .lead { font-size: 17px; }
  svg.wide { display: none; } svg.narrow { display: block; }
  .pair { grid-template-columns: 1fr; gap: 8px; }
  .facts th { width: 46%; }
  .delays th:nth-child(3), .delays td:nth-child(3) { display: none; }
  .rates { font-size: 14px; } .rates td:nth-child(3) { white-space: nowrap; }
  .differences td:nth-child(3) { white-space: normal; }
  .differences th:nth-child(2), .differences td:nth-child(2) { display: none; }
}
@media print { h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""
