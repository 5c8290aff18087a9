// From a number to its sessions, their beacons and markers, and what they contribute in each layer.
import {h, count, duration, scroller, notice, time} from './ui.js';
import {ask, go} from './app.js';

const fields = ['session', 'experiment', 'scope', 'variation', 'metric', 'minute'];
const hints = {session: 'a session id, or leave it out', experiment: 'checkout_button', scope: 'fm, assigned or site', variation: 'red', metric: 'order.beta', minute: '2026-01-01T12:00:00Z'};

export const load = async (r, q) => ({found: q.get('session') || q.get('metric') ? await ask(`/${encodeURIComponent(r.tenant)}/page/explain?${q}`) : null, refresh: 3600e3});
export const title = () => 'Explain';

const table = (label, heads, rows) => h('div', {class: 'fit'}, scroller(label, h('table', null,
  h('thead', null, h('tr', null, heads.map((t) => h('th', {scope: 'col', class: t.startsWith('#') ? 'n' : null}, t.replace(/^#/, ''))))), h('tbody', null, rows))));
const exact = (ms) => h('time', {datetime: new Date(ms).toISOString(), title: new Date(ms).toISOString()}, new Date(ms).toLocaleString('en-GB'), `.${String(ms % 1000).padStart(3, '0')}`);
const minute = (m) => time(m * 60000);
const n = (v) => h('td', {class: 'n'}, v === undefined || v === null ? 'not known' : count(v));

function layers(d) {
  if (!d.layers?.length) return notice('', 'No layer has this.');
  return table('Layers', d.number ? ['Layer', '#Stored', '#Of its sessions', '#Sessions', 'To know'] : ['Layer', 'To know'], d.layers.map((l) => h('tr', null, h('th', {scope: 'row'}, l.layer),
    d.number ? [n(l.stored), n(l.sum), n(l.sessions)] : null,
    h('td', {class: 'wide'}, d.number && l.stored !== undefined && l.stored !== l.sum ? h('div', null, h('span', {class: l.open ? 'pill' : 'pill warn'}, l.open ? 'not to be compared yet' : 'they differ')) : null, (l.notes || []).map((t) => h('div', null, t))))));
}

function session(d, s, r, first) {
  const parts = (s.layers || []).map((l) => `${l.layer} ${count(l.sum)}`).join(', ');
  return h('details', {class: 'session', open: first, 'data-key': s.session}, h('summary', null, h('b', null, s.session), d.number ? h('span', {class: 'muted'}, ` ${parts}`) : null),
    d.session ? null : h('p', {class: 'small'}, h('a', {href: `/${encodeURIComponent(r.tenant)}/explain?${new URLSearchParams({session: s.session})}`}, 'All of this session')),
    h('h3', null, 'Beacons', s.earlier ? h('span', {class: 'muted'}, `, and ${count(s.earlier)} earlier ones`) : null),
    table(`Beacons of ${s.session}`, ['Time', 'Taken in', 'Point', 'Stream', 'Batch', 'Id', 'Payload'], (s.beacons || []).map((b) => h('tr', null, h('th', {scope: 'row', class: 'nowrap'}, exact(b.ts)),
      h('td', {class: 'nowrap'}, b.ingest - b.ts < 0 ? `${b.ingest - b.ts} ms` : `+${duration(b.ingest - b.ts)}`), h('td', null, b.point || h('span', {class: 'muted'}, 'none')), h('td', null, b.stream), h('td', null, b.batch),
      h('td', null, h('code', null, b.id)), h('td', null, h('details', null, h('summary', null, 'show'), h('code', {class: 'payload'}, b.payload)))))),
    (s.layers || []).map((l) => [h('h3', null, l.layer),
      l.markers?.length ? table(`Markers in ${l.layer}, ${s.session}`, ['Experiment', 'Variation', 'Assigned', 'Qualified'], l.markers.map((m) => h('tr', null, h('th', {scope: 'row'}, m.experiment), h('td', null, m.variation),
        h('td', {class: 'nowrap'}, exact(m.assigned)), h('td', {class: 'nowrap'}, m.qualified ? exact(m.qualified) : h('span', {class: 'muted'}, 'not yet'))))) : h('p', {class: 'muted small'}, 'No markers.'),
      l.contributions?.length ? h('details', {open: !!d.number}, h('summary', null, `Contributions (${l.contributions.length})`), table(`Contributions in ${l.layer}, ${s.session}`, ['Minute', 'Metric', 'Experiment', 'Variation', 'Tags', '#Adds'], l.contributions.slice(0, 1000).map((c) => h('tr', null,
        h('th', {scope: 'row', class: 'nowrap'}, c.at ? exact(c.at) : minute(c.minute)), h('td', null, c.metric), h('td', null, c.experiment || ''), h('td', null, c.variation || ''), h('td', null, c.tags || ''), n(c.value))))) : null]));
}

export function render(d, r) {
  const q = new URLSearchParams(location.search);
  const tags = [...q.keys()].filter((k) => k.startsWith('tag.')); // of a link here; what is emptied is left out
  return [
    h('div', {class: 'head'}, h('h1', null, 'Explain'), h('p', {class: 'facts'}, 'Where a number comes from: name a session, or a metric and its minute.')),
    h('form', {class: 'explain', onsubmit: (e) => {
      e.preventDefault();
      const next = new URLSearchParams([...new FormData(e.target)].filter(([, v]) => v.trim()));
      go(`${location.pathname}?${next}`);
    }}, [...fields, ...tags].map((f) => h('label', {for: `x-${f}`}, f.replace(/^tag\./, ''), h('input', {id: `x-${f}`, name: f, value: q.get(f) || '', placeholder: hints[f] || 'any', autocomplete: 'off', spellcheck: 'false'}))),
    h('button', {type: 'submit'}, 'Explain')),
    d.found ? [
      h('section', {'aria-labelledby': 'layers'}, h('h2', {id: 'layers'}, d.found.number ? [d.found.number.metric, ' at ', minute(d.found.number.minute)] : d.found.session),
        d.found.number ? h('p', {class: 'muted'}, [d.found.number.experiment, d.found.number.variation, ...Object.entries(d.found.number.tags || {}).map((t) => t.join('='))].filter(Boolean).join(', ') || 'the site') : h('p', {class: 'muted'}, minute(d.found.from), ' to ', minute(d.found.to)), layers(d.found)),
      h('section', {'aria-labelledby': 'sessions'}, h('h2', {id: 'sessions'}, 'Sessions', d.found.more ? h('span', {class: 'muted'}, `, and ${count(d.found.more)} more`) : null),
        d.found.sessions?.length ? d.found.sessions.map((s, i) => session(d.found, s, r, i === 0)) : notice('', 'No session has a part in it.'))] : notice('', 'Links on an experiment’s page lead here with all of it filled in.'),
  ];
}
