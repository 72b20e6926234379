// Lines over steps, with bands of 95 % and a crosshair that follows pointer and arrow keys.

const DASHES = { solid: '', dashed: '6 4', dotted: '2 4' };

function ticks(low, high, most) {
  const raw = (high - low) / most || 1;
  const scale = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * scale).find((s) => s >= raw - 1e-12);
  const values = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step)
    values.push(Math.abs(t) < step / 1e6 ? 0 : t);
  return values;
}

// options: series [{name, x, y, low, high, color, dash, dots}], format, xname, stages, log, height, about
function lineChart(options) {
  const series = options.series.filter((one) => one.y.some(known));
  if (!series.length) return el('p', { class: 'quiet small' }, 'Not recorded in this run.');
  const tip = el('div', { class: 'tip', hidden: true, role: 'status' });
  const shown = { at: null };
  const plot = sized((width) => [picture(series, options, width, shown, tip), tip]);
  const xs = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
  const head = [options.xname, ...series.map((one) => one.name)];
  const rows = () => xs.map((x) => [number(x), ...series.map((one) => options.format(one.y[one.x.indexOf(x)]))]);
  return el('div', {}, series.length > 1 && key(series), plot, numbers(head, rows));
}

function key(series) {
  return el(
    'ul',
    { class: 'key' },
    series.map((one) =>
      el(
        'li',
        {},
        svg(
          'svg',
          { viewBox: '0 0 26 10', 'aria-hidden': 'true' },
          svg('line', {
            x1: 0,
            x2: 26,
            y1: 5,
            y2: 5,
            class: `line ${one.color}`,
            'stroke-dasharray': DASHES[one.dash || 'solid'],
          }),
        ),
        one.name,
      ),
    ),
  );
}

function scales(series, options, width, height, margin) {
  const xs = series.flatMap((one) => one.x);
  const ys = series.flatMap((one) => [...one.y, ...(one.low || []), ...(one.high || [])]).filter(known);
  let [low, high] = [Math.min(...ys), Math.max(...ys)];
  if (options.zero !== false) low = Math.min(low, 0);
  if (high - low < 1e-9) high = low + (Math.abs(low) || 1);
  const room = (high - low) * 0.06;
  [low, high] = [low < 0 || options.zero === false ? low - room : low, high + room];
  const warp = options.log ? Math.log2 : (x) => x;
  const [first, last] = [warp(Math.min(...xs)), warp(Math.max(...xs))];
  const x = (value) =>
    margin.left + ((warp(value) - first) / (last - first || 1)) * (width - margin.left - margin.right);
  const y = (value) => height - margin.bottom - ((value - low) / (high - low)) * (height - margin.top - margin.bottom);
  return { x, y, low, high, xs: [...new Set(xs)].sort((a, b) => a - b) };
}

function picture(series, options, width, shown, tip) {
  const height = options.height || 220;
  const margin = { left: 46, right: 14, top: 20, bottom: 26 };
  const scale = scales(series, options, width, height, margin);
  const last = (one) => one.y.filter(known).at(-1);
  const about = `${options.about}. ${series.map((one) => `${one.name}: from ${options.format(one.y.find(known))} to ${options.format(last(one))}`).join('; ')}. Arrow keys read single points.`;
  const picture = svg('svg', {
    viewBox: `0 0 ${width} ${height}`,
    height,
    role: 'img',
    'aria-label': about,
    tabindex: 0,
  });
  for (const t of ticks(scale.low, scale.high, 4)) {
    picture.append(
      svg('line', { class: 'axis', x1: margin.left, x2: width - margin.right, y1: scale.y(t), y2: scale.y(t) }),
      svg(
        'text',
        { x: margin.left - 7, y: scale.y(t) + 4, 'text-anchor': 'end' },
        options.tick ? options.tick(t) : number(t),
      ),
    );
  }
  const apart = (kept, t) => (kept.length && scale.x(t) - scale.x(kept.at(-1)) < 40 ? kept : [...kept, t]);
  const across = options.log
    ? scale.xs.reduce(apart, [])
    : ticks(scale.xs[0], scale.xs.at(-1), Math.max(2, Math.floor(width / 110)));
  for (const t of across)
    picture.append(svg('text', { x: scale.x(t), y: height - 8, 'text-anchor': 'middle' }, number(t)));
  for (const [i, stage] of (options.stages || []).entries()) {
    if (i)
      picture.append(
        svg('line', {
          class: 'rule stage',
          x1: scale.x(stage.first),
          x2: scale.x(stage.first),
          y1: 4,
          y2: height - margin.bottom,
        }),
      );
    picture.append(svg('text', { x: scale.x(Math.max(stage.first, scale.xs[0])) + (i ? 5 : 0), y: 12 }, stage.name));
  }
  for (const one of series) picture.append(...band(one, scale));
  for (const one of series) picture.append(...curve(one, scale));
  const cross = svg('g', {});
  picture.append(cross);
  pointed(picture, cross, series, options, scale, width, height, margin, shown, tip);
  return picture;
}

function band(one, scale) {
  if (!one.low) return [];
  const there = one.x.map((x, i) => i).filter((i) => known(one.low[i]) && known(one.high[i]));
  const side = (values, order) => order.map((i) => `${scale.x(one.x[i]).toFixed(1)},${scale.y(values[i]).toFixed(1)}`);
  const path = [...side(one.high, there), ...side(one.low, [...there].reverse())].join(' ');
  return [svg('polygon', { class: `band ${one.color}`, points: path })];
}

function curve(one, scale) {
  const there = one.x.map((x, i) => i).filter((i) => known(one.y[i]));
  const at = (i) => `${scale.x(one.x[i]).toFixed(1)},${scale.y(one.y[i]).toFixed(1)}`;
  const line = svg('polyline', {
    class: `line ${one.color}`,
    points: there.map(at).join(' '),
    'stroke-dasharray': DASHES[one.dash || 'solid'],
  });
  const dots = one.dots || there.length < 3 ? there : [];
  return [
    line,
    ...dots.map((i) =>
      svg('circle', { class: `dot ${one.color}`, cx: scale.x(one.x[i]), cy: scale.y(one.y[i]), r: 3.5 }),
    ),
  ];
}

function pointed(picture, cross, series, options, scale, width, height, margin, shown, tip) {
  const show = (x) => {
    shown.at = x;
    cross.replaceChildren();
    tip.hidden = x === null;
    if (x === null) return;
    cross.append(
      svg('line', { class: 'rule', x1: scale.x(x), x2: scale.x(x), y1: margin.top, y2: height - margin.bottom }),
    );
    tip.replaceChildren(el('div', {}, `${options.xname} ${number(x)}`));
    for (const one of series) {
      const i = one.x.indexOf(x);
      if (i < 0 || !known(one.y[i])) continue;
      cross.append(svg('circle', { class: `dot ${one.color}`, cx: scale.x(x), cy: scale.y(one.y[i]), r: 4 }));
      const sure =
        one.low && known(one.low[i]) ? ` (${options.format(one.low[i])} to ${options.format(one.high[i])})` : '';
      tip.append(el('div', {}, `${one.name} ${options.format(one.y[i])}${sure}`));
    }
    const left = scale.x(x) + 12;
    tip.style.left = `${left + tip.offsetWidth > width ? Math.max(0, scale.x(x) - 12 - tip.offsetWidth) : left}px`;
  };
  const nearest = (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    return scale.xs.reduce((best, x) => (Math.abs(scale.x(x) - at) < Math.abs(scale.x(best) - at) ? x : best));
  };
  picture.addEventListener('pointermove', (event) => show(nearest(event)));
  picture.addEventListener('pointerleave', () => show(null));
  picture.addEventListener('blur', () => show(null));
  picture.addEventListener('keydown', (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === 'Escape') show(null);
    if (!move) return;
    event.preventDefault();
    const from = shown.at === null ? (move > 0 ? -1 : scale.xs.length) : scale.xs.indexOf(shown.at);
    show(scale.xs[Math.min(scale.xs.length - 1, Math.max(0, from + move))]);
  });
}
