// Conversations, filtered by what became of the answer; `conversation.js` shows one.

const PAGE = 60;
function browser(runs) {
  const rows = runs.flatMap((run) =>
    run.conversations.rows.map((row) => ({ ...row, source: label(runs, run, row.source) })),
  );
  const counts = {};
  for (const run of runs)
    for (const [source, kinds] of Object.entries(run.conversations.counts)) counts[label(runs, run, source)] = kinds;
  const names = Object.keys(counts);
  if (!rows.length) return el('p', { class: 'quiet' }, 'No conversations were kept in this folder.');
  const state = {
    source: names.at(-1).endsWith('training') && names.length > 1 ? names.at(-2) : names.at(-1),
    kind: '',
    words: '',
    most: PAGE,
  };
  const [list, detail, chips] = [
    el('ul', { class: 'list', 'aria-label': 'conversations' }),
    el('div', { class: 'detail', 'aria-live': 'polite' }),
    el('div', { class: 'chips', role: 'group', 'aria-label': 'what became of the answer' }),
  ];
  const note = el('p', { class: 'small quiet', role: 'status' });
  const draw = () => {
    const chosen = rows.filter(
      (row) => row.source === state.source && (!state.kind || row.kind === state.kind) && matches(row, state.words),
    );
    drawChips(chips, counts[state.source], state, draw);
    const total = Object.entries(counts[state.source]).reduce(
      (sum, [kind, n]) => sum + (!state.kind || state.kind === kind ? n : 0),
      0,
    );
    note.replaceChildren(`${count(chosen.length)} of ${count(total)} conversations are in this file.`);
    const shared = commonStart(rows.filter((row) => row.source === state.source));
    drawList(list, detail, chosen, state, shared, draw);
  };
  const [field, select] = choice(
    'evaluation',
    names.map((name) => [name, name]),
    (value) => redraw({ source: value }),
  );
  const search = el('input', {
    type: 'search',
    placeholder: 'a word, a number, an id',
    oninput: (event) => redraw({ words: event.target.value.toLowerCase() }),
  });
  const redraw = (change) => {
    Object.assign(state, { most: PAGE }, change);
    draw();
  };
  select.value = state.source;
  draw();
  return [
    el('div', { class: 'controls' }, field, el('label', {}, 'find', search)),
    chips,
    note,
    el('div', { class: 'browser' }, list, detail),
  ];
}

const label = (runs, run, source) => (runs.length > 1 ? `${run.name}: ${source}` : source);

const matches = (row, words) =>
  !words ||
  [row.id, row.question, ...row.attempts.flatMap((a) => [a.text, a.answer])].some((text) =>
    text.toLowerCase().includes(words),
  );

function drawChips(chips, counts, state, draw) {
  const all = Object.values(counts).reduce((sum, n) => sum + n, 0);
  const chip = (kind, text) =>
    el(
      'button',
      {
        type: 'button',
        'data-kind': kind,
        'aria-pressed': state.kind === kind ? 'true' : 'false',
        onclick: () => {
          Object.assign(state, { kind, most: PAGE });
          draw();
          chips.querySelector(`[data-kind="${kind}"]`).focus();
        },
      },
      text,
    );
  const kinds = Object.entries(KINDS).filter(([kind]) => kind !== 'error' || counts.error);
  chips.replaceChildren(
    chip('', `all ${count(all)}`),
    ...kinds.map(([kind, { name, sign }]) => chip(kind, [`${sign} ${name} ${count(counts[kind])}`])),
  );
}

// How many letters all questions of an evaluation begin with, up to the last white space: they tell nothing apart.
function commonStart(rows) {
  const [first, ...others] = rows.map((row) => row.question);
  if (!others.length) return 0;
  let n = first.length;
  for (const other of others) while (!other.startsWith(first.slice(0, n))) n -= 1;
  return first.slice(0, n).search(/\S*$/);
}

function drawList(list, detail, chosen, state, shared, draw) {
  const buttons = chosen.slice(0, state.most).map((row) => {
    const button = el(
      'button',
      { type: 'button', onclick: () => open(button, row) },
      el(
        'b',
        {},
        el('i', { class: row.kind, 'aria-label': KINDS[row.kind].name }, KINDS[row.kind].sign),
        ` ${row.question.slice(shared).split('\n').find((line) => line.trim()) || row.id}`,
      ),
      el('span', {}, [row.step ? `step ${row.step}` : row.id, ...Object.values(row.tags)].join(', ')),
    );
    return button;
  });
  const open = (button, row) => {
    for (const other of buttons) other.removeAttribute('aria-current');
    button.setAttribute('aria-current', 'true');
    detail.replaceChildren(...conversation(row));
  };
  list.replaceChildren(...buttons.map((button) => el('li', {}, button)));
  if (chosen.length > state.most) {
    const more = () => {
      state.most += PAGE;
      draw();
    };
    list.append(
      el(
        'li',
        {},
        el('button', { type: 'button', onclick: more }, `show more (${count(chosen.length - state.most)} left)`),
      ),
    );
  }
  if (buttons.length) open(buttons[0], chosen[0]);
  else detail.replaceChildren(el('p', { class: 'quiet' }, 'None of these.'));
}
