// Building and updating the DOM, and the forms of numbers and times.

// h makes an element: h('td', {class: 'n'}, 'text', child, [more]). A prop on... is a listener; null and false are left out.
export function h(tag, props, ...children) {
  const svg = ['svg', 'g', 'rect', 'line', 'path', 'circle', 'title', 'polyline'].includes(tag);
  const e = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(props || {})) {
    if (v === null || v === undefined || v === false) continue;
    if (k.startsWith('on')) e[k] = v;
    else e.setAttribute(k, v === true ? '' : v);
  }
  for (const c of children.flat(9)) {
    if (c === null || c === undefined || c === false) continue;
    e.append(c.nodeType ? c : String(c));
  }
  return e;
}

// morph makes an element like another, touching only what differs: focus, scroll positions and charts stay. What has the
// attribute data-keep belongs to others; open details stay open.
export function morph(old, next) {
  if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName || old.dataset?.key !== next.dataset?.key) {
    old.replaceWith(next);
    return;
  }
  if (old.nodeType === 3) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const a of [...old.attributes]) {
    if (!next.hasAttribute(a.name) && !(old.nodeName === 'DETAILS' && a.name === 'open')) old.removeAttribute(a.name);
  }
  for (const a of next.attributes) {
    if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
  }
  for (const k of ['onclick', 'onchange', 'onsubmit', 'ontoggle']) old[k] = next[k];
  if (old.nodeName === 'SELECT' && old !== document.activeElement) queueMicrotask(() => { old.value = next.value; });
  if (old.dataset.keep) return;
  const a = [...old.childNodes], b = [...next.childNodes];
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    if (i >= b.length) a[i].remove();
    else if (i >= a.length) old.append(b[i]);
    else morph(a[i], b[i]);
  }
}

const plain = (digits) => new Intl.NumberFormat('en', {minimumFractionDigits: digits, maximumFractionDigits: digits});

export const count = (n) => n === null || n === undefined ? '–' : new Intl.NumberFormat('en', {maximumFractionDigits: 0}).format(n);

// value writes a number as a formula's format says: "0.00%", "$0.00", "0 ms".
export function value(n, format) {
  if (n === null || n === undefined) return '–';
  const m = /^([^0#]*)([0#,]*(?:\.([0#]+))?)(.*)$/.exec(format || '') || [];
  if (!m[2]) return new Intl.NumberFormat('en', {maximumSignificantDigits: 4}).format(n);
  const percent = m[4].startsWith('%');
  return (n < 0 ? '−' : '') + m[1] + plain((m[3] || '').length).format(Math.abs(percent ? n * 100 : n)) + m[4];
}

export const percent = (n, digits = 1) => n === null || n === undefined ? '–' : (n < 0 ? '−' : '') + plain(digits).format(Math.abs(n * 100)) + '%';

// change writes a difference with its sign.
export function change(n, relative, format) {
  if (n === null || n === undefined) return '–';
  return (n > 0 ? '+' : '') + (relative ? percent(n, Math.abs(n) < 0.1 ? 2 : 1) : value(n, format));
}

export const probability = (p) => p === null ? '–' : p >= 0.995 ? '1' : p < 0.0001 ? '< 0.0001' : p.toPrecision(2);

const zone = new Intl.DateTimeFormat('en-GB', {year: 'numeric', month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit'});
const clockOnly = new Intl.DateTimeFormat('en-GB', {hour: '2-digit', minute: '2-digit'});
export const utc = (ms) => new Date(ms).toISOString().replace('T', ' ').replace(/:\d\d\.\d+Z$/, ' UTC');
export const local = (ms) => zone.format(ms);

// time is in the viewer's zone, with UTC on hover and for screen readers' asking.
export function time(ms, short) {
  if (!ms) return '–';
  const today = new Date(ms).toDateString() === new Date().toDateString();
  return h('time', {datetime: new Date(ms).toISOString(), title: utc(ms)}, short || today ? clockOnly.format(ms) : zone.format(ms));
}

export function duration(ms) {
  if (ms === null || ms === undefined || ms < 0) return '–';
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120e3) return `${(ms / 1000).toFixed(ms < 10e3 ? 1 : 0)} s`;
  if (ms < 7200e3) return `${Math.round(ms / 60e3)} min`;
  if (ms < 172800e3) return `${(ms / 3600e3).toFixed(1)} h`;
  return `${Math.round(ms / 86400e3)} d`;
}

const kinds = {running: 'good', ended: 'idle', planned: 'idle', 'no data': 'warn', SRM: 'bad', unhealthy: 'bad', 'guardrail failing': 'bad'};
export const pill = (status) => h('span', {class: `pill ${kinds[status] || 'idle'}`}, status);

// scroller holds a wide table: it scrolls by itself on a narrow screen, by keyboard too.
export const scroller = (label, table) => h('div', {class: 'scroll', tabindex: 0, role: 'group', 'aria-label': label}, table);

export const notice = (kind, ...text) => h('div', {class: `notice ${kind}`, role: kind === 'error' ? 'alert' : null}, ...text);

export const troubles = (list) => list?.length ? notice('warn', list.map((t) => h('div', null, t))) : null;
