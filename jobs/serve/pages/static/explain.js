// From a number to its sessions, their beacons and markers, and what they contribute in each layer.
import {h, scroller, notice, time} from './ui.js';
import {ask, go} from './app.js';

const fields = ['session', 'experiment', 'scope', 'variation', 'metric', 'minute'];
const hints = {session: 'a session id, or leave it out', experiment: 'checkout_button', scope: 'fm, assigned or site', variation: 'red', metric: 'order.beta', minute: '2026-01-01T12:00:00Z'};

export const load = async (r, q) => ({found: q.get('session') || q.get('metric') ? await ask(`/${encodeURIComponent(r.tenant)}/page/explain?${q}`) : null, refresh: 3600e3});
export const title = () => 'Explain';

// tree shows any answer: lists of objects as tables, objects as lists of terms.
function tree(v, name, depth = 0) {
  if (v === null || v === undefined) return h('span', {class: 'muted'}, '–');
  if (typeof v === 'number' && /(^|_)(ts|at|time|minute|from|to|ingest|began|start|end)(_ms)?$/i.test(name) && v > 1e11) return time(v);
  if (typeof v !== 'object') return String(v);
  if (Array.isArray(v)) {
    if (!v.length) return h('span', {class: 'muted'}, 'none');
    if (typeof v[0] !== 'object' || v[0] === null) return v.join(', ');
    const heads = [...new Set(v.flatMap((x) => Object.keys(x)))];
    return scroller(name, h('table', null, h('thead', null, h('tr', null, heads.map((t) => h('th', {scope: 'col'}, words(t))))),
      h('tbody', null, v.slice(0, 500).map((x) => h('tr', null, heads.map((t) => h('td', {class: typeof x[t] === 'number' ? 'n' : null}, tree(x[t], t, depth + 1))))))));
  }
  const entries = Object.entries(v);
  const flat = entries.filter(([, x]) => typeof x !== 'object' || x === null), deep = entries.filter(([, x]) => typeof x === 'object' && x !== null);
  return [flat.length ? h('dl', {class: 'strip'}, flat.map(([k, x]) => h('div', null, h('dt', null, words(k)), h('dd', null, tree(x, k))))) : null,
    deep.map(([k, x]) => [h(depth ? 'h3' : 'h2', null, words(k)), tree(x, k, depth + 1)])];
}

const words = (s) => s.replace(/([a-z])([A-Z])/g, '$1 $2').replaceAll('_', ' ').toLowerCase();

export function render(d, r) {
  const q = new URLSearchParams(location.search);
  return [
    h('div', {class: 'head'}, h('h1', null, 'Explain'), h('p', {class: 'facts'}, 'Where a number comes from: name a session, or a metric and its minute.')),
    h('form', {class: 'explain', onsubmit: (e) => {
      e.preventDefault();
      const next = new URLSearchParams([...new FormData(e.target)].filter(([, v]) => v.trim()));
      go(`${location.pathname}?${next}`);
    }}, fields.map((f) => h('label', {for: `x-${f}`}, f, h('input', {id: `x-${f}`, name: f, value: q.get(f) || '', placeholder: hints[f], autocomplete: 'off', spellcheck: 'false'}))),
    h('button', {type: 'submit'}, 'Explain')),
    d.found ? tree(d.found, r.tenant) : notice('', 'Links on an experiment’s page lead here with all of it filled in.'),
  ];
}
