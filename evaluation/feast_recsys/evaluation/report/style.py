"""The style sheet of the report."""

CSS = """
:root { --paper: #fbfaf7; --card: #fff; --ink: #1d2128; --soft: #667085; --rule: #e6e3dc; --grid: #eeebe4;
  --track: #f0ede6;
  --c0: #3454d1; --c1: #e07a3f; --c2: #2a9d8f; --c3: #b4458f; --c4: #8a8f98; --c5: #c9a227; --c6: #5aa9e6;
  --c7: #7d5ba6; --c8: #6f8f2f;
  --grey: #c9c6bf; --whisker: #1d2128; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --card: #1c1f25; --ink: #eceef2; --soft: #9aa3b2;
  --rule: #2c3038; --grid: #272b33; --track: #262a32; --c0: #7d97ff; --c1: #f29a63; --c2: #4cc3b3; --c3: #dd7fbe;
  --c4: #8d95a3; --c5: #e0bd4f; --c6: #7cc0f3; --c7: #a98bd0; --c8: #a5c463; --grey: #444a55; --whisker: #eceef2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 48px 20px 64px; }
header p.kind { color: var(--soft); margin: 0; font-size: .9rem; letter-spacing: .04em; text-transform: uppercase; }
h1 { font-size: clamp(1.7rem, 4.5vw, 2.7rem); line-height: 1.15; letter-spacing: -.02em; margin: .25em 0 .35em;
  max-width: 24em; text-wrap: balance; }
h2 { font-size: 1.15rem; letter-spacing: -.01em; margin: 0 0 .2em; }
p.lead { max-width: 46em; color: var(--soft); font-size: 1.08rem; margin: 0 0 1.4em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 28px; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 14px 16px; }
.tile b { display: block; font-size: 1.6rem; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .86rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 20px; }
figure, section.wide { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 14px;
  padding: 20px 22px; min-width: 0; }
section.wide { margin-bottom: 20px; }
.grid figure:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .grid figure:last-child:nth-child(odd) svg { max-width: 760px; margin: 0 auto; }
figcaption, section.wide p { color: var(--soft); font-size: .92rem; margin: 0 0 14px; max-width: 52em; }
svg { display: block; width: 100%; height: auto; overflow: visible; font-family: inherit; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 12px; padding: 0; list-style: none;
  font-size: .86rem; }
.legend li::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 3px;
  margin-right: .45em;
  background: var(--k); vertical-align: -.05em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 500; }
tr.ours td { font-weight: 650; }
td small { color: var(--soft); font-weight: 400; display: block; font-size: .78rem; }
footer { color: var(--soft); font-size: .86rem; margin-top: 28px; max-width: 60em; }
text { fill: var(--ink); font-size: 14px; } .tick { fill: var(--soft); font-size: 13px; } .name { fill: var(--soft); }
.value { font-variant-numeric: tabular-nums; } .strong { font-weight: 650; }
line.grid { stroke: var(--grid); } .axis { stroke: var(--soft); opacity: .6; }
.diagonal { stroke: var(--soft); stroke-dasharray: 3 5; } .whisker { stroke: var(--whisker); stroke-width: 1.4;
  opacity: .65; }
.track { fill: var(--track); } path { fill: none; stroke-width: 2; stroke-linejoin: round; }
  path.first { stroke-width: 3.4; }
.dot { opacity: .78; } .dot:hover, .fill:hover { opacity: 1; stroke: var(--ink); stroke-width: 1.5; }
.grey { fill: var(--grey); }
@media (max-width: 620px) { main { padding: 28px 12px 40px; } figure, section.wide { padding: 16px 14px; }
  text { font-size: 19px; } .tick { font-size: 17px; } }
"""

CSS += "".join(
    f".c{n}.fill, .c{n}.dot {{ fill: var(--c{n}); }} .c{n}.stroke {{ stroke: var(--c{n}); }}\n" for n in range(9)
)
