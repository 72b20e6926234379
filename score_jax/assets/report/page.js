// The page: what it says first, then its sections, each from the embedded data.

const DATA = JSON.parse(document.getElementById('data').textContent);
const RUNS = DATA.runs;
const MANY = RUNS.length > 1;

// Every ledger with the words that name it, the most telling one first in `best`.
const ENTRIES = RUNS.flatMap((run, r) =>
  run.evaluations.map((one) => ({
    ...one,
    run,
    r,
    label: [MANY && run.name, one.name, one.decoding].filter(Boolean).join(', '),
  })),
);
const best = () =>
  ENTRIES.find((one) => one.name === 'final' && one.decoding === 'sampled') ||
  ENTRIES.findLast((one) => one.decoding === 'sampled') ||
  ENTRIES[0];

function overview() {
  const content = el('div', { 'aria-live': 'polite' });
  const show = (i) => content.replaceChildren(...story(ENTRIES[i]));
  const [field, select] = choice(
    'evaluation',
    ENTRIES.map((one, i) => [String(i), one.label]),
    (value) => show(Number(value)),
  );
  const first = ENTRIES.indexOf(best());
  select.value = String(first);
  show(first);
  return el('section', { id: 'overview', 'aria-label': 'overview' }, el('div', { class: 'controls' }, field), content);
}

function story({ ledger, label, run }) {
  const rate = (share) => (known(share) ? percent(share) : 'nothing');
  const [low, high] = ledger.intervals.delta;
  const right = accuracies(ledger);
  const verdict =
    low > 0
      ? 'Trying again helps.'
      : high < 0
        ? 'Trying again hurts.'
        : ledger.answer_changed < 0.02
          ? 'The second attempt repeats the first.'
          : 'Trying again makes no difference that shows.';
  const block = (value, name, kind) => el('div', {}, el('b', { class: kind }, value), el('span', {}, name));
  const sign = (text) => el('div', { class: 'sign', 'aria-hidden': 'true' }, text);
  return [
    el(
      'p',
      { class: 'headline' },
      `${verdict} `,
      el('span', { class: 'fixed' }, `${percent(ledger.i_to_c)} fixed`),
      ', ',
      el('span', { class: 'broken' }, `${percent(ledger.c_to_i)} broken`),
      '.',
    ),
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
      figure(
        'First attempt against last',
        `Of what was wrong, ${rate(ledger.fix_rate)} is fixed; of what was right, ${rate(ledger.break_rate)} is broken.`,
        matrix(ledger),
      ),
    ),
    run.alarms.length > 0 &&
      el(
        'p',
        { class: 'alarm' },
        'In training, ',
        el('a', { href: '#alarms' }, run.alarms.length === 1 ? 'an alarm' : 'alarms'),
        ` sounded: ${[...new Set(run.alarms.map((one) => one.name))].join(', ')}.`,
      ),
    ledger.errors > 0 &&
      el(
        'p',
        { class: 'small' },
        `${count(ledger.errors)} conversations could not be graded on this host and are left out.`,
      ),
  ].filter(Boolean);
}

function alarmSection() {
  const parts = RUNS.flatMap((run) => {
    const name = MANY ? [el('h3', {}, run.name)] : [];
    if (!run.steps) return [];
    if (!run.alarms.length)
      return [...name, el('p', { class: 'good' }, `No alarm sounded in ${count(run.steps)} steps.`)];
    return [...name, ...run.alarms.map(alarmBox)];
  });
  const watched = el(
    'details',
    {},
    el('summary', {}, 'What is watched for'),
    table(['alarm', 'sounds when'], RUNS[0].watched),
  );
  return section('alarms', 'Alarms', 'Ways to learn something other than correcting.', ...parts, watched);
}

function alarmBox(alarm) {
  const pairs = [
    ['sounded', alarm.first === alarm.last ? `at step ${alarm.first}` : `from step ${alarm.first} to ${alarm.last}`],
    ['likely', alarm.cause],
    ['turn', alarm.field],
  ];
  return el(
    'div',
    { class: 'alarm' },
    el('h3', {}, `${alarm.name}: ${alarm.message}`),
    el(
      'dl',
      {},
      pairs.map(([name, text]) => [el('dt', {}, name), el('dd', {}, text)]),
    ),
  );
}

function page() {
  const parts = [
    ENTRIES.length && overview(),
    evaluationSection(),
    RUNS.some((run) => run.steps) && alarmSection(),
    RUNS.some((run) => run.curves.step) && curveSection(),
    RUNS.some((run) => Object.keys(run.phases).length) &&
      section(
        'time',
        'Time',
        'Where the seconds of training went; the first steps compile.',
        ...RUNS.filter((run) => Object.keys(run.phases).length).map((run) =>
          figure(MANY && run.name, null, phases(run.phases)),
        ),
      ),
    section(
      'conversations',
      'Conversations',
      'As the model wrote them. Characters that would steer a screen are written out, like <U+202E>.',
      browser(RUNS),
    ),
  ].filter(Boolean);
  const facts = RUNS.map((run) =>
    el(
      'div',
      { class: 'facts' },
      MANY && el('b', {}, run.name),
      run.facts.map(([name, value]) => el('span', {}, `${name} `, el('b', {}, value))),
    ),
  );
  document.getElementById('top').append(el('h1', {}, RUNS.map((run) => run.name).join(' against ')), ...facts);
  const links = parts.map((part) =>
    el(
      'a',
      { href: `#${part.id}` },
      part.querySelector('h2') && part.id !== 'overview' ? part.querySelector('h2').textContent : 'Overview',
    ),
  );
  document.getElementById('content').replaceChildren(el('nav', { 'aria-label': 'sections' }, links), ...parts);
  document.getElementById('end').append('Made by score_jax. This file holds all that it shows and loads nothing.');
}

page();
