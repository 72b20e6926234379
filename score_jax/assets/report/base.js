// Elements, numbers and names. Text reaches the page as text nodes alone: nothing here writes markup.

const KINDS = {
  i_to_c: { name: 'fixed', sign: '\u25b2', about: 'wrong, then right' },
  c_to_i: { name: 'broken', sign: '\u25bc', about: 'right, then wrong' },
  c_to_c: { name: 'kept right', sign: '\u25cf', about: 'right both times' },
  i_to_i: { name: 'still wrong', sign: '\u25cb', about: 'wrong both times' },
  error: { name: 'not graded', sign: '?', about: 'the grading host failed' },
};

function put(node, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const el = (tag, properties, ...children) => put(document.createElement(tag), properties, children);
const svg = (tag, properties, ...children) =>
  put(document.createElementNS('http://www.w3.org/2000/svg', tag), properties, children);

let uids = 0;
const uid = (what) => `${what}-${(uids += 1)}`;

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
const minus = (text) => text.replace('-', '\u2212');
const percent = (share, digits = 1) => (known(share) ? minus((100 * share).toFixed(digits)) + '\u00a0%' : 'n/a');
const points = (share) => (known(share) ? (share < 0 ? '\u2212' : '+') + Math.abs(100 * share).toFixed(1) : 'n/a');
const count = (n) => n.toLocaleString('en-US');

function number(value) {
  if (!known(value)) return 'n/a';
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return minus(value.toExponential(2));
  return minus(size >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3))));
}

function seconds(value) {
  if (!known(value)) return 'n/a';
  if (value < 0.1) return `${(1000 * value).toFixed(1)}\u00a0ms`;
  if (value < 120) return `${value.toPrecision(3)}\u00a0s`;
  return value < 7200 ? `${(value / 60).toFixed(1)}\u00a0min` : `${(value / 3600).toFixed(1)}\u00a0h`;
}

// The accuracies of a ledger, in the order of attempts.
function accuracies(ledger) {
  const shares = [];
  while (known(ledger[`acc_t${shares.length + 1}`])) shares.push(ledger[`acc_t${shares.length + 1}`]);
  return shares;
}

function section(id, title, lead, ...children) {
  const heading = uid('heading');
  return el(
    'section',
    { id, 'aria-labelledby': heading },
    el('h2', { id: heading }, title),
    lead && el('p', { class: 'quiet' }, lead),
    ...children,
  );
}

function figure(title, caption, ...children) {
  return el('figure', {}, title && el('h3', {}, title), caption && el('figcaption', {}, caption), ...children);
}

// A table that is made when it is opened: the same numbers as a drawing, for those who can't or won't look at it.
function numbers(head, rows) {
  const details = el('details', {}, el('summary', {}, 'The numbers as a table'));
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) details.append(table(head, rows()));
  });
  return details;
}

function table(head, rows, name = '') {
  return el(
    'div',
    { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': name || `table: ${head.join(', ')}` },
    el(
      'table',
      { class: name && 'ledger' },
      el(
        'thead',
        {},
        el(
          'tr',
          {},
          head.map((cell, i) => el('th', { scope: 'col', class: i && 'n' }, cell)),
        ),
      ),
      el(
        'tbody',
        {},
        rows.map((row) =>
          el(
            'tr',
            {},
            row.map((cell, i) => (i ? el('td', { class: 'n' }, cell) : el('th', { scope: 'row' }, cell))),
          ),
        ),
      ),
    ),
  );
}

// An element whose drawing is made for its width, and again when that changes.
function sized(draw) {
  const plot = el('div', { class: 'plot' });
  let width = 0;
  const redraw = () => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    plot.replaceChildren(...draw(Math.max(260, width)));
  };
  new ResizeObserver(() => requestAnimationFrame(redraw)).observe(plot);
  return plot;
}

function choice(label, options, onchange) {
  const select = el(
    'select',
    {},
    options.map(([value, text]) => el('option', { value }, text)),
  );
  select.addEventListener('change', () => onchange(select.value));
  return [el('label', {}, label, select), select];
}
