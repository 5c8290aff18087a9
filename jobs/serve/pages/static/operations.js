// How the pipeline is doing.
import {h, count, time, duration, scroller, notice, percent} from './ui.js';
import {ask, show} from './app.js';

export const load = (r) => ask(`/${encodeURIComponent(r.tenant)}/page/operations`);
export const title = () => 'Operations';

const table = (label, heads, rows, empty) => rows.length ? scroller(label, h('table', null,
  h('thead', null, h('tr', null, heads.map((t) => h('th', {scope: 'col', class: t.startsWith('#') ? 'n' : null}, t.replace(/^#/, ''))))), h('tbody', null, rows))) : notice('', empty);
const section = (id, name, ...content) => h('section', {'aria-labelledby': id}, h('h2', {id}, name), ...content);
const n = (v) => h('td', {class: 'n'}, v);

function promote(d, r, layer) {
  if (!d.mayPromote || layer.active) return null;
  return h('button', {type: 'button', class: 'quiet', onclick: () => {
    const dialog = h('dialog', {'aria-labelledby': 'sure'}, h('h2', {id: 'sure'}, `Promote ${layer.name}?`),
      h('p', null, `Readers of ${r.tenant} will see this layer with their next request. It is complete up to `, time(layer.complete), '. This is written to the audit log.'),
      h('p', {class: 'outcome', role: 'status'}),
      h('div', {class: 'buttons'}, h('button', {type: 'button', onclick: () => { dialog.close(); dialog.remove(); }}, 'Cancel'),
        h('button', {type: 'button', class: 'danger', onclick: async (e) => {
          e.currentTarget.disabled = true;
          const button = e.currentTarget;
          try {
            await ask(`/${encodeURIComponent(r.tenant)}/page/promote`, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({layer: layer.name})});
            dialog.close();
            dialog.remove();
            show(true);
          } catch (err) {
            dialog.querySelector('.outcome').textContent = err.message;
            button.disabled = false;
          }
        }}, 'Promote')));
    document.body.append(dialog);
    dialog.showModal();
  }}, 'Promote …');
}

const phases = ['poll', 'decode', 'fold', 'publish', 'write', 'checkpoint'];

export function render(d, r) {
  const seen = [...new Set(d.ticks.flatMap((t) => Object.keys(t.seconds)))].sort((a, b) => (phases.indexOf(a) + 99) % 99 - (phases.indexOf(b) + 99) % 99);
  const longest = Math.max(...d.ticks.map((t) => Object.values(t.seconds).reduce((a, b) => a + b, 0)), 1e-9);
  const c = d.coverage;
  return [
    h('div', {class: 'head'}, h('h1', null, 'Operations')),
    d.missing.length ? notice('warn', d.missing.map((m) => h('div', null, m))) : null,
    section('layers', 'Data centres', table('Layers', ['Layer', 'Readers', '#Complete up to', '#Behind', 'Waits for', 'Change'], d.layers.map((l) => h('tr', {'data-key': l.name},
      h('th', {scope: 'row'}, l.name), h('td', null, l.active ? h('span', {class: 'pill good'}, 'active') : h('span', {class: 'muted'}, 'standing by')),
      n(time(l.complete)), n(l.complete ? duration(d.now - l.complete) : '–'), h('td', null, l.heldBy || h('span', {class: 'muted'}, '–')), h('td', null, promote(d, r, l)))), 'No layer has told anything yet.')),
    section('services', 'Services', table('Services', ['Service', 'Kind', 'State', '#Lag', '#Behind', 'Reason'], d.services.map((s) => h('tr', {'data-key': s.name},
      h('th', {scope: 'row'}, s.name), h('td', null, s.kind || '–'), h('td', null, s.ready ? h('span', {class: 'pill good'}, 'ready') : h('span', {class: 'pill bad'}, 'not ready')),
      n(s.lag < 0 ? '–' : count(s.lag)), n(s.lag < 0 ? '–' : duration(s.behind)), h('td', {class: 'wide'}, s.reason || ''))), 'No service is known here: name their addresses with serve --services.')),
    section('coverage', 'Batch', h('dl', {class: 'strip'}, [['Covered up to', time(c.before)], ['Behind', c.before ? duration(d.now - c.before) : '–'], ['Sessions that may count on both sides of that', count(c.twice)], ['Late beacons waiting', count(c.waiting)],
      ['In windows', count(c.waitingIn)], ['Waiting since', c.since ? time(c.since) : '–'], ['Due', c.due ? time(c.due) : '–']].map(([k, v]) => h('div', null, h('dt', null, k), h('dd', null, v)))),
    h('h3', null, 'Runs'), table('Batch runs', ['Plan', 'Began', '#Took', '#Plan', '#Map', '#Reduce', 'Windows', '#Beacons', '#Sessions', '#Late', '#Conflicts', 'Slowest range'], d.runs.map((x) => h('tr', {'data-key': x.generation},
      h('th', {scope: 'row'}, x.generation), h('td', {class: 'nowrap'}, time(x.began)), n(duration(x.took)), n(duration(x.plan)), n(duration(x.map)), n(duration(x.reduce)),
      h('td', {class: 'nowrap'}, x.windows, ' from ', time(x.first)), n(count(x.beacons)), n(count(x.sessions)), n(count(x.late)), n(count(x.conflicts)), h('td', {class: 'nowrap'}, x.slowest || '–'))), 'No batch has run yet.'),
    h('details', null, h('summary', null, `Windows (${c.windows.length})`), table('Windows', ['Window', '#Generation', '#Beacons', '#Late', '#Conflicts', 'State'], c.windows.map((w) => h('tr', {'data-key': w.from},
      h('th', {scope: 'row'}, time(w.from)), n(w.generation), n(count(w.records)), n(count(w.late)), n(count(w.conflicts)), h('td', null, w.approximate ? 'approximate' : ''))), 'No window is covered yet.'))),
    section('drift', 'Drift', h('p', {class: 'muted small'}, 'The stream against the batch, over the windows that both have. Late beacons are the difference.'),
      table('Drift', ['Metric', '#Stream', '#Batch', '#Difference'], d.drift.map((x) => h('tr', {'data-key': x.metric}, h('th', {scope: 'row'}, x.metric), n(count(x.stream)), n(count(x.batch)),
        n(x.batch ? percent((x.stream - x.batch) / x.batch, 3) : '–'))), 'Nothing to compare yet.')),
    section('ticks', 'Last ticks', table('Ticks', ['End', 'Stage', 'Watermark', '#Rows', '#Took', 'By phase'], d.ticks.map((t) => {
      const all = Object.values(t.seconds).reduce((a, b) => a + b, 0);
      let x = 0;
      return h('tr', null, h('th', {scope: 'row', class: 'nowrap'}, time(t.at)), h('td', {class: 'nowrap'}, `${t.stage} ${t.partition}`), h('td', {class: 'nowrap'}, time(t.watermark)), n(count(t.rows)), n(duration(all * 1000)),
        h('td', null, h('svg', {class: 'phases', viewBox: '0 0 300 12', preserveAspectRatio: 'none', role: 'img', 'aria-label': seen.map((p) => `${p} ${duration((t.seconds[p] || 0) * 1000)}`).join(', ')},
          seen.map((p, i) => {
            const w = 300 * (t.seconds[p] || 0) / longest, at = x;
            x += w;
            return h('rect', {class: `f${i % 6}`, x: at, y: 0, width: w, height: 12}, h('title', null, `${p} ${duration((t.seconds[p] || 0) * 1000)}`));
          }))));
    }), 'No tick has been told yet.'), h('div', {class: 'legend'}, seen.map((p, i) => h('span', null, h('i', {class: `swatch s${i % 6}`}), p)))),
  ];
}
