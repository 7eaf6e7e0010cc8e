"""How the report looks: a style sheet, inlined so that the report is one file."""

STYLE = """\
:root { --ink: #1d2733; --faint: #66738a; --line: #e6eaf0; --paper: #ffffff; --ground: #f5f7fa; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header { margin-bottom: 28px; }
header p { color: var(--faint); margin: 4px 0 0; }
h1 { font-size: 32px; line-height: 1.2; margin: 4px 0; letter-spacing: -0.02em; }
h2 { font-size: 19px; margin: 0 0 4px; letter-spacing: -0.01em; }
h3 { font-size: 15px; margin: 20px 0 6px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 14px; padding: 24px 28px;
  margin-bottom: 20px; overflow-x: auto; box-shadow: 0 1px 2px rgba(29, 39, 51, 0.04); }
.kicker { font-size: 12px; letter-spacing: 0.08em; text-transform: uppercase; color: var(--faint); margin: 0; }
.note { color: var(--faint); font-size: 13px; margin: 2px 0 12px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 16px; margin: 14px 0 18px; }
.card { border: 1px solid var(--line); border-top: 4px solid var(--hue); border-radius: 10px; padding: 14px 18px; }
.card .big { font-size: 44px; font-weight: 650; line-height: 1.1; margin: 4px 0; letter-spacing: -0.03em; }
.card .big small { font-size: 22px; font-weight: 500; color: var(--faint); margin-left: 2px; }
.card .sub { color: var(--faint); font-size: 13px; margin: 0; display: flex; flex-wrap: wrap; gap: 2px 14px; }
.card .sub b { color: var(--ink); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th { text-align: left; font-weight: 600; font-size: 12.5px; color: var(--faint); }
th, td { padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
tbody tr:last-child td { border-bottom: 0; }
.n { text-align: right; padding-right: 0; padding-left: 12px; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 8px;
  background: var(--hue); }
.bar { display: inline-block; width: 110px; height: 8px; border-radius: 4px; margin-right: 10px; vertical-align: 1px;
  background: linear-gradient(to right, var(--hue) var(--part), #edf0f5 var(--part)); }
.percent { display: inline-block; min-width: 42px; }
.scroll { max-height: 560px; overflow: auto; }
.scroll th { position: sticky; top: 0; background: var(--paper); }
.classes td.n { white-space: nowrap; }
.about td:first-child { white-space: nowrap; color: var(--faint); width: 150px; vertical-align: top; }
.about + .about { margin-top: 22px; }
code { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { color: var(--faint); font-size: 13px; margin-top: 6px; }
img { max-width: 100%; height: auto; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr)); gap: 28px;
  margin-top: 12px; }
.matrix { display: grid; grid-template-columns: minmax(0, 3fr) minmax(240px, 2fr); gap: 32px; align-items: start; }
.matrix h3 { margin-top: 8px; }
.alone { max-width: 640px; }
details { border-top: 1px solid var(--line); margin-top: 14px; padding-top: 12px; }
summary { cursor: pointer; font-size: 14px; }
article { border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; margin: 12px 0; }
.words { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 12px; margin-bottom: 10px; font-size: 14px; }
.words code { color: var(--faint); }
.words ol { display: flex; flex-wrap: wrap; gap: 4px 8px; list-style: none; margin: 0 0 0 auto; padding: 0;
  font-size: 13px; }
.words li { background: #f1f3f7; border-radius: 6px; padding: 2px 9px; color: var(--faint);
  font-variant-numeric: tabular-nums; }
.words li.own { background: #e2f3ec; color: #17644c; }
.pill { font-size: 12px; font-weight: 600; border-radius: 999px; padding: 2px 10px; }
.pill.right { background: #e2f3ec; color: #17644c; }
.pill.wrong { background: #fdeae6; color: #a33a22; }
@media (max-width: 760px) { .matrix, .pair { grid-template-columns: 1fr; } }
@media print { section { break-inside: avoid; box-shadow: none; } .scroll { max-height: none; overflow: visible; } }
"""
