"""The style sheet of the page: light and dark, for screens of any width and for print.

The colours of curves are those of Okabe and Ito, which colour-blind people can distinguish. In the
dark, they are brighter.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1c2330; --muted: #5b6575; --line: #dfe3ea;
  --accent: #0072b2; --accent-soft: #e6f1f8; --warn: #8a5300; --warn-soft: #fff4dc;
  --heat: 0, 114, 178;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b8528f; --c4: #c48a00; --c5: #3d8fc4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161d; --card: #1b212b; --text: #e7ebf2; --muted: #a0a9b8; --line: #303846;
    --accent: #6cb8ea; --accent-soft: #1c3345; --warn: #f3c15f; --warn-soft: #3a2e14;
    --heat: 56, 140, 200;
    --c0: #5cb3ee; --c1: #ff8a4c; --c2: #35c99b; --c3: #e292c0; --c4: #f0bf3f; --c5: #a5d3f0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 56px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 12px; }
h3 { font-size: .95rem; margin: 0 0 6px; overflow-wrap: anywhere; }
p { margin: 0 0 10px; overflow-wrap: anywhere; }
p:last-child { margin-bottom: 0; }
.muted, figcaption, .note { color: var(--muted); font-size: .875rem; }
header { margin-bottom: 20px; }
section, .verdict, .warnings {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 20px; margin-bottom: 16px;
}
.verdict { background: var(--accent-soft); border-color: transparent; }
.verdict .first { font-size: 1.2rem; line-height: 1.4; font-weight: 600; overflow-wrap: anywhere; }
.warnings { background: var(--warn-soft); border-color: transparent; }
.warnings h2 { color: var(--warn); font-size: 1rem; margin-bottom: 6px; }
.warnings ul { margin: 0; padding-left: 20px; overflow-wrap: anywhere; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
.tile b { display: block; font-size: 1.3rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .85rem; }
section .tiles { margin-bottom: 12px; }
section .tiles:last-child { margin-bottom: 0; }
.scroll { overflow-x: auto; margin-bottom: 10px; }
.scroll:last-child { margin-bottom: 0; }
table { border-collapse: collapse; font-size: .9rem; min-width: 100%; }
th, td { padding: 6px 10px; text-align: left; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { color: var(--muted); font-size: .8rem; white-space: nowrap; }
tbody th { white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
td.short { white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
tr.best > * { background: var(--accent-soft); }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); }
.grid > * { min-width: 0; }
figure { margin: 0; }
figure img { width: 100%; height: auto; border-radius: 6px; background: #fff; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--muted); font-size: 11px; }
svg text.label { fill: var(--text); font-size: 12px; }
svg .axis { stroke: var(--line); stroke-width: 1; }
svg .series { fill: none; stroke-width: 2; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .875rem; margin-bottom: 12px; }
.legend span { display: inline-flex; align-items: center; gap: 7px; overflow-wrap: anywhere; }
.legend svg { width: 28px; flex: none; }
.confusion table { min-width: 0; font-size: .72rem; }
.confusion th, .confusion td { border: 0; padding: 4px; font-weight: 500; }
.confusion td { text-align: center; min-width: 29px; }
.confusion td.strong { color: #fff; }
.confusion span {
  display: inline-block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
}
.confusion tbody span { max-width: 110px; vertical-align: middle; }
.confusion thead th { vertical-align: bottom; text-align: center; font-size: .72rem; }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 96px; }
h3, .scroll + details, .grid + details { margin-top: 16px; }
figure h3, section > h3:first-of-type { margin-top: 0; }
.tiles + .grid { margin-top: 4px; }
figure.rows { margin-bottom: 16px; }
figure.rows svg { overflow: visible; }
.grid + .grid, .note + .grid { margin-top: 18px; }
.note { margin: 8px 0 0; }
details summary { cursor: pointer; color: var(--accent); }
details[open] summary { margin-bottom: 10px; }
pre {
  background: var(--page); border: 1px solid var(--line); border-radius: 6px; margin: 0 0 10px;
  padding: 10px 12px; overflow-x: auto; font-size: .85rem;
}
footer { color: var(--muted); font-size: .8rem; overflow-wrap: anywhere; }
@media (max-width: 600px) {
  main { padding: 20px 12px 40px; }
  section, .verdict, .warnings { padding: 14px; }
  h1 { font-size: 1.4rem; }
  .verdict .first { font-size: 1.08rem; }
  .grid, .grid.wide { grid-template-columns: 1fr; }
  table { font-size: .8rem; }
  th, td { padding: 5px 6px; }
  .confusion table, .confusion thead th { font-size: .62rem; }
  .confusion th, .confusion td { padding: 3px 1px; }
  .confusion td { min-width: 20px; }
  .confusion tbody span { max-width: 76px; }
}
@media print {
  :root {
    color-scheme: light;
    --page: #fff; --card: #fff; --text: #000; --muted: #444; --line: #bbb;
    --accent: #0072b2; --accent-soft: #eef5fa; --warn: #7a4a00; --warn-soft: #fdf6e6;
    --heat: 0, 114, 178;
    --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b8528f; --c4: #c48a00; --c5: #3d8fc4;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  figure, tr, .verdict, .warnings, .tiles { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .grid, .grid.wide { grid-template-columns: 1fr 1fr; }
  .confusion table, .confusion thead th { font-size: 6pt; }
  .confusion th, .confusion td { padding: 2px; min-width: 0; }
  .confusion tbody span { max-width: 70px; }
  .scroll, pre { overflow: visible; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  table { font-size: 8pt; }
  th, td { padding: 3px 5px; }
}
"""
