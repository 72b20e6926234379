// What differs between two texts, word by word: the shortest edit script (Myers 1986), bounded.

const MOST_EDITS = 1500;

const words = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];

// Whether each word of `a` is kept in `b`, and each of `b` comes from `a`; null where too much differs to tell.
function compared(a, b) {
  const pairs = script(a, b);
  if (!pairs) return null;
  const kept = { a: new Array(a.length).fill(false), b: new Array(b.length).fill(false) };
  for (const [i, j] of pairs) [kept.a[i], kept.b[j]] = [true, true];
  return kept;
}

// Pairs of indices of words that match.
function script(a, b) {
  const offset = MOST_EDITS + 1;
  let reach = new Int32Array(2 * offset + 1);
  const trace = [];
  for (let d = 0; d <= MOST_EDITS; d += 1) {
    trace.push(reach.slice(offset - d - 1, offset + d + 2));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && reach[offset + k - 1] < reach[offset + k + 1]);
      let x = down ? reach[offset + k + 1] : reach[offset + k - 1] + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      reach[offset + k] = x;
      if (x >= a.length && x - k >= b.length) return walked(trace, d, a.length, b.length);
    }
  }
  return null;
}

function walked(trace, changes, n, m) {
  const pairs = [];
  let [x, y] = [n, m];
  for (let d = changes; d >= 0; d -= 1) {
    const at = (k) => trace[d][k + d + 1];
    const k = x - y;
    const down = k === -d || (k !== d && at(k - 1) < at(k + 1));
    const before = down ? k + 1 : k - 1;
    const [px, py] = d === 0 ? [0, 0] : [at(before), at(before) - before];
    while (x > px && y > py) pairs.push([(x -= 1), (y -= 1)]);
    [x, y] = [px, py];
  }
  return pairs;
}

// The lines of a text, each with its parts by kind of syntax (-1: none); `spans` are of reporting/syntax.py.
function lined(text, spans = []) {
  const lines = [[]];
  const add = (part, kind) =>
    part.split('\n').forEach((piece, i) => {
      if (i) lines.push([]);
      if (piece) lines.at(-1).push({ text: piece, kind });
    });
  let at = 0;
  for (let i = 0; i < spans.length; i += 3) {
    const [skipped, letters, kind] = spans.slice(i, i + 3);
    add(text.slice(at, at + skipped), -1);
    add(text.slice(at + skipped, at + skipped + letters), kind);
    at += skipped + letters;
  }
  add(text.slice(at), -1);
  return lines.map((parts) => ({ parts, text: parts.map((part) => part.text).join('') }));
}

// Two texts' lines as stretches of rows [line of a, line of b], null where there is none; those of a stretch are all the
// same in both, or all changed.
function stretches(a, b) {
  const texts = (lines) => lines.map((line) => line.text);
  const pairs = (script(texts(a), texts(b)) || []).reverse();
  const found = [];
  let [i, j] = [0, 0];
  for (const [x, y] of [...pairs, [a.length, b.length]]) {
    if (x > i || y > j) found.push({ same: false, rows: besides(a.slice(i, x), b.slice(j, y)) });
    if (x < a.length) {
      if (!found.at(-1)?.same) found.push({ same: true, rows: [] });
      found.at(-1).rows.push([a[x], b[y]]);
    }
    [i, j] = [x + 1, y + 1];
  }
  return found;
}

const MOST_PAIRS = 4000;
const LEAST_ALIKE = 0.4;

// Changed lines side by side: those in one row that have most words in common, in order (a dynamic program).
function besides(a, b) {
  if (!a.length || !b.length || a.length * b.length > MOST_PAIRS)
    return [...a.map((line) => [line, null]), ...b.map((line) => [null, line])];
  const of = (lines) => lines.map((line) => words(line.text).filter((word) => word.trim()));
  const [left, right] = [of(a), of(b)];
  const best = a.map(() => []);
  const at = (i, j) => (i < a.length && j < b.length ? best[i][j].score : 0);
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const share = alike(left[i], right[j]);
      const together = share >= LEAST_ALIKE ? share + at(i + 1, j + 1) : -1;
      const score = Math.max(together, at(i + 1, j), at(i, j + 1));
      best[i][j] = { score, move: score === together ? 'both' : score === at(i + 1, j) ? 'left' : 'right' };
    }
  const rows = [];
  for (let [i, j] = [0, 0]; i < a.length || j < b.length;) {
    const move = i === a.length ? 'right' : j === b.length ? 'left' : best[i][j].move;
    rows.push([move === 'right' ? null : a[i], move === 'left' ? null : b[j]]);
    i += move === 'right' ? 0 : 1;
    j += move === 'left' ? 0 : 1;
  }
  return rows;
}

// The share of words that two lines have in common.
function alike(a, b) {
  const left = new Map();
  for (const word of a) left.set(word, (left.get(word) || 0) + 1);
  let common = 0;
  for (const word of b)
    if (left.get(word)) {
      left.set(word, left.get(word) - 1);
      common += 1;
    }
  return (2 * common) / (a.length + b.length || 1);
}

// Which letters of two lines are not in the other one; null where that can't be told.
function lettersChanged(a, b) {
  const [left, right] = [words(a.text), words(b.text)];
  const kept = compared(left, right);
  return kept && { a: letters(left, kept.a), b: letters(right, kept.b) };
}

function letters(list, kept) {
  const gap = (i) => !list[i].trim() && i > 0 && i + 1 < list.length && !kept[i - 1] && !kept[i + 1];
  return list.flatMap((word, i) => new Array(word.length).fill(!kept[i] || gap(i)));
}
