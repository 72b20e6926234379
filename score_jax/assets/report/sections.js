// The sections of evaluations and of training; what they draw is named in `page.js`.

// One or two columns of every run as series; a single run's have colours with a meaning.
function series(columns, error) {
  return RUNS.filter((run) => run.curves.step).flatMap((run, r) =>
    columns(run.curves.attempts, run.curves).map(({ name, of, color, dash, se }) => {
      const y = run.curves[of];
      const bound = (sign) =>
        error &&
        se &&
        y.map((value, i) =>
          known(value) && known(run.curves[se][i]) ? value + sign * 1.96 * run.curves[se][i] : null,
        );
      return {
        name: MANY ? `${run.name}, ${name}` : name,
        x: run.curves.step,
        y,
        low: bound(-1),
        high: bound(1),
        color: MANY ? `s${r % 6}` : color,
        dash: dash || 'solid',
      };
    }),
  );
}

const eachAttempt =
  (of, colors = ['s5', 's0']) =>
  (attempts) =>
    [...Array(attempts).keys()].map((i) => ({
      name: `attempt ${i + 1}`,
      of: `${of}/${i + 1}`,
      se: `${of}_se/${i + 1}`,
      color: i === attempts - 1 ? colors[1] : i ? `s${1 + (i % 5)}` : colors[0],
      dash: i === attempts - 1 ? 'solid' : i ? 'dotted' : 'dashed',
    }));

// The columns of one kind of first attempt; none where a run does not tell them apart.
const ofFirst = (kind, columns) => (attempts, curves) =>
  curves[`${kind}/delta`]
    ? columns(attempts).map((one) => ({ ...one, of: `${kind}/${one.of}`, se: `${kind}/${one.se}` }))
    : [];
const delta = () => [{ name: 'delta', of: 'delta', se: 'delta_se', color: 's0' }];

// The curves of training: title, caption, columns, and what is out of the ordinary. `apart` ones are for runs with
// offline first attempts alone.
const CURVES = [
  ['Accuracy', 'Of all conversations, by attempt.', eachAttempt('accuracy'), { band: true, zero: false }],
  ['Delta', 'Last attempt minus first.', delta, { band: true }],
  [
    'Accuracy, on-policy first attempts',
    'Of conversations whose first attempt is the policy\u2019s own.',
    ofFirst('on_policy', eachAttempt('accuracy')),
    { band: true, zero: false, apart: true },
  ],
  [
    'Delta, on-policy first attempts',
    'What the policy corrects of its own.',
    ofFirst('on_policy', delta),
    { band: true, apart: true },
  ],
  [
    'Accuracy, offline first attempts',
    'Of conversations whose first attempt is the base\u2019s.',
    ofFirst('offline', eachAttempt('accuracy')),
    { band: true, zero: false, apart: true },
  ],
  [
    'Delta, offline first attempts',
    'What the policy corrects of the base\u2019s.',
    ofFirst('offline', delta),
    { band: true, apart: true },
  ],
  [
    'Fixed and broken',
    'Wrong then right, right then wrong.',
    () => [
      { name: '\u25b2 fixed', of: 'i_to_c', color: 'cfixed' },
      { name: '\u25bc broken', of: 'c_to_i', color: 'cbroken', dash: 'dashed' },
    ],
  ],
  [
    'What changes',
    'Answers and texts that differ between first and last attempt; wrong answers that stay the same.',
    () => [
      { name: 'text', of: 'text_changed', color: 's5', dash: 'dotted' },
      { name: 'answer', of: 'answer_changed', color: 's0' },
      { name: 'same wrong', of: 'i_to_i_same', color: 's1', dash: 'dashed' },
    ],
  ],
  ['KL to the reference', 'Nats an attempt.', eachAttempt('kl'), { format: number }],
  ['Reward', 'Mean of each attempt, bonus included.', eachAttempt('reward'), { format: number }],
  ['Cut by the budget', 'Attempts that did not end by themselves.', eachAttempt('truncated')],
  ['No answer found', 'Attempts in which the grader found no answer.', eachAttempt('unparsed')],
  ['Nothing to learn from', 'Problems whose conversations all did equally well.', eachAttempt('flat')],
  ['Gradient norm', 'Before clipping.', () => [{ name: 'norm', of: 'gradient_norm', color: 's0' }], { format: number }],
];

function curveSection() {
  const inPercent = {
    format: (share) => percent(share),
    tick: (t) => percent(t, Math.abs(t) < 0.02 && t !== 0 ? 1 : 0),
  };
  const told = RUNS.some((run) => run.curves['offline/delta']);
  const charts = CURVES.filter(([, , , more = {}]) => told || !more.apart).map(([title, caption, columns, more = {}]) => {
    const shared = { xname: 'step', stages: MANY ? [] : RUNS[0].stages, about: `${title} over training steps` };
    const options = { ...(more.format ? {} : inPercent), ...shared, ...more, series: series(columns, more.band) };
    return figure(title, caption, lineChart(options));
  });
  const lead = MANY
    ? 'One colour a run.'
    : `${count(RUNS[0].steps)} steps. Bands are 95 % intervals over the problems of a step.`;
  return section('curves', 'Training', lead, el('div', { class: 'grid' }, charts));
}

function heldoutChart() {
  const colors = { greedy: 's5', sampled: 's0' };
  const lines = RUNS.flatMap((run, r) =>
    ['greedy', 'sampled'].flatMap((decoding) => {
      const at = run.heldout.filter((one) => one.decoding === decoding);
      const bound = (i) => at.map((one) => one.ledger.intervals.delta[i]);
      return at.length
        ? [
            {
              name: MANY ? `${run.name}, ${decoding}` : decoding,
              x: at.map((one) => one.step),
              y: at.map((one) => one.ledger.delta),
              low: bound(0),
              high: bound(1),
              color: MANY ? `s${r % 6}` : colors[decoding],
              dash: decoding === 'greedy' ? 'dashed' : 'solid',
              dots: true,
            },
          ]
        : [];
    }),
  );
  return (
    lines.length > 0 &&
    figure(
      'Delta on held-out problems during training',
      'With 95 % intervals.',
      lineChart({
        series: lines,
        format: percent,
        tick: (t) => percent(t, 0),
        xname: 'step',
        stages: MANY ? [] : RUNS[0].stages,
        about: 'Held-out delta over training steps',
      }),
    )
  );
}

function scalingFigures() {
  return ENTRIES.filter((one) => one.ledger.curves).map(({ label, ledger }) => {
    const side = (name, color, dash, of) => ({
      name,
      x: of.map((p) => p.tokens),
      y: of.map((p) => p.accuracy),
      low: of.map((p) => p.interval[0]),
      high: of.map((p) => p.interval[1]),
      color,
      dash,
      dots: true,
    });
    const { parallel, sequential, equal_tokens: equal } = ledger.curves;
    const last = equal.at(-1);
    const caption =
      `${label}: majority of 2K first attempts against majority of K corrected ones; each point doubles the samples.` +
      (last
        ? ` At ${number(last.tokens)} tokens, sequential is ${(100 * Math.abs(last.gain)).toFixed(1)} points ${last.gain < 0 ? 'behind' : 'ahead'}.`
        : '');
    return figure(
      'The same tokens, spent in two ways',
      caption,
      lineChart({
        series: [side('parallel', 's5', 'dashed', parallel), side('sequential', 's0', 'solid', sequential)],
        format: percent,
        tick: (t) => percent(t, 0),
        xname: 'tokens',
        log: true,
        zero: false,
        height: 280,
        about: 'Majority accuracy by sampled tokens',
      }),
    );
  });
}

function samplesTable() {
  return ENTRIES.filter((one) => one.ledger.at_k).map(({ label, ledger }) => {
    const sides = Object.entries(ledger.at_k).filter(([, value]) => typeof value === 'object');
    const names = Object.keys(sides[0][1]);
    const cell = (f) => `${percent(f.value)} (${percent(f.interval[0])} to ${percent(f.interval[1])})`;
    return figure(
      'Several samples',
      `${label}, ${ledger.at_k.k} conversations a problem.`,
      table(
        ['', ...names],
        sides.map(([name, figures]) => [name.replace('t', 'attempt '), ...names.map((n) => cell(figures[n]))]),
        'several samples',
      ),
    );
  });
}

function evaluationSection() {
  const histograms = RUNS.flatMap((run) =>
    Object.entries(run.edit_ratios).map(([name, histogram]) => ({
      label: [MANY && run.name, name].filter(Boolean).join(': '),
      histogram,
      name,
      steps: run.steps,
    })),
  );
  const wanted = histograms.filter(
    (one) => one.name.endsWith('/sampled') && (!one.steps || /^(base|final)\//.test(one.name)),
  );
  const shown = (wanted.length ? wanted : histograms.filter((one) => !one.name.endsWith('/training'))).slice(0, 6);
  const tags = ENTRIES.filter((one) => one === best()).flatMap((one) =>
    Object.entries(one.ledger.by || {}).map(([tag, parts]) => figure(`By ${tag}`, one.label, byTag(tag, parts))),
  );
  return section(
    'evaluations',
    'Evaluations',
    'Shares of all conversations; fix and break rate of those that were wrong, and right, at first. Delta = fixed \u2212 broken.',
    ENTRIES.length && ledgers(ENTRIES),
    el(
      'div',
      { class: 'grid' },
      figure(
        'How much is rewritten',
        'Edit distance between first and last attempt over the length of both; a copy is 0.',
        editHistogram(shown),
      ),
      heldoutChart(),
      ...scalingFigures(),
    ),
    ...samplesTable(),
    ...tags,
  );
}
