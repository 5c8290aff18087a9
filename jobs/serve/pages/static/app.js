// Which page is shown, how its data come, and how it stays up to date.
import {h, morph, notice} from './ui.js';
import {forget, forgetAll} from './charts.js';
import * as experiments from './experiments.js';
import * as experiment from './experiment.js';
import * as operations from './operations.js';
import * as explain from './explain.js';

const main = document.getElementById('main');
const live = document.getElementById('live');
let timer, shown = '', turn = 0;

export function token() { return sessionStorage.getItem('token'); }

// ask gets JSON. What is wrong is thrown, with the status and the server's words.
export async function ask(path, options = {}) {
  const headers = {Accept: 'application/json', ...options.headers};
  if (token()) headers.Authorization = `Bearer ${token()}`;
  let r;
  try {
    r = await fetch(path, {...options, headers});
  } catch {
    throw Object.assign(new Error('The server does not answer.'), {status: 0});
  }
  const body = await r.json().catch(() => null);
  if (!r.ok) throw Object.assign(new Error(body?.detail || body?.title || `The server answered ${r.status}.`), {status: r.status});
  return body;
}

const nowhere = {load: () => Promise.reject(Object.assign(new Error('There is no such page.'), {status: 404}))};

// route says which page a path is of.
function route(path) {
  let p;
  try {
    p = path.split('/').filter(Boolean).map(decodeURIComponent);
  } catch {
    return {page: nowhere, tenant: ''}; // no UTF-8
  }
  if (p.length === 0) return {page: tenants, tenant: ''};
  if (p.length === 1) return {page: experiments, tenant: p[0], nav: 'experiments'};
  if (p.length === 2 && p[1] === 'operations') return {page: operations, tenant: p[0], nav: 'operations'};
  if (p.length === 2 && p[1] === 'explain') return {page: explain, tenant: p[0], nav: 'explain'};
  if (p.length === 3 && p[1] === 'experiment') return {page: experiment, tenant: p[0], experiment: p[2], nav: 'experiments'};
  return {page: nowhere, tenant: p[0]};
}

const tenants = {
  load: () => ask('/'),
  title: () => 'Tenants',
  render: (data) => {
    if (data.tenants?.length === 1) { queueMicrotask(() => go(`/${encodeURIComponent(data.tenants[0])}`, true)); }
    return [h('h1', null, 'Tenants'), data.tenants?.length ? h('ul', {class: 'plain'}, data.tenants.map((t) => h('li', null, h('a', {href: `/${encodeURIComponent(t)}`}, t))))
      : notice('', 'No tenant is configured, or your token sees none.')];
  },
};

export function go(url, replace) {
  history[replace ? 'replaceState' : 'pushState'](null, '', url);
  show();
}

// param changes one parameter of the page's URL, which holds all that the page shows.
export function param(name, v) {
  const q = new URLSearchParams(location.search);
  if (v) q.set(name, v); else q.delete(name);
  const s = q.toString();
  return location.pathname + (s ? `?${s}` : '');
}

function navigation(r) {
  const t = encodeURIComponent(r.tenant);
  const links = r.tenant ? [['experiments', `/${t}`, 'Experiments'], ['operations', `/${t}/operations`, 'Operations'], ['explain', `/${t}/explain`, 'Explain']] : [];
  document.getElementById('nav').replaceChildren(...(r.tenant ? [h('span', {class: 'tenant'}, r.tenant)] : []),
    ...links.map(([id, href, text]) => h('a', {href, 'aria-current': r.nav === id ? 'page' : null}, text)));
}

// show loads the page of the URL. The old one stays until the new one is there.
export async function show(quiet) {
  clearTimeout(timer);
  const mine = ++turn, url = location.pathname + location.search;
  const r = route(location.pathname);
  const same = shown === location.pathname;
  if (!same) {
    navigation(r);
    main.replaceChildren(h('p', {class: 'loading', role: 'status'}, 'Loading …'));
  } else if (!quiet) main.setAttribute('aria-busy', 'true');
  let wait = 60000;
  try {
    const data = await r.page.load(r, new URLSearchParams(location.search));
    if (mine !== turn) return;
    const next = h('main', {id: 'main', tabindex: -1}, r.page.render(data, r));
    if (same && !main.querySelector('.fatal')) morph(main, next); else main.replaceChildren(...next.childNodes);
    main.removeAttribute('aria-busy');
    document.title = `${r.page.title(data, r)} · Tandem`;
    shown = location.pathname;
    forget();
    r.page.after?.(main, data, r);
    wait = data?.refresh || 60000;
    live.replaceChildren(h('span', {class: 'dot', 'aria-hidden': 'true'}), `Updated ${new Date().toLocaleTimeString('en-GB')}`);
    live.className = 'live';
    if (!same && !quiet) main.focus({preventScroll: true});
  } catch (err) {
    if (mine !== turn) return;
    main.removeAttribute('aria-busy');
    if (err.status === 401) { login(!!token()); return; }
    if (err.status === undefined) throw err;
    live.replaceChildren(h('span', {class: 'dot', 'aria-hidden': 'true'}), `Not updated: ${err.message}`);
    live.className = 'live stale';
    if (!same || err.status) {
      shown = '';
      forgetAll();
      main.replaceChildren(h('div', {class: 'fatal'}, h('h1', null, err.status === 404 ? 'Not found' : err.status === 403 ? 'Not allowed' : 'This page cannot be shown'),
        notice('error', err.message), h('p', null, h('button', {type: 'button', onclick: () => show()}, 'Try again'), ' ',
          token() ? h('button', {type: 'button', class: 'quiet', onclick: () => login()}, 'Sign in with another token') : null)));
      document.title = 'Error · Tandem';
    }
    wait = 10000;
  }
  timer = setTimeout(() => document.hidden ? (timer = null) : show(true), Math.max(wait, 1000));
}

// login asks for a token; refused: the server does not know the one that there is.
function login(refused) {
  clearTimeout(timer);
  turn++; // what is on its way would take the form away
  shown = '';
  const field = h('input', {id: 'token', type: 'password', autocomplete: 'current-password', required: true});
  main.replaceChildren(h('form', {class: 'login', onsubmit: (e) => { e.preventDefault(); sessionStorage.setItem('token', field.value.trim()); show(); }},
    h('h1', null, 'Sign in'), refused ? notice('error', 'This token is not valid here.') : null,
    h('label', {for: 'token'}, 'Access token'), field, h('button', {type: 'submit'}, 'Sign in'),
    h('p', {class: 'muted'}, 'It is kept for this tab only, and forgotten when the tab is closed.')));
  field.focus();
}

document.addEventListener('click', (e) => {
  const a = e.target.closest('a[href]');
  if (!a || e.button || e.metaKey || e.ctrlKey || e.shiftKey || a.target || a.hasAttribute('download')) return;
  const url = new URL(a.href);
  if (url.origin !== location.origin || (url.pathname === location.pathname && url.hash)) return;
  e.preventDefault();
  const other = url.pathname !== location.pathname;
  go(url.pathname + url.search);
  if (other) scrollTo(0, 0);
});
addEventListener('popstate', () => show());
document.addEventListener('visibilitychange', () => { if (!document.hidden && timer === null) show(true); });

const theme = document.getElementById('theme');
const dark = () => (document.documentElement.dataset.theme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
const label = () => { theme.textContent = dark() ? 'Light' : 'Dark'; theme.setAttribute('aria-label', `Change to ${dark() ? 'light' : 'dark'} colours`); };
const redraw = () => { label(); forgetAll(); if (shown) show(true); };
theme.onclick = () => { document.documentElement.dataset.theme = dark() ? 'light' : 'dark'; localStorage.setItem('theme', document.documentElement.dataset.theme); redraw(); };
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
label();
show();
