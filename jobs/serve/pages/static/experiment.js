// One experiment: its traffic, what its metrics prove, and how they go over time. All that is chosen stands in the URL.
import {h, count, percent, value, change, probability, time, pill, scroller, notice, troubles} from './ui.js';
import {frame, draw, bar} from './charts.js';
import {ask, go, param} from './app.js';

export const load = (r, q) => ask(`/${encodeURIComponent(r.tenant)}/page/experiment/${encodeURIComponent(r.experiment)}?${q}`);
export const title = (d) => d.experiment;

const spans = {'1h': 'hour', '6h': '6 hours', '24h': '24 hours', '7d': '7 days', all: 'all'};

function choose(d) {
  const q = new URLSearchParams(location.search);
  const select = (id, name, text, options, now) => h('label', {for: id}, text, ' ',
    h('select', {id, onchange: (e) => go(param(name, e.target.value))}, options.map(([v, t]) => h('option', {value: v, selected: v === now}, t))));
  return h('div', {class: 'choose', role: 'group', 'aria-label': 'Filters'},
    select('scope', 'scope', 'Sessions', [['fm', 'that qualified'], ['assigned', 'that were assigned']], d.scope),
    Object.entries(d.tags).sort().map(([tag, values]) => select(`tag-${tag}`, `tag.${tag}`, tag, [['', 'any'], ...values.map((v) => [v, v])], q.get(`tag.${tag}`) || '')),
    h('span', {class: 'segments', role: 'group', 'aria-label': 'Time of the charts'}, Object.entries(spans).map(([v, t]) =>
      h('a', {href: param('range', v), 'aria-current': v === d.range ? 'true' : null}, t))),
    select('step', 'step', 'per', [['', 'as fits'], ['1', 'minute'], ['5', '5 minutes'], ['30', '30 minutes'], ['60', 'hour'], ['1440', 'day']], d.step ? String(d.step) : ''),
    h('button', {type: 'button', class: 'quiet', onclick: async (e) => {
      const b = e.currentTarget;
      await navigator.clipboard.writeText(location.href).then(() => { b.textContent = 'Link copied'; }, () => { b.textContent = 'Copy the address above'; });
    }}, 'Copy link'));
}

function traffic(d) {
  const all = d.variations.reduce((a, v) => a + v.sessions, 0);
  const srm = d.splitP < 0.001 ? ['bad', 'Sample ratio mismatch'] : d.splitP < 0.01 ? ['warn', 'Watch the split'] : ['good', 'As intended'];
  return h('section', {'aria-labelledby': 'traffic'}, h('h2', {id: 'traffic'}, 'Traffic'),
    scroller('Traffic by variation', h('table', null,
      h('thead', null, h('tr', null, h('th', {scope: 'col'}, 'Variation'), h('th', {scope: 'col', class: 'n'}, 'Sessions'), h('th', {scope: 'col', class: 'n'}, 'Share'), h('th', {scope: 'col', class: 'n'}, 'Intended'), h('th', {scope: 'col'}, 'Share against intended'))),
      h('tbody', null, d.variations.map((v, i) => {
        const share = all ? v.sessions / all : 0;
        return h('tr', null, h('th', {scope: 'row'}, h('i', {class: `swatch s${i % 6}`}), v.name, v.control ? h('span', {class: 'muted'}, ' control') : null),
          h('td', {class: 'n'}, count(v.sessions)), h('td', {class: 'n'}, percent(share, 2)), h('td', {class: 'n'}, percent(v.share, 2)),
          h('td', null, h('svg', {class: 'share', viewBox: '0 0 200 14', preserveAspectRatio: 'none', 'aria-hidden': 'true'},
            h('rect', {class: 'track', x: 0, y: 3, width: 200, height: 8}), h('rect', {class: `f${i % 6}`, x: 0, y: 3, width: 200 * share, height: 8}),
            h('line', {class: 'zero', x1: 200 * v.share, x2: 200 * v.share, y1: 0, y2: 14}))));
      })))),
    all === 0 ? null : h('p', {class: 'small'}, h('span', {class: `pill ${srm[0]}`}, srm[1]), ` p ${probability(d.splitP)} at any look`,
      d.splitP < 0.01 ? '. Check, in this order: assignment, redirects and crashes before the first beacon, bots, the start of the analysis, late logs.' : ''));
}

const states = {confirmed: 'confirmed', signal: 'signal', waiting: 'waiting', '': 'no difference shown'};
const roles = ['primary', 'guardrail', 'secondary', '', 'diagnostic', 'health'];

function metrics(d) {
  const rows = [...d.metrics].sort((a, b) => roles.indexOf(a.role) - roles.indexOf(b.role));
  const drill = new URLSearchParams(location.search).get('drill');
  return h('section', {'aria-labelledby': 'metrics'}, h('h2', {id: 'metrics'}, 'Metrics'),
    h('p', {class: 'muted small'}, 'Since the start, up to the last closed minute. Intervals hold at every look (95 %).'),
    d.splitP < 0.001 ? notice('warn', 'The traffic is not split as intended: who is in which variation may explain these differences.') : null,
    rows.length === 0 ? notice('', 'No formula is configured for experiments.') : rows.every((m) => !m.rows.length) ? notice('', d.variations.length < 2 ? 'One variation alone has nothing to be compared with.' : 'Nothing has come yet.') : scroller('Metrics', h('table', {class: 'metrics'},
      h('thead', null, h('tr', null, ['Metric', 'Control', 'Variation', 'Value', 'Difference', 'Interval', 'Evidence'].map((t, i) => h('th', {scope: 'col', class: i === 1 || i === 3 || i === 4 ? 'n' : null}, t)))),
      h('tbody', null, rows.flatMap((m) => {
        const scale = Math.max(...m.rows.flatMap((r) => [Math.abs(r.low || 0), Math.abs(r.high || 0)]), 1e-9);
        return m.rows.map((r, i) => h('tr', {class: [i ? 'more' : '', m.id === drill ? 'chosen' : ''].join(' ').trim() || null},
          i ? null : h('th', {scope: 'rowgroup', rowspan: m.rows.length}, h('a', {href: param('drill', m.id === drill ? '' : m.id), title: m.description || null}, m.title || m.id),
            m.role ? h('div', {class: 'muted small'}, m.role) : null),
          i ? null : h('td', {class: 'n', rowspan: m.rows.length}, value(m.baseline, m.format)),
          h('td', null, r.variation), h('td', {class: 'n'}, value(r.value, m.format)),
          h('td', {class: 'n'}, change(r.diff, r.relative, m.format)),
          h('td', null, bar(r, scale, m.good, m.format)),
          h('td', {class: 'nowrap'}, r.failing ? h('span', {class: 'pill bad'}, 'failing') : r.low === null ? h('span', {class: 'muted'}, r.state === 'waiting' ? 'waiting' : '–')
            : h('span', {title: `p ${probability(r.p)} at any look`, class: r.state ? null : 'muted'}, states[r.state]))));
      })))));
}

function lines(d, id) {
  return (d.chart.series[id] || []).map((l) => ({name: l.variation, values: l.values, colour: d.variations.findIndex((v) => v.name === l.variation)}));
}

// specs are the charts of the page: sessions, then each formula of the repository.
function specs(d) {
  const drill = new URLSearchParams(location.search).get('drill');
  const step = d.chart.step / 60;
  const note = step === 1 ? 'per minute' : step < 60 ? `per ${step} minutes` : step === 60 ? 'per hour' : step === 1440 ? 'per day (UTC)' : `per ${step / 60} hours`;
  const base = {times: d.chart.times, provisional: d.chart.provisional, note};
  const out = [{...base, key: 'sessions', title: 'Sessions', lines: lines(d, ''), text: (n) => count(n), kind: 'line'}];
  for (const m of d.metrics) {
    out.push({...base, key: `m-${m.id}`, title: m.title || m.id, lines: lines(d, m.id), text: (n) => value(n, m.format), kind: m.chart || 'line', link: param('drill', m.id), id: m.id});
  }
  if (drill && d.lift) {
    const m = d.metrics.find((x) => x.id === drill);
    out.push({key: `lift-${drill}`, title: `${m.title || m.id}: difference from the control so far`, times: d.lift.times, signed: true, tall: true, kind: 'line', lift: true,
      text: (n) => percent(n, 1), lines: d.lift.series.map((s) => ({name: s.variation, values: s.diff, low: s.low, high: s.high, colour: d.variations.findIndex((v) => v.name === s.variation)}))});
  }
  return out;
}

function drilled(d, all, r) {
  const drill = new URLSearchParams(location.search).get('drill');
  const m = d.metrics.find((x) => x.id === drill);
  if (!m) return null;
  const lift = all.find((s) => s.lift);
  const known = lift?.lines.some((l) => l.values.some((v) => v !== null));
  const one = all.find((s) => s.id === drill);
  const chosen = [...new URLSearchParams(location.search)].filter(([k]) => k.startsWith('tag.'));
  const from = (variation, metric) => `/${encodeURIComponent(r.tenant)}/explain?${new URLSearchParams([['experiment', d.experiment], ['scope', d.scope], ['variation', variation], ['metric', metric], ['minute', new Date(d.last).toISOString()], ...chosen])}`;
  return h('section', {class: 'drill', 'aria-labelledby': 'drill'}, h('h2', {id: 'drill'}, m.title || m.id, ' ', h('a', {class: 'small', href: param('drill', '')}, 'close')),
    m.description ? h('p', null, m.description) : null,
    h('p', {class: 'small muted'}, h('code', null, m.expr), m.owner ? ` · owner ${m.owner}` : '', m.good === 'up' ? ' · more is better' : m.good === 'down' ? ' · less is better' : ''),
    m.note ? h('p', {class: 'small'}, m.note) : null,
    known ? frame(lift) : notice('', m.rows[0]?.why || 'There is no interval yet.'),
    frame({...one, key: `big-${one.id}`, tall: true, link: null}),
    d.last ? h('p', {class: 'small from'}, 'Where the last closed minute comes from: ', d.variations.map((v, i) => [i ? '; ' : '', v.name, ' ',
      m.names.map((n, j) => [j ? ', ' : '', h('a', {href: from(v.name, n)}, n)])])) : null);
}

export function render(d, r) {
  const all = specs(d);
  return [
    troubles(d.trouble),
    h('div', {class: 'head'}, h('h1', null, d.experiment, ' ', pill(d.status)),
      d.why.length ? h('ul', {class: 'why'}, d.why.map((w) => h('li', null, w))) : null,
      h('dl', {class: 'strip'},
        [['Started', d.start ? time(d.start) : 'no start given'], ['Ends', d.end ? time(d.end) : 'open'], ['Sessions', count(d.variations.reduce((a, v) => a + v.sessions, 0))],
          ['Split', `p ${probability(d.splitP)}`], ['Closed up to', time(d.closed)], ['Batch up to', time(d.covered)], ['Stream', d.layer || '–']].map(([k, v]) => h('div', null, h('dt', null, k), h('dd', null, v))))),
    choose(d), h('div', {class: 'top'}, traffic(d)), metrics(d), drilled(d, all, r),
    h('section', {'aria-labelledby': 'charts'}, h('h2', {id: 'charts'}, 'Over time'),
      h('p', {class: 'muted small'}, 'Shaded and dashed: minutes that are not closed, whose values still grow. The batch, where it comes later, adds late beacons to closed ones.'),
      h('div', {class: 'grid'}, all.filter((s) => !s.lift).map((s) => frame(s)))),
    h('details', {class: 'config'}, h('summary', null, 'Config as text'),
      h('pre', {tabindex: 0, role: 'group', 'aria-label': 'Config'}, d.config)),
  ];
}

export function after(root, d) {
  const drill = new URLSearchParams(location.search).get('drill');
  for (const s of specs(d)) {
    draw(root, s);
    if (s.id && s.id === drill) draw(root, {...s, key: `big-${s.id}`, tall: true});
  }
}
