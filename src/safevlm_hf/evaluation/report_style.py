"""The report's style sheet: system fonts, one column, nothing to load."""

STYLE = """
:root { --ink: #1f2933; --muted: #66727f; --line: #e4e7eb; --soft: #f6f7f9; --good: #2f8f5b; --bad: #c2394b; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 28px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 20px; margin: 52px 0 4px; }
h3 { font-size: 15px; margin: 22px 0 8px; }
p { margin: 4px 0 14px; max-width: 76ch; }
.lead { font-size: 18px; }
.note, figcaption, small { color: var(--muted); font-size: 13px; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 10px 24px;
  margin: 24px 0 0; padding: 16px 20px; background: var(--soft); border-radius: 10px; }
dl.facts dt { color: var(--muted); font-size: 12px; }
dl.facts dd { margin: 0; overflow-wrap: anywhere;
  font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 13px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.figures { width: 100%; }
table.figures th, table.figures td { padding: 9px 12px; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
table.figures th:first-child { padding-left: 0; }
table.figures thead th { color: var(--muted); font-size: 13px; font-weight: 600; }
table.figures tbody th { font-weight: 600; }
table.figures th small, table.figures td small { display: block; font-weight: 400; }
table.figures td small { padding-left: 1.4em; }
table.figures td { white-space: nowrap; }
table.figures td.target { color: var(--muted); font-size: 13px; }
table.figures tr.chosen > * { background: #e6eff9; }
table.figures tr.chosen th:first-child { padding-left: 8px; }
.scroll { overflow-x: auto; }
.good { color: var(--good); } .bad { color: var(--bad); }
.mark { display: inline-block; width: 1.2em; font-weight: 700; }
.bars { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 22px 36px; margin-top: 14px; }
.bars h3 { margin: 0 0 6px; }
.bar { display: grid; grid-template-columns: 112px 1fr 44px; gap: 8px; align-items: center; font-size: 13px; }
.bar span:first-child { color: var(--muted); }
.track { display: block; height: 13px; margin: 3px 0; background: var(--soft); border-radius: 3px; overflow: hidden; }
.track i { display: block; height: 100%; }
.side { display: flex; flex-wrap: wrap; gap: 20px 56px; align-items: flex-start; }
figure { margin: 0; }
.side figure { flex: 0 1 auto; }
.side figure:has(svg) { flex-basis: 442px; }
table.matrix td, table.matrix th { padding: 0; text-align: center; font-size: 12px; font-weight: 400; }
table.matrix td { min-width: 66px; height: 40px; border: 2px solid #fff; border-radius: 4px; }
table.matrix thead th { color: var(--muted); padding: 0 3px 6px; vertical-align: bottom; line-height: 1.2;
  max-width: 66px; }
table.matrix tbody th { text-align: right; padding-right: 10px; white-space: nowrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 16px; }
.card { display: flex; gap: 14px; padding: 12px; border: 1px solid var(--line); border-radius: 10px; }
.card img, .card .text-only { flex: none; width: 128px; align-self: flex-start; border-radius: 6px; }
.card .text-only { padding: 40px 8px; background: var(--soft); color: var(--muted); font-size: 12px;
  text-align: center; }
.card > div { min-width: 0; flex: 1; overflow-wrap: anywhere; }
.card .question { font-weight: 600; margin: 0 0 4px; }
.card .question + .why, .card .why { margin: 0 0 4px; color: var(--bad); font-size: 13px; }
.said { margin: 4px 0 0; font-size: 14px; line-height: 1.4; }
.said b { display: block; font-weight: 400; font-size: 11px; color: var(--muted); }
.half + .half { margin-top: 12px; padding-top: 10px; border-top: 1px solid var(--line); }
.chip { display: inline-block; padding: 1px 9px; border-radius: 99px; color: #fff; font-size: 12px; }
.label { margin-left: 6px; color: var(--muted); font-size: 12px; }
.aside { flex: 1; min-width: 260px; max-width: 420px; padding-top: 12px; }
.aside dt { margin-top: 14px; color: var(--muted); font-size: 13px; }
.aside dd { margin: 0; font-size: 22px; font-variant-numeric: tabular-nums; }
@media (max-width: 520px) { .cards { grid-template-columns: 1fr; } .card img { width: 96px; } }
@media print { .card { break-inside: avoid; } }
"""
