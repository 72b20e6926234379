// Drawings of a ledger: where answers go between attempts, how sure delta is, how much is rewritten.

// between: counts [i_to_i, i_to_c, c_to_i, c_to_c] from each attempt to the next.
function flow(ledger) {
  return sized((width) => [flowPicture(ledger, width)]);
}

function flowPicture(ledger, width) {
  const between = ledger.between;
  const n = ledger.n;
  const height = 230;
  const [top, space, gap] = [22, height - 22 - 8, 14];
  const bar = 9;
  const last = between.length;
  const x = (i) => 2 + (i * (width - bar - 4)) / last;
  const tall = (c) => (c / n) * (space - gap);
  const right = between.map((b) => b[2] + b[3]).concat([between[last - 1][1] + between[last - 1][3]]);
  const words = between.map(
    (b, i) =>
      `From attempt ${i + 1} to ${i + 2}: ${b[1]} fixed, ${b[2]} broken, ${b[3]} kept right, ${b[0]} still wrong`,
  );
  const picture = svg('svg', {
    viewBox: `0 0 ${width} ${height}`,
    height,
    role: 'img',
    'aria-label': `Of ${n} answers. ${words.join('. ')}.`,
  });
  const hatch = uid('hatch');
  picture.append(
    svg(
      'defs',
      {},
      svg(
        'pattern',
        { id: hatch, width: 7, height: 7, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
        svg('line', { class: 'hatch', x1: 0, y1: 0, x2: 0, y2: 7 }),
      ),
    ),
  );
  between.forEach(([ii, ic, ci, cc], i) => {
    const [down, up] = [top + tall(right[i]) + gap, top + tall(right[i + 1]) + gap];
    // Right answers stand above wrong ones; those that stay keep to the outside.
    const parts = [
      ['c_to_c', cc, top, top],
      ['c_to_i', ci, top + tall(cc), up],
      ['i_to_c', ic, down, top + tall(cc)],
      ['i_to_i', ii, down + tall(ic), up + tall(ci)],
    ];
    const drawn = parts.map(([kind, c, from, to]) =>
      ribbon(kind, c, n, x(i) + bar, x(i + 1), from, to, tall(c), hatch, width / last > 250),
    );
    picture.append(...drawn.flatMap(({ shapes }) => shapes), ...drawn.flatMap(({ texts }) => texts));
  });
  right.forEach((c, i) => {
    const anchor = i === 0 ? 'start' : i === last ? 'end' : 'middle';
    const tx = i === 0 ? x(i) : i === last ? x(i) + bar : x(i) + bar / 2;
    picture.append(
      svg('rect', { class: 'node', x: x(i), y: top, width: bar, height: Math.max(1, tall(c)) }),
      svg('rect', { class: 'i_to_i', x: x(i), y: top + tall(c) + gap, width: bar, height: Math.max(1, tall(n - c)) }),
      svg(
        'text',
        { class: 'strong', x: tx, y: 14, 'text-anchor': anchor },
        last < 4 || width / last > 90 ? `${percent(c / n)} right` : percent(c / n, 0),
      ),
    );
  });
  return picture;
}

function ribbon(kind, c, n, x0, x1, from, to, thick, hatch, named) {
  if (!c) return { shapes: [], texts: [] };
  const texts = [];
  const middle = (x0 + x1) / 2;
  const edge = `M${x0},${from} C${middle},${from} ${middle},${to} ${x1},${to} L${x1},${to + thick} C${middle},${to + thick} ${middle},${from + thick} ${x0},${from + thick}Z`;
  const shapes = [svg('path', { class: `ribbon ${kind}`, d: edge })];
  if (kind === 'c_to_i') shapes.push(svg('path', { d: edge, fill: `url(#${hatch})` }));
  if (named) {
    const what = `${KINDS[kind].sign} ${KINDS[kind].name} ${percent(c / n)}`;
    // What is fixed is named near its beginning, what is broken near its end: there they lie beside what stays wrong.
    const along = { i_to_c: [0.25, 0.1], c_to_i: [0.75, 0.9] }[kind] || [0.5, 0.5];
    const y = from + (to - from) * along[1] + (thick > 16 ? thick / 2 + 4 : thick + 13);
    const stays = along[0] === 0.5;
    if (thick > 16 || !stays)
      texts.push(svg('text', { class: 'strong', x: x0 + (x1 - x0) * along[0], y, 'text-anchor': 'middle' }, what));
  }
  return { shapes, texts };
}

// Rows are the first attempt, columns the last.
function matrix(ledger) {
  const cell = (kind) =>
    el(
      'td',
      { class: kind },
      el('b', {}, percent(ledger[kind])),
      el('span', {}, `${KINDS[kind].sign} ${KINDS[kind].name} \u00b7 ${count(Math.round(ledger[kind] * ledger.n))}`),
    );
  const row = (name, ...kinds) => el('tr', {}, el('th', { scope: 'row' }, name), kinds.map(cell));
  return el(
    'table',
    { class: 'matrix' },
    el(
      'thead',
      {},
      el(
        'tr',
        {},
        el('td', { hidden: true }),
        el('th', { scope: 'col' }, 'first attempt'),
        el('th', { scope: 'col' }, 'then right'),
        el('th', { scope: 'col' }, 'then wrong'),
      ),
    ),
    el('tbody', {}, row('right', 'c_to_c', 'c_to_i'), row('wrong', 'i_to_c', 'i_to_i')),
  );
}

// A table of ledgers, delta drawn with its interval on one axis for all of them.
function ledgers(entries) {
  const bounds = entries.flatMap(({ ledger }) => ledger.intervals.delta);
  const most = Math.max(0.02, ...bounds.map(Math.abs)) * 1.05;
  const head = [
    '',
    'delta',
    '95 % interval',
    'fixed',
    'broken',
    'fix rate',
    'break rate',
    'same wrong',
    'answers changed',
    'McNemar p',
    'n',
  ];
  const attempts = Math.max(...entries.map(({ ledger }) => accuracies(ledger).length));
  const shown = attempts > 4 ? [0, 1, attempts - 1] : [...Array(attempts).keys()];
  head.splice(1, 0, ...shown.map((i) => `Acc@t${i + 1}`));
  const rows = entries.map(({ label, ledger }) => {
    const [low, high] = ledger.intervals.delta;
    const right = accuracies(ledger);
    return [
      label,
      ...shown.map((i) => percent(right[i])),
      el('b', {}, points(ledger.delta)),
      el(
        'div',
        { class: 'forest' },
        forest(low, ledger.delta, high, most),
        el('span', { class: 'small quiet' }, `${points(low)} to ${points(high)}`),
      ),
      percent(ledger.i_to_c),
      percent(ledger.c_to_i),
      percent(ledger.fix_rate),
      percent(ledger.break_rate),
      percent(ledger.i_to_i_same),
      percent(ledger.answer_changed),
      known(ledger.mcnemar_p) ? (ledger.mcnemar_p < 0.0001 ? '< 0.0001' : number(ledger.mcnemar_p)) : 'n/a',
      count(ledger.n),
    ];
  });
  return table(head, rows, 'the ledger of every evaluation');
}

function forest(low, value, high, most) {
  const x = (share) => 110 + (share / most) * 108;
  const color = low > 0 ? 'cfixed' : high < 0 ? 'cbroken' : 'cquiet';
  return svg(
    'svg',
    { viewBox: '0 0 220 18', height: 18, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    svg('line', { class: 'axis', x1: 2, x2: 218, y1: 9, y2: 9 }),
    svg('line', { class: 'rule stage', x1: 110, x2: 110, y1: 0, y2: 18 }),
    svg('line', {
      class: `whisker ${color}`,
      'stroke-width': 4,
      x1: x(low),
      x2: Math.max(x(high), x(low) + 1),
      y1: 9,
      y2: 9,
    }),
    svg('circle', { class: `dot ${color}`, cx: x(value), cy: 9, r: 5.5 }),
  );
}

// Shares of conversations by edit ratio; exact copies stand apart, on the left. entries: [{label, histogram}]
function editHistogram(entries) {
  const there = entries.filter(({ histogram }) => histogram.n);
  if (!there.length) return el('p', { class: 'quiet' }, 'No conversations were kept.');
  const used = Math.max(
    ...there.map(({ histogram }) => histogram.bins.reduce((last, share, i) => (share > 0 ? i + 1 : last), 1)),
  );
  const bins = Math.min(20, used + 1);
  const step = 1 / there[0].histogram.bins.length;
  const series = there.map(({ label, histogram }, i) => ({
    name: label,
    x: [-step / 2, ...histogram.bins.slice(0, bins).map((_, k) => (k + 0.5) * step)],
    y: [histogram.copies, ...histogram.bins.slice(0, bins)],
    color: `s${i % 6}`,
    dash: ['solid', 'dashed', 'dotted'][i % 3],
    dots: true,
  }));
  const rows = () =>
    series[0].x.map((x, k) => [
      k ? `${number((k - 1) * step)} to ${number(k * step)}` : 'copy',
      ...series.map((one) => percent(one.y[k])),
    ]);
  const plot = sized((width) => [steps(series, step, bins, width)]);
  return el('div', {}, key(series), plot, numbers(['edit ratio', ...series.map((one) => one.name)], rows));
}

function steps(series, step, bins, width) {
  const [height, left, bottom, top] = [250, 46, 40, 10];
  const most = Math.max(...series.flatMap((one) => one.y)) * 1.05;
  const wide = (width - left - 10) / (bins + 1.6);
  const x = (k) => left + (k === 0 ? 0 : (k + 0.6) * wide);
  const y = (share) => height - bottom - (share / most) * (height - bottom - top);
  const about = series.map((one) => `${one.name}: ${percent(one.y[0])} exact copies`).join('; ');
  const picture = svg('svg', {
    viewBox: `0 0 ${width} ${height}`,
    height,
    role: 'img',
    'aria-label': `Share of conversations by edit ratio. ${about}.`,
  });
  for (const t of ticks(0, most, 4)) {
    picture.append(
      svg('line', { class: 'axis', x1: left, x2: width, y1: y(t), y2: y(t) }),
      svg('text', { x: left - 7, y: y(t) + 4, 'text-anchor': 'end' }, percent(t, 0)),
    );
  }
  picture.append(svg('text', { x: x(0) + wide / 2, y: height - 22, 'text-anchor': 'middle' }, 'copy'));
  for (let k = 0; k <= bins; k += 1) {
    if (k % (width < 500 ? 4 : 2) === 0)
      picture.append(svg('text', { x: x(k + 1), y: height - 22, 'text-anchor': 'middle' }, number(k * step)));
  }
  picture.append(svg('text', { x: x(1 + bins / 2), y: height - 4, 'text-anchor': 'middle' }, 'edit ratio'));
  const inset = (wide * 0.8) / series.length;
  series.forEach((one, i) => {
    const copies = {
      x: x(0) + wide * 0.1 + i * inset,
      y: y(one.y[0]),
      width: inset,
      height: y(0) - y(one.y[0]),
      class: `dot ${one.color}`,
    };
    let path = `M${x(1)},${y(0)}`;
    for (let k = 1; k <= bins; k += 1) path += ` L${x(k)},${y(one.y[k] || 0)} L${x(k + 1)},${y(one.y[k] || 0)}`;
    path += ` L${x(bins + 1)},${y(0)}`;
    picture.append(
      svg('rect', copies),
      svg('path', { class: `band ${one.color}`, d: path }),
      svg('path', { class: `line ${one.color}`, d: path, 'stroke-dasharray': DASHES[one.dash] }),
    );
  });
  return picture;
}

// From the first accuracy to the last, for each value of a tag.
function byTag(tag, parts) {
  const values = Object.entries(parts);
  const rows = values.map(([value, ledger]) => {
    const right = accuracies(ledger);
    const [low, high] = ledger.intervals.delta;
    return [
      value,
      percent(right[0]),
      percent(right.at(-1)),
      el('b', {}, points(ledger.delta)),
      `${points(low)} to ${points(high)}`,
      percent(ledger.i_to_c),
      percent(ledger.c_to_i),
      count(ledger.n),
    ];
  });
  return table([tag, 'first', 'last', 'delta', '95 % interval', 'fixed', 'broken', 'n'], rows, `by ${tag}`);
}

function phases(byName) {
  const all = Object.values(byName).reduce((sum, phase) => sum + phase.total, 0) || 1;
  const bar = (share) => {
    const inner = el('i', {});
    inner.style.width = `${100 * share}%`;
    return el('div', { class: 'bar', 'aria-hidden': 'true' }, inner);
  };
  const rows = Object.entries(byName).map(([name, phase]) => [
    name,
    bar(phase.total / all),
    percent(phase.total / all),
    seconds(phase.total),
    seconds(phase.median),
  ]);
  return table(['phase', '', 'share', 'in all', 'a step (median)'], rows, 'seconds by phase');
}
