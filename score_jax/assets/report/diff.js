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

// A text with what goes in the next attempt struck through and what is new since the one before underlined.
function marked(list, added, removed) {
  const nodes = [];
  for (let i = 0; i < list.length;) {
    const kind = (added[i] ? 1 : 0) + (removed[i] ? 2 : 0);
    let end = i;
    while (end < list.length && (added[end] ? 1 : 0) + (removed[end] ? 2 : 0) === kind) end += 1;
    const text = list.slice(i, end).join('');
    if (kind === 0) nodes.push(text);
    else if (kind === 1) nodes.push(el('ins', {}, text));
    else if (kind === 2) nodes.push(el('del', {}, text));
    else nodes.push(el('ins', {}, el('del', {}, text)));
    i = end;
  }
  return nodes;
}

// The texts of all attempts with their differences: a list of nodes for each.
function differences(texts) {
  const lists = texts.map(words);
  const flags = (value) => lists.map((list) => new Array(list.length).fill(value));
  const [added, removed] = [flags(false), flags(false)];
  for (let i = 0; i + 1 < lists.length; i += 1) {
    const kept = compared(lists[i], lists[i + 1]);
    removed[i] = kept ? kept.a.map((there) => !there) : lists[i].map(() => true);
    added[i + 1] = kept ? kept.b.map((there) => !there) : lists[i + 1].map(() => true);
  }
  return lists.map((list, i) => marked(list, added[i], removed[i]));
}
