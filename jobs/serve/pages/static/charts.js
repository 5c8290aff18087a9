// Charts: uPlot for series over time, SVG for intervals and sparklines. Each chart has a table of the same numbers.
import {h, value, percent, local, utc, notice} from './ui.js';

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const colour = (i) => css(`--v${i % 6}`);

const live = new Map(); // key: the chart's key

// forget drops the charts that the page no longer has.
export function forget() {
  for (const [key, c] of live) {
    if (!c.box.isConnected) {
      c.plot.destroy();
      c.seen.disconnect();
      live.delete(key);
    }
  }
}

export function forgetAll() {
  for (const c of live.values()) { c.plot.destroy(); c.seen.disconnect(); c.box.replaceChildren(); }
  live.clear();
}

// frame is a chart's place on the page; draw fills it.
export function frame(spec) {
  const last = spec.lines.map((l) => {
    const at = l.values.findLastIndex((v) => v !== null);
    return at < 0 ? null : `${l.name} ${spec.text(l.values[at])}`;
  }).filter(Boolean);
  return h('figure', {class: 'chart', 'data-key': spec.key},
    h('figcaption', null, spec.link ? h('a', {href: spec.link}, spec.title) : spec.title, spec.note ? h('span', {class: 'muted'}, ` ${spec.note}`) : null),
    last.length === 0 ? notice('', 'Nothing has come in this time.') : null,
    h('div', {class: last.length ? 'plot' : 'plot none', 'data-keep': spec.key, role: 'img', 'aria-label': `${spec.title}: ${last.length ? `last values ${last.join(', ')}` : 'no data'}`}),
    h('div', {class: 'legend', 'aria-hidden': 'true'}, spec.lines.map((l) => h('span', null, h('i', {class: `swatch s${l.colour % 6}`}), l.name))),
    h('details', null, h('summary', null, spec.times.length > rows ? `Table of the last ${rows}` : 'Table'), h('div', {class: 'scroll short', tabindex: 0, role: 'group', 'aria-label': `${spec.title}, table`}, table(spec))));
}

const rows = 60; // of a chart's table

function table(spec) {
  const n = spec.times.length, from = Math.max(0, n - rows);
  const body = [];
  for (let i = n - 1; i >= from; i--) {
    const open = spec.provisional && spec.times[i] >= spec.provisional;
    body.push(h('tr', null, h('th', {scope: 'row', title: utc(spec.times[i] * 1000)}, local(spec.times[i] * 1000), open ? ' (provisional)' : ''),
      spec.lines.map((l) => h('td', {class: 'n'}, spec.text(l.values[i])))));
  }
  return h('table', null, h('thead', null, h('tr', null, h('th', {scope: 'col'}, 'Time'), spec.lines.map((l) => h('th', {scope: 'col', class: 'n'}, l.name)))), h('tbody', null, body));
}

// draw draws a chart, or gives new numbers to the one that stands.
export function draw(root, spec) {
  const box = root.querySelector(`[data-keep="${CSS.escape(spec.key)}"]`);
  if (!box) return;
  // What is provisional is a line of its own, dashed, that goes on from the last final point.
  const split = spec.provisional && (spec.kind !== 'bar' || spec.lines.length > 1);
  const cut = split ? spec.times.findIndex((t) => t >= spec.provisional) : -1;
  const data = [spec.times, ...spec.lines.flatMap((l) => l.low ? [l.values, l.high, l.low]
    : split ? [cut < 0 ? l.values : l.values.map((v, i) => i < cut ? v : null), l.values.map((v, i) => cut >= 0 && i >= cut - 1 ? v : null)] : [l.values])];
  const shape = JSON.stringify([spec.lines.map((l) => [l.name, !!l.low]), spec.kind, !!split]);
  let c = live.get(spec.key);
  if (c && (c.box !== box || c.shape !== shape)) {
    c.plot.destroy();
    c.seen.disconnect();
    c = null;
  }
  if (c) {
    c.spec = spec;
    c.plot.setData(data);
    return;
  }
  box.replaceChildren();
  c = {box, spec, shape};
  const series = [{}], bands = [];
  for (const l of spec.lines) {
    const stroke = colour(l.colour);
    series.push({label: l.name, stroke, width: 1.5, points: {show: false}, spanGaps: false,
      fill: spec.kind === 'area' ? `${stroke}22` : undefined, paths: spec.kind !== 'bar' ? undefined : spec.lines.length > 1 ? uPlot.paths.stepped({align: 1}) : uPlot.paths.bars({size: [0.8, 20]})});
    if (split) series.push({stroke, width: 1.5, dash: [3, 3], points: {show: false}, spanGaps: false, paths: spec.kind === 'bar' ? uPlot.paths.stepped({align: 1}) : undefined});
    if (l.low) {
      const at = series.length;
      series.push({stroke: `${stroke}55`, width: 1, points: {show: false}}, {stroke: `${stroke}55`, width: 1, points: {show: false}});
      bands.push({series: [at, at + 1], fill: `${stroke}22`});
    }
  }
  const axis = {stroke: css('--muted'), grid: {stroke: css('--line'), width: 1}, ticks: {stroke: css('--line'), width: 1, size: 4}, font: '11px system-ui, sans-serif'};
  const tip = h('div', {class: 'tip', hidden: true});
  c.plot = new uPlot({
    width: Math.max(box.clientWidth, 200), height: spec.tall ? 260 : 150, series, bands, legend: {show: false},
    cursor: {y: false, drag: {x: true, y: false}, sync: {key: 'page'}, points: {size: 5}},
    scales: {x: {time: true}, y: {range: (u, lo, hi) => {
      if (lo === null || hi === null) return [0, 1];
      if (spec.signed) { const m = reach(c.spec); return [-m, m]; }
      return [Math.min(0, lo), hi > 0 ? hi * 1.12 : 1];
    }}},
    axes: [{...axis, space: 70, size: 26, values: ticks}, {...axis, size: 60, space: 32, values: (u, v) => v.map((x) => c.spec.text(x).replace(/(\.\d*?)0+(?!\d)/, '$1').replace(/\.(?!\d)/, ''))}],
    hooks: {
      drawAxes: [(u) => shade(u, c.spec)],
      setCursor: [(u) => {
        const i = u.cursor.idx;
        if (i === null || i === undefined || u.cursor.left < 0) { tip.hidden = true; return; }
        const t = c.spec.times[i];
        const open = c.spec.provisional && t >= c.spec.provisional;
        tip.hidden = false;
        tip.replaceChildren(h('b', {title: utc(t * 1000)}, local(t * 1000)), h('span', {class: 'muted'}, ` ${utc(t * 1000).slice(11)}${open ? ', provisional' : ''}`),
          ...c.spec.lines.map((l) => h('div', null, h('i', {class: `swatch s${l.colour % 6}`}), `${l.name} ${c.spec.text(l.values[i])}`)));
        tip.classList.toggle('left', u.cursor.left > u.over.clientWidth / 2);
      }],
    },
  }, data, box);
  c.plot.over.append(tip);
  c.seen = new ResizeObserver(() => {
    const w = box.clientWidth;
    if (w && w !== c.plot.width) c.plot.setSize({width: w, height: c.plot.height});
  });
  c.seen.observe(box);
  live.set(spec.key, c);
}

const hm = new Intl.DateTimeFormat('en-GB', {hour: '2-digit', minute: '2-digit'});
const dm = new Intl.DateTimeFormat('en-GB', {day: 'numeric', month: 'short'});
function ticks(u, v, axis, space, step) { return v.map((t) => step >= 86400 || new Date(t * 1000).getHours() + new Date(t * 1000).getMinutes() === 0 ? dm.format(t * 1000) : hm.format(t * 1000)); }

// shade marks what is provisional; the zero line of a difference stands out.
function shade(u, spec) {
  const {ctx, bbox} = u;
  ctx.save();
  if (spec.signed) {
    const y = Math.round(u.valToPos(0, 'y', true));
    ctx.strokeStyle = css('--muted');
    ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
  }
  const x = edge(u, spec);
  if (x !== null) {
    ctx.fillStyle = css('--shade');
    ctx.fillRect(x, bbox.top, bbox.left + bbox.width - x, bbox.height);
    ctx.strokeStyle = css('--muted');
    ctx.setLineDash([3, 3]);
    ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
  }
  ctx.restore();
}

function edge(u, spec) {
  const t = spec.times;
  if (!spec.provisional || !t.length || t[t.length - 1] < spec.provisional) return null;
  const x = Math.round(u.valToPos(Math.max(spec.provisional, u.scales.x.min), 'x', true));
  return x < u.bbox.left + u.bbox.width ? Math.max(x, u.bbox.left) : null;
}

// reach is how far an axis of differences goes: as far as the later three quarters do, since intervals begin very wide.
function reach(spec) {
  const all = spec.lines.flatMap((l) => [l.low, l.high]).map((v) => v.filter((x) => x !== null)).flatMap((v) => v.slice(v.length >> 2));
  return Math.max(...all.map(Math.abs), 0) * 1.1 || 1;
}

// spark is the last hour's traffic, one bar a minute.
export function spark(values, label) {
  const top = Math.max(1, ...values), n = values.length;
  return h('svg', {class: 'spark', viewBox: `0 0 ${2 * n} 24`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label},
    h('path', {d: values.map((v, i) => v > 0 ? `M${2 * i + 1} 24V${24 - Math.max(1, 23 * v / top)}` : '').join('')}));
}

// bar is an interval around a difference, on the scale that all rows of a metric share.
export function bar(row, scale, good, format) {
  if (row.low === null) return h('span', {class: 'muted small'}, row.why || '–');
  const x = (v) => 100 + 96 * Math.max(-1, Math.min(1, v / scale));
  const side = row.low > 0 ? 1 : row.high < 0 ? -1 : 0;
  const kind = side === 0 || good === 'none' || !good ? 'even' : (side > 0) === (good === 'up') ? 'better' : 'worse';
  const text = (v) => row.relative ? percent(v, 1) : value(v, format);
  return h('svg', {class: `interval ${kind}`, viewBox: '0 0 200 18', role: 'img', 'aria-label': `from ${text(row.low)} to ${text(row.high)}`},
    h('title', null, `95 % at any look: ${text(row.low)} to ${text(row.high)}`),
    h('line', {class: 'zero', x1: 100, x2: 100, y1: 0, y2: 18}),
    h('rect', {x: x(row.low), y: 5, width: Math.max(1, x(row.high) - x(row.low)), height: 8, rx: 2}),
    h('line', {class: 'mid', x1: x(row.diff), x2: x(row.diff), y1: 2, y2: 16}));
}
