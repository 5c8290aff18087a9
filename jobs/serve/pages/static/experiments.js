// All experiments of a tenant, with their health.
import {h, count, percent, change, time, pill, scroller, notice, troubles, probability} from './ui.js';
import {spark} from './charts.js';
import {ask} from './app.js';

export const load = (r) => ask(`/${encodeURIComponent(r.tenant)}/page/experiments`);
export const title = (_, r) => `Experiments of ${r.tenant}`;

const order = ['SRM', 'guardrail failing', 'unhealthy', 'no data', 'running', 'planned', 'ended'];

const most = 4; // signals of an experiment that are named

const signals = (list) => [list.slice(0, most).map((t) => h('div', null, `${t.formula}, ${t.variation}: `, h('b', null, change(t.diff, t.relative)), h('span', {class: 'muted'}, ` ${t.state}`))),
  list.length > most ? h('div', {class: 'muted'}, `and ${list.length - most} more`) : null];

export function render(data, r) {
  const list = [...data.experiments].sort((a, b) => order.indexOf(a.status) - order.indexOf(b.status) || a.name.localeCompare(b.name));
  const wrong = list.filter((x) => order.indexOf(x.status) < 4).length;
  return [
    troubles(data.trouble),
    h('div', {class: 'head'}, h('h1', null, 'Experiments'),
      h('p', {class: 'facts'}, `${list.length} in all, ${wrong ? `${wrong} to look at` : 'all well'}. Closed up to `, time(data.closed), ', batch up to ', time(data.covered), '.')),
    list.length === 0 ? notice('', 'No experiment is configured. Add one under ', h('code', null, 'experiments:'), ' in the tenant’s config, and apply it with ', h('code', null, 'tandem config apply'), '.')
      : scroller('Experiments', h('table', {class: 'list'},
        h('thead', null, h('tr', null, ['Experiment', 'Status', 'Traffic, last hour', 'Sessions', 'Split', 'What stands out'].map((t, i) => h('th', {scope: 'col', class: i === 3 ? 'n' : null}, t)))),
        h('tbody', null, list.map((x) => h('tr', {'data-key': x.name},
          h('th', {scope: 'row'}, h('a', {href: `/${encodeURIComponent(r.tenant)}/experiment/${encodeURIComponent(x.name)}`}, x.name),
            h('div', {class: 'muted small'}, x.variations.map((v) => v.name).join(', '))),
          h('td', null, pill(x.status)),
          h('td', null, spark(x.spark, `${count(x.spark.reduce((a, b) => a + b, 0))} sessions in the last hour`)),
          h('td', {class: 'n'}, count(x.sessions)),
          h('td', {class: 'nowrap'}, x.variations.map((v) => x.sessions ? percent(v.sessions / x.sessions, 1) : '–').join(' / '), h('div', {class: 'muted small'}, `p ${probability(x.splitP)}`)),
          h('td', {class: 'wide'}, x.why.map((w) => h('div', null, w)),
            signals(x.tests.filter((t) => !t.failing)),
            !x.why.length && !x.tests.length ? h('span', {class: 'muted'}, 'nothing') : null)))))),
    h('p', {class: 'muted small'}, 'A signal holds at every look (95 %). It is confirmed when it also stands among all tests of the tenant that run, of which at most 5 % are false.'),
  ];
}
