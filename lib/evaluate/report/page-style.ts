/** Style of the report page. Two palettes of the same few roles; everything else is shared. */
export const pageStyle: string = `
:root {
  color-scheme: light dark;
  --ground: #fbfbfa; --panel: #ffffff; --ink: #1d2025; --soft: #5c636e; --line: #e2e3e1; --fill: #eff0ee;
  --accent: #2b5f9e; --good: #23744a; --near: #8a6200; --bad: #b03434; --mark: #e08a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14161a; --panel: #1b1e23; --ink: #e4e6ea; --soft: #9aa2ad; --line: #30343b; --fill: #262a31;
    --accent: #85b4ea; --good: #69c795; --near: #e0b755; --bad: #ef8585; --mark: #ffb347;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 80px; }
h1 { font-size: 24px; line-height: 1.25; font-weight: 650; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; font-weight: 650; margin: 44px 0 12px; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 10px; }
p { margin: 0 0 10px; max-width: 78ch; }
.soft, .facts dt { color: var(--soft); }
.small { font-size: 13px; }
.facts { display: flex; flex-wrap: wrap; gap: 2px 22px; margin: 8px 0 0; font-size: 13px; }
.facts div { display: flex; gap: 6px; min-width: 0; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 10px; margin: 22px 0 0; }
.card, .panel { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.card b { display: block; font-size: 24px; font-weight: 620; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { display: block; color: var(--soft); font-size: 12.5px; line-height: 1.35; margin-top: 2px; }
.card.main { border-color: var(--accent); }
.card.main b { color: var(--accent); }
.notice { border-left: 3px solid var(--near); padding: 2px 0 2px 12px; margin: 16px 0 0; font-size: 14px; }
.notice li { overflow-wrap: anywhere; }
.notice ul { margin: 4px 0; padding-left: 18px; }
.scroll { overflow-x: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: 12.5px; }
th:first-child, td:first-child { text-align: left; }
tbody th { font-weight: 400; }
tr.own th, tr.own td { font-weight: 650; background: var(--fill); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 14px; }
.bars { display: grid; grid-template-columns: minmax(90px, max-content) 1fr max-content; gap: 7px 10px; align-items: center; font-size: 13px; }
.bars > :first-child, .bars .name { overflow-wrap: anywhere; }
.bar { position: relative; height: 13px; background: var(--fill); border-radius: 3px; overflow: hidden; }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--accent); opacity: .35; }
.bar i + i { opacity: 1; }
.bars .value { font-variant-numeric: tabular-nums; color: var(--soft); text-align: right; }
.legend { font-size: 12.5px; color: var(--soft); margin: 10px 0 0; }
.confusion td { text-align: center; min-width: 46px; }
.confusion .hit { font-weight: 650; }
.confusion th:first-child { text-align: left; }
.histogram { display: flex; align-items: flex-end; gap: 8px; height: 132px; }
.histogram div { flex: 1; display: flex; flex-direction: column; justify-content: flex-end; height: 100%; text-align: center; font-size: 11.5px; color: var(--soft); }
.histogram .pair { flex: 1; flex-direction: row; align-items: flex-end; justify-content: center; gap: 2px; display: flex; }
.histogram i { display: block; width: 42%; max-width: 22px; min-height: 1px; background: var(--accent); border-radius: 2px 2px 0 0; }
.histogram i + i { background: var(--soft); opacity: .45; }
.controls { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: 8px; padding: 10px 0; background: var(--ground); border-bottom: 1px solid var(--line); }
.controls input, .controls select, button { font: inherit; font-size: 14px; color: var(--ink); background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 6px 10px; max-width: 100%; }
.controls input { flex: 1 1 220px; min-width: 0; }
.controls select { flex: 0 1 auto; }
.controls output { align-self: center; color: var(--soft); font-size: 13px; white-space: nowrap; }
:is(input, select, button, .view, .question):focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
button { cursor: pointer; }
button:disabled { opacity: .45; cursor: default; }
.pager { display: flex; gap: 10px; align-items: center; justify-content: center; margin: 24px 0 0; font-size: 13px; color: var(--soft); }
.frame { margin: 18px 0 0; padding: 14px; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
.frame h3 { font-size: 13px; font-weight: 500; color: var(--soft); overflow-wrap: anywhere; }
.views { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; }
.views.single { grid-template-columns: minmax(0, 520px); }
.view { position: relative; padding: 0; border: 0; border-radius: 4px; overflow: hidden; background: var(--fill); display: block; width: 100%; }
.view img, .large img { display: block; width: 100%; height: 100%; object-fit: fill; }
.view svg, .large svg { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.view .camera { position: absolute; left: 0; top: 0; padding: 1px 6px; font-size: 11px; color: #fff; background: rgb(0 0 0 / .55); border-radius: 0 0 4px 0; }
.view .missing { position: absolute; inset: 0; display: grid; place-items: center; color: var(--soft); font-size: 12px; }
svg rect { fill: none; stroke: #35c6ff; stroke-width: 2; vector-effect: non-scaling-stroke; }
svg circle { fill: none; stroke-width: 3; vector-effect: non-scaling-stroke; }
svg rect:is(.answer, .reference, .asked) { stroke-width: 3; }
svg .answer { stroke: #ffa31a; } svg .reference { stroke: #4be08a; } svg .asked { stroke: #ff5ad1; }
.objects { margin: 8px 0 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12.5px; color: var(--soft); }
.question { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 4fr) minmax(0, 4fr); gap: 2px 18px; padding: 9px 6px; margin: 0 -6px; border-top: 1px solid var(--line); border-radius: 4px; cursor: pointer; }
.questions { margin: 12px 0 0; }
.question:hover, .question[aria-pressed=true] { background: var(--fill); }
.question .head { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 0 12px; font-size: 12.5px; color: var(--soft); }
.question p { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; max-height: 30em; overflow-y: auto; }
.question .label { display: block; font-size: 11.5px; color: var(--soft); }
.question code { font-size: .86em; color: var(--accent); overflow-wrap: anywhere; }
.verdict { font-weight: 620; }
.verdict.right { color: var(--good); } .verdict.close { color: var(--near); } .verdict.wrong { color: var(--bad); }
dialog { border: 1px solid var(--line); border-radius: 8px; padding: 10px; width: min(96vw, 1300px); max-width: none; background: var(--panel); color: var(--ink); }
dialog::backdrop { background: rgb(0 0 0 / .6); }
.large { position: relative; }
dialog form { display: flex; justify-content: space-between; align-items: center; margin: 0 0 8px; font-size: 13px; }
@media (max-width: 700px) {
  main { padding: 18px 12px 60px; }
  .controls { position: static; }
  .controls input { flex-basis: 100%; }
  .controls select { flex: 1 1 40%; }
  .question { grid-template-columns: minmax(0, 1fr); gap: 6px; }
  .frame { padding: 10px; }
  .views { gap: 2px; }
  .view .camera { font-size: 9px; padding: 0 3px; }
  .published th:first-child { position: sticky; left: 0; background: var(--panel); white-space: normal; min-width: 132px; }
  .published tr.own th:first-child { background: var(--fill); }
}
@media print { .controls, .pager { display: none; } }
`
