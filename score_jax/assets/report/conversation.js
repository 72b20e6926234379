// One conversation: its question, and two attempts side by side, or one below the other where there is no room.

const VERDICTS = {
  correct: '\u2713 right',
  wrong: '\u2717 wrong',
  unparsed: '\u2717 no answer found',
  timeout: '\u2717 took too long',
  error: '? not graded',
};
const STOPS = {
  none: 'never ran',
  end_of_turn: 'ended its turn',
  other: 'ended by another stop token',
  budget: 'cut by its budget',
};
const SYNTAX = ['keyword', 'string', 'comment', 'number', 'name', 'builtin']; // of reporting/syntax.py
const CONTEXT = 3; // unchanged lines around a change
const FEWEST_FOLDED = 4;
const MOST_INDENT = 16; // letters

function conversation(row) {
  const facts = [
    `${KINDS[row.kind].sign} ${KINDS[row.kind].about}`,
    row.id,
    row.step && `step ${row.step}`,
    row.sample && `sample ${row.sample + 1}`,
    ...Object.entries(row.tags).map(([name, value]) => `${name} ${value}`),
    known(row.edit_ratio) && `edit ratio ${number(row.edit_ratio)}`,
  ];
  const pairs = row.attempts.slice(1).map((_, i) => [i, i + 1]);
  if (pairs.length > 1) pairs.push([0, row.attempts.length - 1]);
  const shown = el('div', { class: 'attempts' }, ...comparison(row.attempts, pairs[0] || [0, 0]));
  const [field] = choice(
    'attempts',
    pairs.map(([a, b], i) => [String(i), `${a + 1} and ${b + 1}`]),
    (value) => shown.replaceChildren(...comparison(row.attempts, pairs[Number(value)])),
  );
  return [
    el('p', { class: 'small quiet' }, facts.filter(Boolean).join(' \u00b7 ')),
    el(
      'div',
      { class: 'text question', tabindex: 0, role: 'region', 'aria-label': 'question' },
      lined(row.question, row.syntax).flatMap((line, i) => [i ? '\n' : '', ...painted(line)]),
    ),
    pairs.length > 1 && el('div', { class: 'controls' }, field),
    shown,
  ].filter(Boolean);
}

// Attempts `a` and `b`: their heads, and what differs.
function comparison(attempts, [a, b]) {
  const [left, right] = [attempts[a], attempts[b]];
  const lines = (attempt) => (attempt.text ? lined(attempt.text, attempt.syntax) : []);
  const equal = left.text === right.text;
  const body = equal
    ? block({ same: true, rows: lines(left).map((line) => [line, line]) })
    : folded(lines(left), lines(right));
  const both = a === b ? [head(left, a, '')] : [head(left, a, equal ? '' : '\u2212'), head(right, b, equal ? '' : '+')];
  const [one, two] = [`attempt ${a + 1}`, `attempt ${b + 1}`];
  const note = equal
    ? `Both attempts have this text, letter by letter.`
    : `\u2212 of ${one}, + of ${two}; in lines that are nearly the same, words of one alone are marked.`;
  return [
    el('div', { class: `heads ${both.length > 1 ? '' : 'alone'}` }, both),
    el(
      'div',
      { class: `diff ${equal ? 'alone' : ''}`, role: 'region', 'aria-label': `${one} and ${two}, line by line` },
      body,
      !left.text && el('p', { class: 'quiet' }, `(${one} is empty)`),
      !right.text && a !== b && el('p', { class: 'quiet' }, `(${two} is empty)`),
    ),
    a !== b && el('p', { class: 'small quiet' }, note),
  ].filter(Boolean);
}

function head(attempt, i, sign) {
  const facts = [
    attempt.answer && `answer ${attempt.answer}`,
    `${attempt.tokens} tokens`,
    STOPS[attempt.stop],
    `log-probability ${number(attempt.logp)}`,
  ];
  const kind = attempt.verdict === 'correct' ? 'fixed' : attempt.verdict === 'error' ? 'quiet' : 'broken';
  return el(
    'div',
    { class: 'head' },
    el(
      'h3',
      { class: kind },
      sign && el('i', { 'aria-hidden': 'true' }, sign),
      `Attempt ${i + 1}: ${VERDICTS[attempt.verdict]}`,
    ),
    el('p', { class: 'small quiet' }, facts.filter(Boolean).join(' \u00b7 ')),
  );
}

// The stretches of a difference, unchanged ones folded but for the lines around a change.
function folded(a, b) {
  const all = stretches(a, b);
  return all.flatMap((stretch, i) => {
    const before = i ? CONTEXT : 0;
    const after = i + 1 < all.length ? CONTEXT : 0;
    const hidden = stretch.rows.length - before - after;
    if (!stretch.same || hidden < FEWEST_FOLDED) return [block(stretch)];
    const part = (from, to) => (to > from ? [block({ same: true, rows: stretch.rows.slice(from, to) })] : []);
    return [
      ...part(0, before),
      el(
        'details',
        { class: 'fold' },
        el('summary', {}, `${hidden} lines are the same in both`),
        ...part(before, before + hidden),
      ),
      ...part(before + hidden, stretch.rows.length),
    ];
  });
}

function block({ same, rows }) {
  return el(
    'div',
    { class: `block ${same ? 'same' : 'changed'}` },
    rows.map(([a, b]) => {
      const changed = !same && a && b ? lettersChanged(a, b) : null;
      return [
        cell(a, same ? '' : 'del', changed && changed.a, 'left'),
        cell(b, same ? '' : 'ins', changed && changed.b, same ? 'right again' : 'right'),
      ];
    }),
  );
}

function cell(line, tag, changed, side) {
  if (!line) return el('div', { class: `cell ${side} none` });
  const nodes = painted(line, tag && changed, tag);
  const text = el('div', {}, tag && !changed ? el(tag, { class: 'whole' }, nodes) : nodes);
  const hang = Math.min(MOST_INDENT, line.text.match(/^ */)[0].length) + 2;
  [text.style.paddingLeft, text.style.textIndent] = [`${hang}ch`, `-${hang}ch`]; // what wraps stands behind its indent
  return el(
    'div',
    { class: `cell ${side} ${tag && `line-${tag}`}`, 'aria-hidden': side === 'right again' && 'true' },
    el('i', { 'aria-hidden': 'true' }, tag ? (tag === 'del' ? '\u2212' : '+') : ''),
    text,
  );
}

// A line in the colours of its syntax, `changed` letters (bool of each) within elements `tag`.
function painted(line, changed, tag) {
  const kinds = line.parts.flatMap(({ text, kind }) => new Array(text.length).fill(kind));
  const run = (from, end, value) => {
    let to = from;
    while (to < end && value(to) === value(from)) to += 1;
    return to;
  };
  const coloured = (from, end) => {
    const nodes = [];
    for (let at = from; at < end;) {
      const to = run(at, end, (i) => kinds[i]);
      const text = line.text.slice(at, to);
      nodes.push(kinds[at] < 0 ? text : el('span', { class: `py-${SYNTAX[kinds[at]]}` }, text));
      at = to;
    }
    return nodes;
  };
  const nodes = [];
  for (let at = 0; at < kinds.length;) {
    const to = changed ? run(at, kinds.length, (i) => changed[i]) : kinds.length;
    const inside = coloured(at, to);
    const blank = !line.text.slice(at, to).trim() && 'blank';
    nodes.push(...(changed && changed[at] ? [el(tag, { class: blank }, inside)] : inside));
    at = to;
  }
  return nodes;
}
