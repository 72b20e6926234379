// The page: what it says first, then its sections, each from the embedded data.

const DATA = JSON.parse(document.getElementById('data').textContent);
const RUNS = DATA.runs;
const MANY = RUNS.length > 1;

// Every ledger with the words that name it, the most telling one first in `best`.
const ENTRIES = RUNS.flatMap((run, r) =>
  run.evaluations.map((one) => ({ ...one, run, r, label: [MANY && run.name, one.name, one.way].filter(Boolean).join(', ') })),
);
const best = () =>
  ENTRIES.find((one) => one.name === 'final' && one.way === 'sampled') || ENTRIES.findLast((one) => one.way === 'sampled') || ENTRIES[0];

function overview() {
  const place = el('div', { 'aria-live': 'polite' });
  const show = (i) => place.replaceChildren(...story(ENTRIES[i]));
  const [select, chosen] = choice('evaluation', ENTRIES.map((one, i) => [String(i), one.label]), (value) => show(Number(value)));
  const first = ENTRIES.indexOf(best());
  chosen.value = String(first);
  show(first);
  return el('section', { id: 'overview', 'aria-label': 'overview' }, el('div', { class: 'controls' }, select), place);
}

function story({ ledger, label, run }) {
  const rate = (share) => (known(share) ? percent(share) : 'nothing');
  const [low, high] = ledger.intervals.delta;
  const right = accuracies(ledger);
  const verdict =
    low > 0 ? 'Trying again helps.' : high < 0 ? 'Trying again hurts.' : ledger.answer_changed < 0.02 ? 'The second attempt repeats the first.' : 'Trying again makes no difference that shows.';
  const block = (value, name, kind) => el('div', {}, el('b', { class: kind }, value), el('span', {}, name));
  const sign = (text) => el('div', { class: 'sign', 'aria-hidden': 'true' }, text);
  return [
    el('p', { class: 'headline' }, `${verdict} `, el('span', { class: 'fixed' }, `${percent(ledger.i_to_c)} fixed`), ', ', el('span', { class: 'broken' }, `${percent(ledger.c_to_i)} broken`), '.'),
    el(
      'div',
      { class: 'sum' },
      block(`${points(ledger.delta)}`, `delta, points (${points(low)} to ${points(high)})`),
      sign('='),
      block(percent(ledger.i_to_c), '\u25b2 fixed', 'fixed'),
      sign('\u2212'),
      block(percent(ledger.c_to_i), '\u25bc broken', 'broken'),
      sign('='),
      block(percent(right.at(-1)), `right at attempt ${right.length}`),
      sign('\u2212'),
      block(percent(right[0]), 'right at attempt 1'),
    ),
    el(
      'div',
      { class: 'pair' },
      figure('Where answers go', `${label}: ${count(ledger.n)} conversations, right above, wrong below.`, flow(ledger)),
      figure('First attempt against last', `Of what was wrong, ${rate(ledger.fix_rate)} is fixed; of what was right, ${rate(ledger.break_rate)} is broken.`, matrix(ledger)),
    ),
    run.alarms.length > 0 && el('p', { class: 'alarm' }, 'In training, ', el('a', { href: '#alarms' }, run.alarms.length === 1 ? 'an alarm' : 'alarms'), ` sounded: ${[...new Set(run.alarms.map((one) => one.name))].join(', ')}.`),
    ledger.errors > 0 && el('p', { class: 'small' }, `${count(ledger.errors)} conversations could not be graded on this host and are left out.`),
  ].filter(Boolean);
}

function alarmSection() {
  const parts = RUNS.flatMap((run) => {
    const name = MANY ? [el('h3', {}, run.name)] : [];
    if (!run.steps) return [];
    if (!run.alarms.length) return [...name, el('p', { class: 'good' }, `No alarm sounded in ${count(run.steps)} steps.`)];
    return [...name, ...run.alarms.map(alarmBox)];
  });
  const watched = el('details', {}, el('summary', {}, 'What is watched for'), table(['alarm', 'sounds when'], RUNS[0].watched));
  return section('alarms', 'Alarms', 'Ways to learn something other than correcting.', ...parts, watched);
}

function alarmBox(alarm) {
  const pairs = [['sounded', alarm.first === alarm.last ? `at step ${alarm.first}` : `from step ${alarm.first} to ${alarm.last}`], ['likely', alarm.cause], ['turn', alarm.field]];
  return el('div', { class: 'alarm' }, el('h3', {}, `${alarm.name}: ${alarm.says}`), el('dl', {}, pairs.map(([name, text]) => [el('dt', {}, name), el('dd', {}, text)])));
}

// One or two columns of every run as series; a single run's have colours with a meaning.
function series(columns, error) {
  return RUNS.filter((run) => run.curves.step).flatMap((run, r) =>
    columns(run.curves.attempts).map(({ name, of, color, dash, se }) => {
      const y = run.curves[of];
      const bound = (sign) => error && se && y.map((value, i) => (known(value) && known(run.curves[se][i]) ? value + sign * 1.96 * run.curves[se][i] : null));
      return { name: MANY ? `${run.name}, ${name}` : name, x: run.curves.step, y, low: bound(-1), high: bound(1), color: MANY ? `s${r % 6}` : color, dash: dash || 'solid' };
    }),
  );
}

const eachAttempt = (of, colors = ['s5', 's0']) => (attempts) =>
  [...Array(attempts).keys()].map((i) => ({
    name: `attempt ${i + 1}`,
    of: `${of}/${i + 1}`,
    se: `${of}_se/${i + 1}`,
    color: i === attempts - 1 ? colors[1] : i ? `s${1 + (i % 5)}` : colors[0],
    dash: i === attempts - 1 ? 'solid' : i ? 'dotted' : 'dashed',
  }));

function curveSection() {
  const stages = MANY ? [] : RUNS[0].stages;
  const short = (value) => percent(value);
  const chart = (title, caption, found, format = short, more = {}) =>
    figure(title, caption, lineChart({ series: found, format, tick: format === short ? (t) => percent(t, Math.abs(t) < 0.02 && t !== 0 ? 1 : 0) : undefined, xname: 'step', stages, about: `${title} over training steps`, ...more }));
  return section(
    'curves',
    'Training',
    MANY ? 'One colour a run.' : `${count(RUNS[0].steps)} steps. Bands are 95 % intervals over the problems of a step.`,
    el(
      'div',
      { class: 'grid' },
      chart('Accuracy', 'Of all conversations, by attempt.', series(eachAttempt('accuracy'), true), short, { zero: false }),
      chart('Delta', 'Last attempt minus first.', series(() => [{ name: 'delta', of: 'delta', se: 'delta_se', color: 's0' }], true)),
      chart('Fixed and broken', 'Wrong then right, right then wrong.', series(() => [{ name: '\u25b2 fixed', of: 'i_to_c', color: 'cfixed' }, { name: '\u25bc broken', of: 'c_to_i', color: 'cbroken', dash: 'dashed' }])),
      chart('What changes', 'Answers and texts that differ between first and last attempt; wrong answers that stay the same.', series(() => [{ name: 'text', of: 'text_changed', color: 's5', dash: 'dotted' }, { name: 'answer', of: 'answer_changed', color: 's0' }, { name: 'same wrong', of: 'i_to_i_same', color: 's1', dash: 'dashed' }])),
      chart('KL to the reference', 'Nats an attempt.', series(eachAttempt('kl')), number),
      chart('Reward', 'Mean of each attempt, bonus included.', series(eachAttempt('reward')), number),
      chart('Cut by the budget', 'Attempts that did not end by themselves.', series(eachAttempt('truncated'))),
      chart('No answer found', 'Attempts that the verifier could not read.', series(eachAttempt('unparsed'))),
      chart('Nothing to learn from', 'Problems whose conversations all did equally well.', series(eachAttempt('flat'))),
      chart('Gradient norm', 'Before clipping.', series(() => [{ name: 'norm', of: 'gradient_norm', color: 's0' }]), number),
    ),
  );
}

function heldoutChart() {
  const colors = { greedy: 's5', sampled: 's0' };
  const found = RUNS.flatMap((run, r) =>
    ['greedy', 'sampled'].flatMap((way) => {
      const at = run.heldout.filter((one) => one.way === way);
      const bound = (i) => at.map((one) => one.ledger.intervals.delta[i]);
      return at.length ? [{ name: MANY ? `${run.name}, ${way}` : way, x: at.map((one) => one.step), y: at.map((one) => one.ledger.delta), low: bound(0), high: bound(1), color: MANY ? `s${r % 6}` : colors[way], dash: way === 'greedy' ? 'dashed' : 'solid', dots: true }] : [];
    }),
  );
  return found.length > 0 && figure('Delta on held-out problems, on the way', 'With 95 % intervals.', lineChart({ series: found, format: percent, tick: (t) => percent(t, 0), xname: 'step', stages: MANY ? [] : RUNS[0].stages, about: 'Held-out delta over training steps' }));
}

function scalingFigures() {
  return ENTRIES.filter((one) => one.ledger.curves).map(({ label, ledger }) => {
    const side = (name, color, dash, of) => ({ name, x: of.map((p) => p.tokens), y: of.map((p) => p.accuracy), low: of.map((p) => p.interval[0]), high: of.map((p) => p.interval[1]), color, dash, dots: true });
    const { parallel, sequential, equal_tokens: equal } = ledger.curves;
    const last = equal.at(-1);
    const caption = `${label}: majority of 2K first attempts against majority of K corrected ones; each point doubles the samples.` + (last ? ` At ${number(last.tokens)} tokens, sequential is ${(100 * Math.abs(last.gain)).toFixed(1)} points ${last.gain < 0 ? 'behind' : 'ahead'}.` : '');
    return figure('The same tokens, spent in two ways', caption, lineChart({ series: [side('parallel', 's5', 'dashed', parallel), side('sequential', 's0', 'solid', sequential)], format: percent, tick: (t) => percent(t, 0), xname: 'tokens', log: true, zero: false, height: 280, about: 'Majority accuracy by sampled tokens' }));
  });
}

function samplesTable() {
  return ENTRIES.filter((one) => one.ledger.at_k).map(({ label, ledger }) => {
    const sides = Object.entries(ledger.at_k).filter(([, value]) => typeof value === 'object');
    const names = Object.keys(sides[0][1]);
    const cell = (f) => `${percent(f.value)} (${percent(f.interval[0])} to ${percent(f.interval[1])})`;
    return figure('Several samples', `${label}, ${ledger.at_k.k} conversations a problem.`, table(['', ...names], sides.map(([name, figures]) => [name.replace('t', 'attempt '), ...names.map((n) => cell(figures[n]))]), 'several samples'));
  });
}

function evaluationSection() {
  const edits = RUNS.flatMap((run) => Object.entries(run.edits).map(([name, found]) => ({ label: [MANY && run.name, name].filter(Boolean).join(': '), edits: found, name })));
  const wanted = edits.filter((one) => /^(base|final|evaluation)\/sampled$/.test(one.name));
  const shown = (wanted.length ? wanted : edits.filter((one) => !one.name.endsWith('/training'))).slice(0, 6);
  const tags = ENTRIES.filter((one) => one === best()).flatMap((one) => Object.entries(one.ledger.by || {}).map(([tag, parts]) => figure(`By ${tag}`, one.label, byTag(tag, parts))));
  return section(
    'evaluations',
    'Evaluations',
    'Shares of all conversations; fix and break rate of those that were wrong, and right, at first. Delta = fixed \u2212 broken.',
    ENTRIES.length && ledgers(ENTRIES),
    el('div', { class: 'grid' }, figure('How much is rewritten', 'Edit distance between first and last attempt over the length of both; a copy is 0.', editHistogram(shown)), heldoutChart(), ...scalingFigures()),
    ...samplesTable(),
    ...tags,
  );
}

function page() {
  const parts = [
    ENTRIES.length && overview(),
    evaluationSection(),
    RUNS.some((run) => run.steps) && alarmSection(),
    RUNS.some((run) => run.curves.step) && curveSection(),
    RUNS.some((run) => Object.keys(run.phases).length) &&
      section('time', 'Time', 'Where the seconds of training went; the first steps compile.', ...RUNS.filter((run) => Object.keys(run.phases).length).map((run) => figure(MANY && run.name, null, phases(run.phases)))),
    section('conversations', 'Conversations', 'As the model wrote them. Characters that would steer a screen are written out, like <U+202E>.', browser(RUNS)),
  ].filter(Boolean);
  const facts = RUNS.map((run) => el('div', { class: 'facts' }, MANY && el('b', {}, run.name), run.facts.map(([name, value]) => el('span', {}, `${name} `, el('b', {}, value)))));
  document.getElementById('top').append(el('h1', {}, RUNS.map((run) => run.name).join(' against ')), ...facts);
  const links = parts.map((part) => el('a', { href: `#${part.id}` }, part.querySelector('h2') && part.id !== 'overview' ? part.querySelector('h2').textContent : 'Overview'));
  document.getElementById('content').replaceChildren(el('nav', { 'aria-label': 'sections' }, links), ...parts);
  document.getElementById('end').append('Made by score_jax. This file holds all that it shows and loads nothing.');
}

page();
